"""What a column of a table is: a number, labels, or nothing that can be learnt, and why.

One rule, in this order. Levels of participants.json decide. Numbers with a unit, or with a quantity
in their name, are numbers. Codes, by a word in their name, are labels; so are up to ten whole
numbers from 0 or 1 without a gap. All other numbers are numbers; few words are labels.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metavoxel.data.names import CODES, QUANTITIES, unit_of, words_of
from metavoxel.data.sentinels import look_missing, sentinels
from metavoxel.data.tables import cell_number
from metavoxel.data.unusable import unusable
from metavoxel.schema import Categorical, Continuous
from metavoxel.words import described_as_missing, is_missing, key

FEW = 10  # this many whole numbers or fewer, in a column nothing describes, are labels
_ROOM = 0.1  # of its width, which a range leaves on either side for subjects who come later


@dataclass(frozen=True)
class Cell:
    """A cell that is not empty, with its place: `row` of a table; `subject` without sub-."""

    text: str
    row: int
    table: str
    subject: str


@dataclass(frozen=True)
class Column:
    """The cells of a column, n/a and the like included, and what the JSON file says of it."""

    name: str
    cells: tuple[Cell, ...]
    described: Mapping[str, Any]

    @property
    def unit(self) -> str | None:
        said = self.described.get("Units")
        if isinstance(said, str) and not is_missing(said):
            return said.strip()
        return unit_of(self.name)


@dataclass(frozen=True)
class Decision:
    """What a column is, or None, and why; `notes` say what else a reader must know."""

    kind: Continuous | Categorical | None
    reason: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Levels:
    """What Levels of a JSON file declare: labels in their order, and codes of a missing value."""

    labels: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def levels_of(described: Mapping[str, Any]) -> Levels:
    """The Levels of a column; a level that is described as missing is no label."""
    said = described.get("Levels")
    if isinstance(said, list):
        said = dict.fromkeys(map(str, said), "")
    if not isinstance(said, Mapping):
        return Levels()
    said = {word.strip(): text for word, text in said.items()}
    missing = [word for word, text in said.items() if described_as_missing(word, _text(text))]
    labels = tuple(word for word in said if word not in missing)
    taken = {key(label) for label in labels}  # 1 is a label though 1.0 be declared missing
    return Levels(labels, tuple(word for word in missing if key(word) not in taken))


def _text(description: object) -> str:
    """A level is described by words, or by an object that holds them."""
    if isinstance(description, Mapping):
        description = description.get("Description") or description.get("LongName") or ""
    return description if isinstance(description, str) else ""


def decide(column: Column) -> Decision:
    """What a column is."""
    levels = levels_of(column.described)
    declared = {key(word) for word in levels.missing}
    labels = {key(word) for word in levels.labels}
    cells = [
        cell
        for cell in column.cells
        if key(cell.text) in labels or not (key(cell.text) in declared or is_missing(cell.text))
    ]
    undeclared = _numbers([cell for cell in cells if key(cell.text) not in labels])
    found, notes = sentinels(undeclared, _numbers(cells))
    cells = [cell for cell in cells if key(cell.text) not in {key(word) for word in found}]
    missing = (*(w for w in levels.missing if not is_missing(w)), *found)
    decision = _decided(column, cells, levels.labels, missing)
    if decision.kind is not None:
        notes += look_missing(undeclared, _numbers(cells), isinstance(decision.kind, Categorical))
    return Decision(decision.kind, decision.reason, tuple(notes))


def _decided(
    column: Column, cells: Sequence[Cell], levels: Sequence[str], missing: tuple[str, ...]
) -> Decision:
    keys = Counter(key(cell.text) for cell in cells)
    if not keys:
        return Decision(None, "every cell is missing")
    if len(keys) == 1:
        return Decision(None, f'it is "{_sample(cells[0])}" for everyone')
    few_others = 2 * len(keys.keys() - {key(level) for level in levels}) <= len(keys)
    if len(levels) > 1 and few_others:
        kind = _categorical(levels, column, missing)
        return Decision(kind, _with_missing("labels: its Levels list them", missing))
    numbers = _numbers(cells)
    if len(numbers) == len(cells) and min(numbers) == max(numbers):
        return Decision(None, f'its numbers are too near to "{_sample(cells[0])}" to tell apart')
    mostly_numbers = len(numbers) > len(cells) / 2  # a typo must not make a column vanish
    reason = unusable(column, cells, numbers)
    if reason is not None:
        return Decision(None, reason)
    if not mostly_numbers:
        return _words(column, cells, missing)
    is_number, why = _rule(column, numbers, len(numbers) == len(cells))
    if is_number:
        span = None if min(numbers) == max(numbers) else roomy(min(numbers), max(numbers))
        kind = Continuous(unit=column.unit, range=span, missing=missing)
        return Decision(kind, _with_missing(f"a number: {why}", missing))
    codes = _spellings(cells)
    if _too_many(codes, column, cells):
        return _names(codes, cells)
    ordered = sorted(codes, key=lambda text: (cell_number(text) is None, cell_number(text), text))
    kind = _categorical(ordered, column, missing)
    return Decision(kind, _with_missing(f"labels: {why}", missing))


def _rule(column: Column, numbers: Sequence[float], all_numbers: bool) -> tuple[bool, str]:
    """Whether numbers are a number, and why."""
    names = words_of(column.name)
    if column.unit is not None:
        return True, f"its unit is {column.unit}"
    quantity = next((word for word in names if word in QUANTITIES), None)
    if quantity is not None:
        return True, f'"{quantity}" is in its name'
    values = sorted({*numbers})
    if any(not x.is_integer() for x in values):
        return True, "not all of it is whole"
    code = next((word for word in names if word in CODES), None)
    if code is not None:
        return False, f'"{code}" is in its name'
    counted = len(values) <= FEW and values[0] in (0, 1)
    if all_numbers and counted and values[-1] - values[0] == len(values) - 1:
        return False, f"{len(values)} whole numbers from {values[0]:g} without a gap"
    return True, "more than ten whole numbers" if len(values) > FEW else "no codes 0 or 1, 2, 3 ..."


def _words(column: Column, cells: Sequence[Cell], missing: tuple[str, ...]) -> Decision:
    labels = _spellings(cells)
    each_its_own = len(labels) == len(cells) > 3
    if each_its_own or _too_many(labels, column, cells):
        return _names(labels, cells)
    kind = _categorical(sorted(labels), column, missing)
    return Decision(kind, _with_missing(f"labels: {len(labels)} different words", missing))


def _too_many(labels: Sequence[str], column: Column, cells: Sequence[Cell]) -> bool:
    """Whether so many differ that they are no labels; more may, where the name says codes."""
    coded = bool({*words_of(column.name)} & CODES)
    return len(labels) > max(FEW, len(cells) // (2 if coded else 10))


def _names(labels: Sequence[str], cells: Sequence[Cell]) -> Decision:
    return Decision(
        None,
        f"free text, or a name for each: {len(labels)} different entries in {len(cells)} cells, "
        f'such as "{_sample(cells[0])}" (row {cells[0].row})',
    )


def _categorical(labels: Sequence[str], column: Column, missing: tuple[str, ...]) -> Categorical:
    said = str(column.described.get("Description", "")).lower()
    ordered = re.search(r"(?<!not )\bordered\b", said) is not None
    coded = {*words_of(column.name)} & CODES or re.search(r"\bunordered\b|\bnot ordered\b", said)
    steps = len(labels) > 2 and all(cell_number(label) is not None for label in labels)
    return Categorical(
        labels=tuple(labels), ordered=ordered or (steps and not coded), missing=missing
    )


def _spellings(cells: Sequence[Cell]) -> list[str]:
    """A spelling for each label: the most frequent, of several the first in order."""
    counts = Counter(cell.text for cell in cells)
    kept: dict[object, str] = {}
    for text in sorted(counts, key=lambda text: (-counts[text], text)):
        kept.setdefault(key(text), text)
    return list(kept.values())


def _numbers(cells: Sequence[Cell]) -> list[float]:
    return [x for cell in cells if (x := cell_number(cell.text)) is not None]


def roomy(low: float, high: float) -> tuple[float, float]:
    """A range with room for subjects who come later, in round numbers.

    It does not cross 0 where the numbers do not.
    """
    room = _ROOM * (high - low)
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    below = math.floor((low - room) / step) * step
    above = math.ceil((high + room) / step) * step
    digits = max(0, 1 - math.floor(math.log10(step)))
    below = max(below, 0.0) if low >= 0 else below
    above = min(above, 0.0) if high <= 0 else above
    return round(below, digits), round(above, digits)


def _with_missing(reason: str, missing: Sequence[str]) -> str:
    return f"{reason}; {', '.join(missing)} taken for missing" if missing else reason


def _sample(cell: Cell) -> str:
    text = " ".join(cell.text.split())
    return text if len(text) <= 40 else f"{text[:40]}..."
