"""A first schema from a BIDS folder, for a person to edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metavoxel.data.bids import tables_of
from metavoxel.data.grids import infer_images
from metavoxel.data.kinds import Cell, Column, Decision, decide
from metavoxel.data.names import twins, variable_name, visit_stem
from metavoxel.data.visits import Tables
from metavoxel.schema import Categorical, Continuous, Schema


@dataclass(frozen=True)
class Inferred:
    """A schema, why each variable is what it is, and what was left out or is to be looked at."""

    schema: Schema
    reasons: Mapping[str, str]
    notes: tuple[str, ...]


def infer_schema(
    root: Path, resolution: float | None = None, warn: Callable[[str], None] = lambda _: None
) -> Schema:
    """The variables of a BIDS folder; `warn` is told of each note, in a sentence. See `infer`."""
    inferred = infer(root, resolution)
    for note in inferred.notes:
        warn(note)
    return inferred.schema


def infer(root: Path, resolution: float | None = None) -> Inferred:
    """The variables of a BIDS folder: images by suffix, one scalar per column.

    Columns of participants.tsv and of sub-XX_sessions.tsv become what `kinds.decide` says; those of
    which nothing can be learnt are left out. One grid covers the first scans of every image, at
    their finest spacing or at `resolution` millimetres. Raises MetaVoxelError.
    """
    root = Path(root)
    tables = tables_of(root)
    images, notes = infer_images(root, resolution)
    if len(images) == 1 and "image" not in tables.columns:
        images = {"image": next(iter(images.values()))}
    scalars: dict[str, Continuous | Categorical] = {}
    reasons: dict[str, str] = {}
    columns = {name: _column(tables, name) for name in tables.columns}
    decided = {name: decide(column) for name, column in columns.items()}
    for column, decision in decided.items():
        notes += [f'{tables.path}, column "{column}": {note}' for note in decision.notes]
        if decision.kind is None:
            where = _where(columns[column], tables)
            notes.append(f'{where}, column "{column}" is left out: {decision.reason}.')
            continue
        # A column that needs another name must not take that of a column which has one already.
        others = {name for name in tables.columns if name != column}
        name = variable_name(column, {*images, *scalars, *others})
        renamed = {} if name == column else {"column": column}
        scalars[name] = decision.kind.model_copy(update=renamed)
        reasons[name] = decision.reason
    notes += _waves(tables, decided)
    return Inferred(Schema(variables={**images, **scalars}), reasons, tuple(notes))


def _column(tables: Tables, name: str) -> Column:
    described = _description(tables, name)
    cells = tuple(
        Cell(text, line.row.number, str(line.table.path), line.subject.removeprefix("sub-"))
        for line, text in tables.cells(name)
    )
    return Column(name, cells, described if isinstance(described, Mapping) else {})


def _description(tables: Tables, name: str) -> Any:
    """What the JSON file says of a column: under its name, else under one that is the same but for
    its case."""
    if name in tables.described:
        return tables.described[name]
    said = [k for k in twins(name, tables.described) if k not in tables.columns]
    return tables.described[said[0]] if len(said) == 1 else None


def _where(column: Column, tables: Tables) -> str:
    """The table of a column's first cell, which a sample is taken from."""
    return column.cells[0].table if column.cells else str(tables.path)


def _waves(tables: Tables, decided: Mapping[str, Decision]) -> list[str]:
    """A note for columns that look like one measurement at several visits."""
    by_stem: dict[str, list[str]] = {}
    for column, decision in decided.items():
        stem = visit_stem(column)
        if stem is not None and isinstance(decision.kind, Continuous):
            by_stem.setdefault(stem, []).append(column)
    return [
        f"{tables.path}: the columns {', '.join(columns)} look like visits. They are kept as "
        f"separate variables; for one variable at several visits, write {stem} into "
        "sub-XX/sub-XX_sessions.tsv, a row per visit."
        for stem, columns in by_stem.items()
        if len(columns) > 1
    ]
