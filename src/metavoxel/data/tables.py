"""Tables of BIDS: text cells with their place, so that errors can name it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object
from metavoxel.files.table import read_lines
from metavoxel.files.wall import is_dead_link
from metavoxel.schema import NotInSchemaError, Number, Scalar
from metavoxel.words import is_missing, number

_AT_LEAST = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\+$")  # 89+ is how some cohorts write 89 or more


@dataclass(frozen=True)
class Row:
    """One row: its number in the file (the header is row 1) and its cells by column."""

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A BIDS table: `columns` in order, `rows` in order, `described` from the JSON beside it.

    `notes` say what of the file was passed over.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    described: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadCell:
    """A cell that a schema cannot take; `sentence` says where it is, and what to do.

    `beyond` if it can be read, and the schema does not have its value.
    """

    sentence: str
    beyond: bool


def read_table(path: Path, key: str = "participant_id") -> Table:
    """Read a .tsv and the .json of the same name; a row for each value of the column `key`.

    Raises MetaVoxelError naming file and row.
    """
    table = read_rows(path, key)
    check_once(table, (key,))
    return table


def read_rows(path: Path, key: str = "participant_id") -> Table:
    """The same of a table in which a value of `key` may stand in several rows.

    A row without it, or a second header, is passed over, which the notes say; so are columns
    without a name. The case of `key` does not count, nor do quotes around a cell.
    """
    if not stands(path):
        raise MetaVoxelError(f"{path}: there is no such file; a BIDS dataset has one.")
    first, *lines = ([_unquoted(cell) for cell in line] for line in read_lines(path))
    header = _with_key(first, key)
    columns = _named_columns(path, header, key)
    rows, notes, nameless, unnamed = [], [], [], 0
    for at, line in enumerate(lines, start=2):
        if not any(line):
            continue
        cells = _cells(path, at, header, line)
        unnamed += any(cell for name, cell in zip(header, line, strict=False) if not name)
        no_row = is_missing(cells[key]) or cells[key].casefold() == key  # a second header
        (nameless if no_row else rows).append(Row(at, cells))
    if nameless:
        at = nameless[0].number
        left = "a row without" if len(nameless) == 1 else f"{len(nameless)} rows without"
        notes.append(
            f"{path}, row {at}: {left} {key} left out (it says {_first_filled(nameless[0])})."
        )
    if unnamed:
        notes.append(f"{path}, row 1: a column has no name and is left out. Name it in the header.")
    return Table(path, columns, tuple(rows), _described(path.with_suffix(".json")), tuple(notes))


def check_once(table: Table, keys: Sequence[str]) -> None:
    """Refuse a table in which two rows say the same of `keys`. Raises MetaVoxelError."""
    seen: dict[tuple[str, ...], int] = {}
    for row in table.rows:
        what = tuple(row.cells[key] for key in keys)
        if what in seen:
            raise MetaVoxelError(
                f'{table.path}, row {row.number}, column "{keys[0]}": "{" ".join(what)}" stands in '
                f"row {seen[what]} already. Keep one row for each."
            )
        seen[what] = row.number


def parse_cell(table: Table, row: Row, column: str, kind: Scalar) -> float | str:
    """The value of a cell that is not missing. Raises MetaVoxelError naming file, row, column."""
    value = value_of(table, row, column, kind)
    if isinstance(value, BadCell):
        raise MetaVoxelError(value.sentence)
    return value


def value_of(table: Table, row: Row, column: str, kind: Scalar) -> float | str | BadCell:
    """The value of a cell that is not missing, or what is wrong with it."""
    cell = row.cells[column]
    try:
        return kind.parse(at_least(cell)[0] if isinstance(kind, Number) else cell)
    except ValueError as error:
        place = f'{table.path}, row {row.number}, column "{column}"'
        beyond = isinstance(error, NotInSchemaError)
        return BadCell(f"{place}: {error}{'' if beyond else ', or n/a if it is unknown'}.", beyond)


def at_least(cell: str) -> tuple[str, bool]:
    """ "89+" -> ("89", True): a value cut off at the top; anything else as it is."""
    match = _AT_LEAST.match(cell)
    return (match[1], True) if match else (cell, False)


def cell_number(cell: str) -> float | None:
    """The number that a cell holds, 89 where it says 89+, or None."""
    return number(at_least(cell)[0])


def stands(path: Path) -> bool:
    """Whether a file is there, or a link to one that is not: reading it will say so."""
    return path.is_file() or is_dead_link(path)


def _unquoted(cell: str) -> str:
    """A cell without the quotes that R and spreadsheets write around text."""
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1]
    return cell[1:-1].strip() if quoted else cell


def _with_key(header: Sequence[str], key: str) -> Sequence[str]:
    """The header with `key` as it is written here, where one column has it in another case."""
    same = [name for name in header if name.casefold() == key]
    return [key if name in same else name for name in header] if len(same) == 1 else header


def _named_columns(path: Path, header: Sequence[str], key: str) -> tuple[str, ...]:
    columns = tuple(name for name in header if name)
    if key not in columns:
        found = f" The columns are {', '.join(columns[:20])}." if len(columns) > 1 else ""
        raise MetaVoxelError(
            f'{path}, row 1: there is no column "{key}". Write a header row, with tabs between '
            f"columns.{found}"
        )
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise MetaVoxelError(f'{path}, row 1: column "{twice[0]}" stands twice. Rename one.')
    return columns


def _cells(path: Path, at: int, header: Sequence[str], line: Sequence[str]) -> Mapping[str, str]:
    if len(line) < len(header) or any(line[len(header) :]):
        raise MetaVoxelError(
            f"{path}, row {at}: {len(line)} cells where the header has {len(header)}. "
            "Separate cells with tabs and write n/a where a value is missing."
        )
    return {name: cell for name, cell in zip(header, line, strict=False) if name}


def _first_filled(row: Row) -> str:
    return next((f'"{cell[:40]}"' for cell in row.cells.values() if not is_missing(cell)), "n/a")


def _described(path: Path) -> Mapping[str, Any]:
    """What a JSON file says of the columns; nothing where there is none."""
    return read_object(path) if stands(path) else {}
