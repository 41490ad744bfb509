"""A column of the tables by subject, whether or not it is a variable of the model."""

from __future__ import annotations

from pathlib import Path

from metavoxel.data.bids import tables_of
from metavoxel.errors import MetaVoxelError
from metavoxel.words import is_missing


def subject_column(root: Path, column: str) -> dict[str, str]:
    """What a column says of every subject who has a value.

    Raises MetaVoxelError if there is no such column, or if it says two things of one subject.
    """
    tables = tables_of(Path(root))
    if column not in tables.columns:
        tables.check_here()
        raise MetaVoxelError(
            f'{tables.path}: there is no column "{column}"; the columns are '
            f"{', '.join(tables.columns) or 'none'}. Name one of them."
        )
    out: dict[str, str] = {}
    for line, cell in tables.cells(column):
        value = cell.strip()
        if is_missing(value):
            continue
        if out.setdefault(line.subject, value) != value:
            raise MetaVoxelError(
                f'{line.table.path}, row {line.row.number}, column "{column}": {line.subject} is '
                f'"{value}" here and "{out[line.subject]}" before. Give a subject one value.'
            )
    return out
