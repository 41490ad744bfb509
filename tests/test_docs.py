"""What the documentation shows is there: links, commands, questions, code, configurations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

from metavoxel.cli import app
from metavoxel.inference.query import parse_query
from metavoxel.schema import parse_schema
from metavoxel.training.config import read_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "llms.txt", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "src/metavoxel/demo/demo.yaml"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # of several, a group

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^ {4,}(?:srun )?|`)(metavoxel [^`\n]+)", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of a page in one language."""
    return [code for kind, code in _FENCE.findall(page.read_text()) if kind == language]


def shown_commands(page: Path) -> list[str]:
    """Every command line of ours on a page, in an indented block or in backticks."""
    return [line.strip() for line in _COMMAND.findall(page.read_text())]


def options(name: str) -> dict[str, list[str]]:
    """The options of a command with all their spellings, by the first of them."""
    chosen = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    return {p.opts[0]: p.opts for p in chosen}


def complaint(line: str) -> str | None:
    """What is wrong with a command line: an unknown command or option."""
    name = line.split()[1]
    if name == "COMMAND":  # the pages' word for any of them
        return None
    if name not in COMMANDS:
        return f"there is no command {name}"
    known = {spelling for each in options(name).values() for spelling in each}
    unknown = set(_OPTION.findall(line)) - known - {"--help"}
    return f"{name} has no {', '.join(sorted(unknown))}" if unknown else None


@every_page
def test_every_relative_link_leads_somewhere(page: Path):
    targets = [t.partition("#")[0] for t in _LINK.findall(page.read_text()) if "://" not in t]
    missing = [t for t in targets if t and not (page.parent / t).exists()]
    assert not missing


@every_page
def test_every_command_shown_is_one(page: Path):
    assert [c for c in map(complaint, shown_commands(page)) if c] == []


@every_page
def test_every_question_shown_can_be_read(page: Path):
    for line in shown_commands(page):
        if line.startswith("metavoxel ask") and (quoted := re.search(r'"(.*)"', line)):
            parse_query(quoted[1])


@every_page
def test_every_python_block_compiles(page: Path):
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


@every_page
def test_every_schema_shown_is_one(page: Path):
    for code in blocks(page, "yaml"):
        parse_schema(yaml.safe_load(code)["schema"], str(page))


def test_the_page_of_commands_has_every_command_and_option():
    text = (ROOT / "docs/reference/cli.md").read_text()
    rows = {row.split()[2]: row for row in text.splitlines() if row.startswith("| `metavoxel ")}
    names = {
        name.strip("`"): set(_OPTION.findall(row.replace("`", " "))) for name, row in rows.items()
    }
    assert names == {name: set(options(name)) for name in COMMANDS}


def test_the_make_targets_of_the_readme_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = re.findall(r"^ {4}make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown and set(shown) <= set(targets)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_configuration_parses(path: Path):
    read_config(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("metavoxel predict MODEL", "there is no command predict"),
        ('metavoxel ask MODEL "age" --draws 3', "ask has no --draws"),
        ('metavoxel ask MODEL "age" --samples 3 --json', None),
    ],
)
def test_a_wrong_command_line_would_be_found(line: str, why: str | None):
    assert complaint(line) == why
