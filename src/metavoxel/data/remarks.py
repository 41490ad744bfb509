"""What is to be said of tables that were read under a schema: a line for each kind of remark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from metavoxel.data.tables import at_least
from metavoxel.data.visits import Line, Tables, Told, Visit
from metavoxel.schema import Categorical, Scalar, Schema

_NAMED = 6  # of many, these are named


def remarks(tables: Tables, schema: Schema, told: Told, visits: Collection[Visit]) -> list[str]:
    """What was passed over, taken for something else, or stands for another; a sentence each.

    `visits` are those that become records.
    """
    return [
        *tables.notes,
        *_taken_for_missing(tables, schema),
        *_respelled(tables, schema),
        *_cut_off(tables, schema),
        *_standing_in(tables, schema, told, visits),
    ]


def _cells(tables: Tables, schema: Schema) -> Iterator[tuple[Scalar, Line, str]]:
    for v, kind in schema.scalars.items():
        for line, cell in tables.cells(kind.column or v):
            yield kind, line, cell


def _taken_for_missing(tables: Tables, schema: Schema) -> list[str]:
    """Of n/a and empty cells nothing is said: BIDS has them."""
    words: Counter[str] = Counter()
    for v, kind in schema.scalars.items():
        column = kind.column or v
        for _, cell in tables.cells(column):
            if cell not in ("", "n/a") and kind.is_missing(cell):
                words[f'{cell} in "{column}"'] += 1
    if not words:
        return []
    return [
        f"{tables.path}: {_cells_are(words.total())} taken for missing: {_listed(words)}. If one "
        "is a value, correct the schema (its labels, its missing)."
    ]


def _respelled(tables: Tables, schema: Schema) -> list[str]:
    words: Counter[str] = Counter()
    for kind, _, cell in _cells(tables, schema):
        known = kind.words
        if cell in known or not known or kind.is_missing(cell):
            continue
        if isinstance(kind, Categorical):
            try:
                words[f"{cell} as {kind.parse(cell)}"] += 1
            except ValueError:
                continue  # which reading refuses
    if not words:
        return []
    return [
        f"{tables.path}: {_cells_are(words.total())} read as another spelling of a label: "
        f"{_listed(words)}. To keep them apart, name both in the schema's labels."
    ]


def _cut_off(tables: Tables, schema: Schema) -> list[str]:
    counts: Counter[tuple[Path, str]] = Counter()
    for v, kind in schema.numbers.items():
        for line, cell in tables.cells(kind.column or v):
            name = line.table.path.name if line.session is None else "sessions.tsv"
            counts[Path(name), v] += at_least(cell)[1]
    return [
        f'{name}: {n} values of "{v}" are written with a + (such as 89+) and read as '
        "the number itself."
        for (name, v), n in counts.items()
        if n
    ]


def _standing_in(
    tables: Tables, schema: Schema, told: Told, visits: Collection[Visit]
) -> list[str]:
    """Numbers change from visit to visit: of a subject with several, it is said that one stands for
    all."""
    several = Counter(subject for subject, _ in visits)
    numbers = [v for v, kind in schema.numbers.items() if kind.codes is None]
    standing: Counter[str] = Counter()
    sample = ""
    for subject, session in sorted(visits, key=lambda visit: (visit[0], visit[1] or "")):
        spoken = told.spoken.get((subject, session), frozenset())
        for v in numbers:
            if several[subject] > 1 and v not in spoken and v in told.persons.get(subject, {}):
                standing[v] += 1
                sample = sample or "_".join(filter(None, (subject, session)))
    if not standing:
        return []
    return [
        f"{tables.path}: the person's value stands for each visit: {_listed(standing, 'visits')}, "
        f"such as {sample}. If it changes, write it visit by visit in sub-XX/sub-XX_sessions.tsv."
    ]


def _listed(words: Counter[str], what: str = "") -> str:
    named = [f"{word} ({n}{' ' + what if what else ''})" for word, n in words.most_common(_NAMED)]
    return ", ".join([*named, *(["and others"] if len(words) > _NAMED else [])])


def _cells_are(n: int) -> str:
    return "1 cell is" if n == 1 else f"{n} cells are"
