"""Each source file with logic has its test file, or a line in tests/README.md that says where."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src" / "metavoxel", ROOT / "tests"
LINES = 30  # a shorter module has little logic of its own

_ROW = re.compile(r"^\| `([\w/]+\.py)` \| (.+) \|$", re.MULTILINE)


def modules() -> set[str]:
    """Source files such as data/bids.py that are longer than LINES."""
    found = (p for p in SOURCE.rglob("*.py") if len(p.read_text().splitlines()) > LINES)
    return {p.relative_to(SOURCE).as_posix() for p in found}


def elsewhere() -> dict[str, list[str]]:
    """Test files by source file: what the page says."""
    rows = _ROW.findall((TESTS / "README.md").read_text())
    return {source: re.findall(r"`([\w/]+\.py)`", tests) for source, tests in rows}


def own_test(module: str) -> Path:
    path = TESTS / module
    return path.with_name(f"test_{path.name}")


@cache
def imported(path: Path) -> frozenset[Path]:
    """The source files and test helpers that a file imports, or runs as a command."""
    text, found = path.read_text(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    if '"-m", "metavoxel"' in text:
        found.add("metavoxel.cli")
    places = [ROOT / "src", TESTS, path.parent, path.parent.parent]  # helpers lie beside or above
    stems = [place / name.replace(".", "/") for name in found for place in places]
    files = [stem.with_suffix(".py") for stem in stems] + [stem / "__init__.py" for stem in stems]
    return frozenset(file for file in files if file.is_file())


def reached(test: Path) -> set[Path]:
    """All files that a test imports, directly or through others."""
    seen, left = set(), [test]
    while left:
        path = left.pop()
        if path not in seen:
            seen.add(path)
            left += imported(path)
    return seen


def test_each_source_file_has_its_test_file_or_a_line_that_says_where() -> None:
    assert sorted(m for m in modules() - elsewhere().keys() if not own_test(m).exists()) == []


def test_the_page_names_what_is_there_and_has_no_test_file_of_its_own() -> None:
    page = elsewhere()
    assert len(page) > 10  # the table is read
    assert sorted(m for m in page if not (SOURCE / m).exists() or own_test(m).exists()) == []
    assert sorted(t for tests in page.values() for t in tests if not (TESTS / t).exists()) == []


def test_a_test_file_that_the_page_names_reaches_the_source_file() -> None:
    astray = [
        (module, test)
        for module, tests in elsewhere().items()
        for test in tests
        if SOURCE / module not in reached(TESTS / test)
    ]
    assert astray == []


def test_what_a_test_file_does_not_import_it_does_not_reach() -> None:
    found = reached(TESTS / "test_words.py")
    assert SOURCE / "words.py" in found
    assert SOURCE / "model.py" not in found
