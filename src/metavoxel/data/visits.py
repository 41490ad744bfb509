"""What the tables of a dataset say, of every subject and of every visit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from metavoxel.data.names import twins
from metavoxel.data.tables import BadCell, Row, Table, read_rows, read_table, stands, value_of
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object
from metavoxel.schema import Schema
from metavoxel.words import is_missing

Visit = tuple[str, str | None]  # subject and session
Values = dict[str, float | str]
_SESSION = "session_id"
_SESSION_COLUMNS = (_SESSION, "session", "ses")  # the others only where subjects have several rows
_NAMED = 20  # of many columns, these are named


@dataclass(frozen=True)
class Line:
    """A row of a table, and whose it is; `session` is None where it is about the subject."""

    subject: str
    session: str | None
    table: Table
    row: Row

    @property
    def visit(self) -> Visit:
        return self.subject, self.session


@dataclass(frozen=True)
class Tables:
    """participants.tsv, and sub-XX_sessions.tsv of every subject: what later lines say goes before
    what earlier ones say of the same visit."""

    participants: Table
    lines: tuple[Line, ...]
    described: Mapping[str, Any]
    keys: frozenset[str]  # columns that say whose a line is
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.participants.path

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that describe a subject or a visit, in order."""
        tables = {id(line.table): line.table for line in self.lines}
        found = dict.fromkeys(self.participants.columns)
        for table in tables.values():
            found |= dict.fromkeys(table.columns)
        return tuple(column for column in found if column not in self.keys)

    def cells(self, column: str) -> Iterator[tuple[Line, str]]:
        """Every cell of a column, in whichever table it stands."""
        for line in self.lines:
            if column in line.row.cells:
                yield line, line.row.cells[column]

    def absent(self, schema: Schema) -> list[str]:
        """A sentence for every scalar of a schema whose column nobody has."""
        sentences = []
        for v, kind in schema.scalars.items():
            column = kind.column or v
            if column in self.columns:
                continue
            named = "" if kind.column is None else f', which the schema names for "{v}"'
            same = twins(column, self.columns)
            listed = ", ".join(self.columns[:_NAMED]) or "none"
            more = ", and others" if len(self.columns) > _NAMED else ""
            hint = f"; the columns are {listed}{more}. Correct the schema or the table."
            if same:
                hint = (
                    f', but one "{same[0]}". Write column: {same[0]} in the schema, or {column} in '
                    "the table."
                )
            sentences.append(f'{self.path}: there is no column "{column}"{named}{hint}')
        return sentences

    def check_columns(self, schema: Schema) -> None:
        """Refuse a schema that names a column nobody has. Raises MetaVoxelError."""
        for sentence in self.absent(schema):
            self.check_here()
            raise MetaVoxelError(sentence)

    def check_here(self) -> None:
        """Refuse a dataset without participants.tsv. Raises MetaVoxelError."""
        if not stands(self.path):
            raise MetaVoxelError(no_table(self.path))


def no_table(path: Path) -> str:
    """What is to be said of a dataset without participants.tsv."""
    return (
        f"{path.parent}: there is no participants.tsv, here or in the dataset it came from. Write "
        "one with a participant_id column and a column per variable."
    )


def read_tables(participants: Path, places: Sequence[Path]) -> Tables:
    """Read participants.tsv, and the sessions of every subject from the first place that has them.

    Rows of participants.tsv that name a session are read as visits, which the notes say; so they do
    that there is no such file. Raises MetaVoxelError naming file and row.
    """
    table = read_rows(participants) if stands(participants) else _nobody(participants)
    lines, session = _participants(table)
    passed = list(table.notes)
    described = dict(table.described)
    paths: dict[str, Path] = {}
    for place in dict.fromkeys(places):
        for path in sorted(place.glob("sub-*/sub-*_sessions.tsv")):
            if path.name == f"{path.parent.name}_sessions.tsv" and stands(path):
                paths.setdefault(path.parent.name, path)
            else:
                passed.append(f"{path}: it is left out, since its folder is another subject's.")
        if stands(place / "sessions.json"):  # which describes those of every subject
            described = {**read_object(place / "sessions.json"), **described}
    visits = sum(line.session is not None for line in lines)
    if visits:
        passed.append(
            f'{table.path}: column "{session}" makes visits of {visits} rows: their values are '
            "those of that visit alone. BIDS puts them into sub-XX/sub-XX_sessions.tsv."
        )
    for subject, path in sorted(paths.items()):
        sessions = read_table(path, key=_SESSION)
        own = [Line(subject, _session(r.cells[_SESSION]), sessions, r) for r in sessions.rows]
        _check_apart(own)
        lines += own
        passed += sessions.notes
        described = {**sessions.described, **described}
    keys = {"participant_id", *([session] if session else []), *([_SESSION] if paths else [])}
    return Tables(table, tuple(lines), described, frozenset(keys), tuple(passed))


