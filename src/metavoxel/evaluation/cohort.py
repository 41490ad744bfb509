"""Which records of a cohort a model may be scored on, and those records as arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metavoxel.data.bids import Cohort, read_within, tables_of
from metavoxel.data.images import as_scan, read_scan
from metavoxel.data.splits import Split
from metavoxel.errors import MetaVoxelError
from metavoxel.files.versions import version_of
from metavoxel.preprocess.preparation import Preparation
from metavoxel.schema import Schema


@dataclass(frozen=True, eq=False)
class Table:
    """A cohort as arrays: images (n, C, *grid); scalars as numbers or label indices, or NaN."""

    images: dict[str, np.ndarray]
    scalars: dict[str, np.ndarray]
    records: tuple[str, ...] = ()  # their names
    subjects: tuple[str, ...] = ()  # whose they are

    def __len__(self) -> int:
        return len(next(iter({**self.images, **self.scalars}.values())))


@dataclass(frozen=True)
class Parts:
    """A cohort's records by what the model may have seen of them.

    `people` says who the test records are of, `left_out` what was not scored and why, `warnings`
    what reading the cohort said.
    """

    test: Cohort
    training: Cohort
    validation: Cohort
    people: str
    left_out: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read_parts(bids: Path, schema: Schema, split: Split, external: bool) -> Parts:
    """Read a cohort under the variables that it has, and take its records apart.

    A cohort that shares no subject with the model's training and validation subjects is external:
    all of it is scored. Otherwise the model's test subjects are. With `external` the subjects are
    others though their names may be the same. Subjects with a value that the schema does not have,
    such as an age beyond its range, are left out. Raises MetaVoxelError if nobody is left.
    """
    present = _present(bids, schema)
    cohort, everyone, beyond = read_within(bids, present)
    absent = [v for v in schema.scalars if v not in present]
    notes = [f"{', '.join(absent)} not scored: the cohort has no such column"] if absent else []
    notes += beyond
    if beyond and not cohort.records:
        raise MetaVoxelError(f"{bids}: nobody is left to score: {beyond[0]}.")
    here, nobody = set(everyone), cohort.only([])
    seen = here & {*split.train, *split.validation}
    if external or not seen:
        shared = 0 if external else len(here & set(split.test))
        people = "an external cohort: it shares no subject with the model's training"
        if external:
            people = "an external cohort: its subjects are said to be none of the model's"
        elif shared:
            people += f"; {shared} of its {len(here)} subjects are the model's test subjects"
        return Parts(cohort, nobody, nobody, people, tuple(notes), cohort.warnings)
    test = cohort.only(split.test)
    if not test.records:
        raise MetaVoxelError(
            f"{bids}: {len(seen)} of its subjects trained the model, and none is among its "
            f"{len(split.test)} test subjects. Give a cohort with test subjects, or one of other "
            "subjects; if they are others of the same names, add --external."
        )
    strangers = here - seen - set(split.test)
    for count, why in (
        (len(seen), "the model was trained or validated on them"),
        (len(strangers), "they are not among the model's test subjects"),
    ):
        if count:
            notes.append(f"{count} subjects not scored: {why}")
    people = f"the model's test subjects ({split.made})"
    training, validation = cohort.only(split.train), cohort.only(split.validation)
    return Parts(test, training, validation, people, tuple(notes), cohort.warnings)


def _present(bids: Path, schema: Schema) -> Schema:
    """The schema without the scalars that the cohort has no column for."""
    if not schema.scalars:
        raise MetaVoxelError(
            f"This model knows {', '.join(schema.images)} alone, and evaluate scores answers about "
            "clinical variables. Look at what it draws with metavoxel ask."
        )
    tables = tables_of(Path(bids))
    scalars = {v: k for v, k in schema.scalars.items() if (k.column or v) in tables.columns}
    if not scalars:
        tables.check_here()
        wanted = ", ".join(kind.column or v for v, kind in schema.scalars.items())
        raise MetaVoxelError(
            f"{tables.path}: it has none of the model's columns {wanted}, so there is no truth to "
            "compare with. Name its columns as the model does."
        )
    kept = {v: k for v, k in schema.variables.items() if v in schema.images or v in scalars}
    return Schema(variables=kept)


def as_table(schema: Schema, cohort: Cohort) -> Table:
    """The records that have every image, as arrays."""
    records = [r for r in cohort.records if all(v in r.values for v in schema.images)]
    if not records:
        raise MetaVoxelError(
            f"{cohort.root}: none of the {len(cohort.records)} records asked about has an image."
        )
    images = {
        v: np.stack([read_scan(Path(str(r.values[v])), kind).array for r in records])
        for v, kind in schema.images.items()
    }
    scalars = {}
    for v, kind in schema.scalars.items():
        labels = getattr(kind, "labels", None)
        column = np.full(len(records), np.nan)
        for i, r in enumerate(records):
            if v in r.values:
                x = r.values[v]
                column[i] = labels.index(str(x)) if labels else float(str(x))
        scalars[v] = column
    names, subjects = tuple(r.id for r in records), tuple(r.subject for r in records)
    return Table(images, scalars, names, subjects)


def has_images(cohort: Cohort) -> bool:
    """Whether any record has every image."""
    return any(all(v in r.values for v in cohort.schema.images) for r in cohort.records)


def check_preparation(preparation: Preparation, cohort: Cohort, table: Table) -> None:
    """As of every scan that a model is asked about. Raises MetaVoxelError."""
    values = {r.id: r.values for r in cohort.records}
    for v, arrays in table.images.items():
        kind = cohort.schema.images[v]
        for record, array in zip(table.records, arrays, strict=True):
            path = Path(str(values[record][v]))
            preparation.check(v, path, as_scan(array, path, kind))


def identity(
    cohort: Cohort, records: Sequence[str], variables: Collection[str] | None = None
) -> list[str]:
    """A line per record that changes when its values do, or the file of an image; those of the
    `variables` alone, if they are given."""
    chosen, named = set(records), set(cohort.schema if variables is None else variables)
    return [
        " ".join([r.id, *(f"{v}={_version(r.values[v])}" for v in sorted(named & {*r.values}))])
        for r in cohort.records
        if r.id in chosen
    ]


def _version(value: float | str | Path) -> str:
    return f"{value.name} {version_of(value)}" if isinstance(value, Path) else str(value)


def join(first: Table, second: Table) -> Table:
    """The records of both."""
    return replace(
        first,
        images=_joined(first.images, second.images),
        scalars=_joined(first.scalars, second.scalars),
        records=first.records + second.records,
        subjects=first.subjects + second.subjects,
    )


def _joined(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {v: np.concatenate([x, second[v]]) for v, x in first.items()}
