"""Why a column cannot be used, with one of its cells, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from metavoxel.data.names import CODES, QUANTITIES, is_id, words_of
from metavoxel.data.tables import cell_number

if TYPE_CHECKING:
    from metavoxel.data.kinds import Cell, Column

_LONG = 5  # digits of a number that may be an identifier
_ENOUGH = 6  # subjects of whom it is no chance that long numbers are in step with them
_N = r"[+-]?[0-9]+(?:\.[0-9]+)?"
_DATE = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
_LEAST = 3  # subjects of whom it is no chance that a cell holds their label


@dataclass(frozen=True)
class _Way:
    """A way of writing cells that are no numbers, and what is to be said of it."""

    cells: re.Pattern[str]
    what: str
    mend: str
    labels: bool = False  # whether a few of them may be labels, as 1.5T and 3T


_WAYS = (
    _Way(
        re.compile(r"[−–﹣－][0-9]+(?:\.[0-9]+)?"),
        "its numbers have a typographic minus sign",
        "Write them with a hyphen (-)",
    ),
    _Way(
        re.compile(r"[+-]?[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?"),  # of those that are no numbers
        "its numbers are too large (3e38 is the most)",
        "Write them in another unit",
    ),
    _Way(
        re.compile(r"[+-]?[0-9]{1,6},[0-9]{1,6}"),
        "its numbers have decimal commas",
        "Write them with a point",
    ),
    _Way(
        re.compile(
            r"(?:19|20)[0-9]{2}[-/._][0-9]{1,2}(?:[-/._][0-9]{1,2})?(?:[T ].*)?"
            r"|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:[0-9]{2}|[0-9]{4})(?: .*)?"
            r"|[0-9]{1,2}:[0-9]{2}(?::[0-9.]+)?"
        ),
        "it holds dates or times",
        "Write a number, such as the age in years or the days since the first visit",
    ),
    _Way(
        re.compile(rf"{_N} ?(?:-|–|—|to|\.\.) ?{_N}"),
        "it holds bands, not numbers",
        "Write a number each, or name the bands by Levels in participants.json to have labels",
    ),
    _Way(
        re.compile(r"[\[({].*[\])}]|[^,;|]*[0-9][^,;|]*(?:[,;|][^,;|]*[0-9][^,;|]*)+"),
        "it holds lists",
        "Write one value a cell; what is measured at several visits stands in sub-XX_sessions.tsv",
    ),
    _Way(
        re.compile(rf"[<>≤≥~=]+ ?{_N}"),
        "its numbers have signs such as < or >",
        "Write numbers alone, or 89+ for 89 or more",
        labels=True,
    ),
    _Way(
        re.compile(rf"{_N} ?(?:[A-Za-zµ%°]{{1,8}}|[A-Za-z]+/[A-Za-z0-9^]+)\.?"),
        "its numbers have units behind them",
        "Write numbers alone, and the unit under Units in participants.json",
        labels=True,
    ),
)


def unusable(column: Column, cells: Sequence[Cell], numbers: Sequence[float]) -> str | None:
    """Why nothing can be learnt of a column whose Levels do not list it; None if something can.

    `cells` are those that are not missing, `numbers` what those of them say that are numbers.
    """
    names = {*words_of(column.name)}
    if is_id(column.name):
        return (
            f"it is an identifier: its name ends in id (row {cells[0].row} says {_quoted(cells)})"
        )
    measured = column.unit is not None or bool(names & QUANTITIES)
    if len(cells) >= _LEAST and not measured and all(_holds_label(cell) for cell in cells):
        return f"it is an identifier: every cell holds its participant's label, as {_quoted(cells)}"
    if numbers and len(numbers) == len(cells):
        return _counted_up(cells, numbers, measured)
    if len(numbers) > len(cells) / 2 or (names & CODES and not names & QUANTITIES):
        return None
    few = 2 * len({cell.text for cell in cells}) <= len(cells)
    words = [cell for cell in cells if cell_number(cell.text) is None]
    for way in _WAYS:
        if way.labels and few:
            continue
        fitting = [cell for cell in words if way.cells.fullmatch(cell.text)]
        if 2 * (len(fitting) + len(numbers)) > len(cells) and 4 * len(fitting) >= len(cells):
            return f"{way.what}, such as {_quoted(fitting)} (row {fitting[0].row}). {way.mend}"
    return None


def _counted_up(cells: Sequence[Cell], numbers: Sequence[float], measured: bool) -> str | None:
    """Why whole numbers are no quantity: dates without a sign between, or codes of the subjects."""
    if all(_DATE.fullmatch(cell.text) for cell in cells):
        return (
            f"it holds dates, such as {_quoted(cells)} (row {cells[0].row}). Write a number, such "
            "as the age in years"
        )
    if measured or len(cells) < _ENOUGH:
        return None
    ordered = [x for _, x in sorted(zip((c.subject for c in cells), numbers, strict=True))]
    steps = [b - a for a, b in pairwise(ordered)]
    long = all(x.is_integer() and abs(x) >= 10 ** (_LONG - 1) for x in numbers)
    if long and (min(steps) > 0 or max(steps) < 0):
        return (
            f"it is an identifier: long numbers in step with the participants, such as "
            f"{_quoted(cells)} (row {cells[0].row})"
        )
    return None


def _holds_label(cell: Cell) -> bool:
    label, text = cell.subject.casefold(), cell.text.casefold()
    if len(label) >= 4 and label in text:
        return True
    number = cell_number(text)
    if number is not None:
        return number == cell_number(label)
    return re.search(rf"(?<![a-z0-9]){re.escape(label)}(?![a-z0-9])", text) is not None


def _quoted(cells: Sequence[Cell]) -> str:
    text = " ".join(cells[0].text.split())
    return f'"{text}"' if len(text) <= 40 else f'"{text[:40]}..."'