def _nobody(path: Path) -> Table:
    return Table(path, ("participant_id",), (), {}, (no_table(path),))


def _participants(table: Table) -> tuple[list[Line], str | None]:
    """The lines of participants.tsv, and the column that names their sessions, if there is one."""
    names = [_subject(row.cells["participant_id"]) for row in table.rows]
    repeated = len(set(names)) < len(names)
    naming = _SESSION_COLUMNS if repeated else (_SESSION,)
    columns = {column.casefold(): column for column in table.columns}
    session = next((columns[name] for name in naming if name in columns), None)
    lines = [
        Line(subject, session and _session(row.cells[session]), table, row)
        for subject, row in zip(names, table.rows, strict=True)
    ]
    _check_apart(lines)
    return lines, session


def _check_apart(lines: Sequence[Line]) -> None:
    seen: dict[Visit, Row] = {}
    for line in lines:
        if line.visit in seen:
            column = "participant_id" if line.session is None else "session_id"
            visits = " If they are visits, name each in a column session_id."
            raise MetaVoxelError(
                f'{line.table.path}, row {line.row.number}, column "{column}": '
                f'"{" ".join(filter(None, line.visit))}" stands in row '
                f"{seen[line.visit].number} already, with or without sub- and ses-. Keep one row."
                + (visits if line.session is None else "")
            )
        seen[line.visit] = line.row


def _subject(name: str) -> str:
    return name if name.startswith("sub-") else f"sub-{name}"


def _session(name: str) -> str | None:
    if is_missing(name):
        return None
    return name if name.startswith("ses-") else f"ses-{name}"


@dataclass(frozen=True)
class Told:
    """What the tables say under a schema.

    `persons` by subject; `visits` by visit, with those of the subject that no line of the visit
    speaks of; `bad` holds the cells that the schema cannot take, each with its line.
    """

    persons: dict[str, Values]
    visits: dict[Visit, Values]
    spoken: dict[Visit, frozenset[str]]
    bad: tuple[tuple[Line, BadCell], ...]


def told(tables: Tables, schema: Schema) -> Told:
    """Every value under a schema; a cell that is missing at a visit is missing there."""
    out = Told({}, {}, {}, ())
    bad: list[tuple[Line, BadCell]] = []
    for line in tables.lines:
        values, wrong = _values(line, schema)
        bad += [(line, cell) for cell in wrong]
        here = {v for v, kind in schema.scalars.items() if (kind.column or v) in line.row.cells}
        if line.session is None:
            out.persons[line.subject] = values
            continue
        kept = {v: x for v, x in out.visits.get(line.visit, {}).items() if v not in here}
        out.visits[line.visit] = {**kept, **values}
        out.spoken[line.visit] = out.spoken.get(line.visit, frozenset()) | here
    return Told(out.persons, out.visits, out.spoken, tuple(bad))


def _values(line: Line, schema: Schema) -> tuple[Values, list[BadCell]]:
    values: Values = {}
    bad: list[BadCell] = []
    for v, kind in schema.scalars.items():
        column = kind.column or v
        cell = line.row.cells.get(column)
        if cell is None or kind.is_missing(cell):
            continue
        value = value_of(line.table, line.row, column, kind)
        if isinstance(value, BadCell):
            bad.append(value)
        else:
            values[v] = value
    return values, bad
