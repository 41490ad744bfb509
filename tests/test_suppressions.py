"""No word to a type checker or a linter without its reason beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [p for part in ("src", "tests", "benchmarks") for p in sorted((ROOT / part).rglob("*.py"))]

_WORD = re.compile(r"#\s*(type:\s*ignore|pyright:|noqa|ruff:|fmt:\s*(off|skip)|pragma:)")
# Which rule, then the reason: "noqa: PTH208 - names alone".
_REASONED = re.compile(
    r"#\s*((type:\s*ignore|pyright:\s*ignore)\[[\w,\s-]+\]|noqa:\s*[A-Z]+\d+)\s+(#|-)\s+\w+.*\w"
)
_LAYOUT = re.compile(r"#\s*fmt:\s*skip$")  # the formatter's: what it lays out is plain to see


def without_reason(line: str) -> bool:
    found = _WORD.search(line)
    if found is None:
        return False
    rest = line[found.start() :]
    return not (_REASONED.match(rest) or _LAYOUT.match(rest))


def test_a_suppression_says_why() -> None:
    found = [
        f"{path.relative_to(ROOT)}, line {n}: {line.strip()}"
        for path in FILES
        for n, line in enumerate(path.read_text().splitlines(), 1)
        if without_reason(line)
    ]
    assert not found, "\n".join(found)


# Put together, so that no tool takes them for suppressions of this file.
NOQA, IGNORE, PYRIGHT = "# " + "noqa", "# " + "type: ignore", "# " + "pyright: ignore"


@pytest.mark.parametrize(
    "words", [NOQA, f"{NOQA}: E731", IGNORE, f"{IGNORE}[misc]", PYRIGHT, f"{IGNORE}  # a reason",
              f"{IGNORE}[misc]  #", f"{NOQA}: F401 -", "# " + "ruff: noqa"]
)  # fmt: skip
def test_one_that_does_not_is_found(words: str) -> None:
    assert without_reason(f"x = 1  {words}")


@pytest.mark.parametrize(
    "words", [f"{NOQA}: F401 - it quiets Lightning", f"{IGNORE}[misc]  # the stub lacks it",
              f"{PYRIGHT}[reportCallIssue]  # the stub lacks it", "# a sentence", ""]
)  # fmt: skip
def test_one_that_does_is_not(words: str) -> None:
    assert not without_reason(f"x = 1  {words}")
