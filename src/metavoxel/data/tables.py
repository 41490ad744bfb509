"""participants.tsv and its relatives: text cells with their place, so that errors can name it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Categorical, Continuous

MISSING = ("n/a", "")
_AT_LEAST = re.compile(r"^(\d+(?:\.\d+)?)\+$")  # 89+ is how some cohorts write 89 or more


@dataclass(frozen=True)
class Row:
    """One row: its number in the file (the header is row 1) and its cells by column."""

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A BIDS table: `columns` in order, `rows` in order, `described` from the JSON beside it."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    described: Mapping[str, Any]

    def known(self, column: str) -> Iterator[tuple[Row, str]]:
        """The rows whose cell is not missing, with the cell."""
        for row in self.rows:
            cell = row.cells[column]
            if cell not in MISSING:
                yield row, cell


def read_table(path: Path, key: str = "participant_id") -> Table:
    """Read a .tsv and the .json of the same name. Raises MetaVoxelError naming file and row."""
    if not path.is_file():
        raise MetaVoxelError(f"{path}: there is no such file; a BIDS dataset has one.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # BIDS knows no quoting: a lone " must not swallow the rows after it.
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            lines = [[cell.strip() for cell in line] for line in reader]
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise MetaVoxelError(f"{path}: cannot be read ({error}). Save it as UTF-8 text.") from None
    if not lines or key not in lines[0]:
        raise MetaVoxelError(
            f'{path}, row 1: there is no column "{key}". Write a header row, tabs between columns.'
        )
    columns = tuple(lines[0])
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise MetaVoxelError(f'{path}, row 1: column "{twice}" stands twice. Rename one.')
    rows, seen = [], {}
    for number, line in enumerate(lines[1:], start=2):
        if not any(line):
            continue
        if len(line) != len(columns):
            raise MetaVoxelError(
                f"{path}, row {number}: {len(line)} cells where the header has {len(columns)}. "
                "Separate cells with tabs and write n/a where a value is missing."
            )
        row = Row(number, dict(zip(columns, line, strict=True)))
        if row.cells[key] in MISSING:
            raise MetaVoxelError(
                f'{path}, row {number}, column "{key}": it is empty. Write a name.'
            )
        if row.cells[key] in seen:
            raise MetaVoxelError(
                f'{path}, row {number}, column "{key}": "{row.cells[key]}" stands in row '
                f"{seen[row.cells[key]]} already. Keep one row for each."
            )
        seen[row.cells[key]] = number
        rows.append(row)
    return Table(path, columns, tuple(rows), _described(path.with_suffix(".json")))


def parse_cell(table: Table, row: Row, column: str, kind: Continuous | Categorical) -> float | str:
    """The value of a cell that is not missing. Raises MetaVoxelError naming file, row, column."""
    cell = row.cells[column]
    try:
        return kind.parse(at_least(cell)[0] if isinstance(kind, Continuous) else cell)
    except ValueError as error:
        raise MetaVoxelError(
            f'{table.path}, row {row.number}, column "{column}": {error}.'
        ) from None


def at_least(cell: str) -> tuple[str, bool]:
    """ "89+" -> ("89", True): a value cut off at the top; anything else as it is."""
    match = _AT_LEAST.match(cell)
    return (match[1], True) if match else (cell, False)


def _described(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MetaVoxelError(f"{path}: this is not valid JSON ({error}). Correct it.") from None
    if not isinstance(data, dict):
        raise MetaVoxelError(f"{path}: a JSON object with a key per column is expected.")
    return data
