"""Do images change with what was asked as subjects do? Measured by a reader of real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from metavoxel.data.bids import participants_file
from metavoxel.data.tables import Table, read_table
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.anatomy import (
    People,
    Reading,
    read_measurements,
    reader_scores,
    slopes,
    spreads,
)
from metavoxel.evaluation.experiment.config import AnatomyPlan
from metavoxel.evaluation.experiment.generated import asked_images, image_folder, read_rows
from metavoxel.evaluation.experiment.pieces import Piece
from metavoxel.evaluation.experiment.work import Experiment, Run, bound, generation
from metavoxel.evaluation.membership import reconstructed
from metavoxel.evaluation.scores import Score
from metavoxel.files.writing import atomic_write
from metavoxel.model import best_device
from metavoxel.model_files import json_text
from metavoxel.model_folder import load_model
from metavoxel.schema import Schema
from metavoxel.words import is_missing, number

GENERATED, READ, MEASURED = "generated", "test subjects, predicted", "test subjects, measured"

Row = Mapping[str, Any]


def reading(experiment: Experiment) -> Iterator[Piece]:
    """The pieces that read measurements off the images that were asked for by group."""
    plan = experiment.config.images
    if plan is None or plan.anatomy is None:
        return
    for name in plan.conditional:
        yield _reading(experiment, name, plan.anatomy)


def _reading(experiment: Experiment, name: str, plan: AnatomyPlan) -> Piece:
    needs = tuple(generation(name, run) for run in experiment.runs)
    names = [experiment.images(name, run).name for run in experiment.runs]
    key = " ".join(["slopes, spreads", plan.model_dump_json(), *names])
    do = bound(_read_off, experiment, name, plan)
    return Piece(f"read anatomy off {name}", do, lambda: key, needs)


def anatomy_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """A row per training and measurement: how it changes, and the reader's error."""
    plan, rows = experiment.config.images, []
    if plan is None or plan.anatomy is None:
        return rows
    for name in plan.conditional:
        path = _path(experiment, name)
        if experiment.done(_reading(experiment, name, plan.anatomy)) and path.is_file():
            rows += read_rows(path)
    return rows


def anatomy_table(rows: Sequence[Row]) -> list[list[str]]:
    """Models and measurements down; across, change with the asked variable, and the standard
    deviation that it leaves."""
    along, per = rows[0]["along"], f"{rows[0]['per']:g}"
    head = ["model", "measurement", "n", "reader's r"]
    groups = GENERATED, READ, MEASURED
    rates = [f"with {per} of {along}: {group}" for group in groups]
    out = [[*head, *rates, *(f"SD left: {group}" for group in groups)]]
    for row in rows:
        found = [row[kind][group] for kind in ("slopes", "spreads") for group in groups]
        scores = [row["reader"]["r"], *found]
        cells = [str(Score.from_json(score)) for score in scores]
        out.append([row["model"], row["measurement"], str(row["reader"]["r"]["n"]), *cells])
    return out


def _path(experiment: Experiment, name: str) -> Path:
    return image_folder(experiment, name) / "anatomy.json"


@dataclass(frozen=True, eq=False)
class _OfRun:
    """What was read, what was measured of the test subjects (n,), what was asked, who they are."""

    readings: Mapping[str, Reading]
    measured: Mapping[str, np.ndarray]
    asked: Mapping[str, np.ndarray]
    people: Mapping[str, np.ndarray]


def _read_off(experiment: Experiment, name: str, plan: AnatomyPlan, console: Console) -> None:
    path, table = _measurements(experiment, plan)
    runs = [_of_run(experiment, name, table, plan.columns, run) for run in experiment.runs]
    few = [c for c in plan.columns if any(c not in of.readings for of in runs)]
    if few:
        raise MetaVoxelError(
            f'{path}: too few subjects have a "{few[0]}" to predict it from images; take it out '
            "of the experiment's anatomy."
        )
    rows = [
        {"model": name, "unit": table.described.get(column, {}).get("Units")}
        | _row(experiment.schema, plan, column, runs)
        for column in plan.columns
    ]
    with atomic_write(_path(experiment, name)) as temporary:
        temporary.write_text(json_text(rows, indent=None))


def check_anatomy(experiment: Experiment) -> None:
    """Refuse columns that nobody has, if the cohort is there. Raises MetaVoxelError."""
    plan = experiment.config.images and experiment.config.images.anatomy
    if plan is not None and experiment.bids.exists():
        _measurements(experiment, plan)


def _measurements(experiment: Experiment, plan: AnatomyPlan) -> tuple[Path, Table]:
    bids = experiment.bids
    path = participants_file(bids) if plan.table is None else bids / plan.table
    table = read_table(path)
    unknown = [column for column in plan.columns if column not in table.columns]
    if unknown:
        raise MetaVoxelError(f'{path}: there is no column "{unknown[0]}".')
    return path, table


def _of_run(
    experiment: Experiment, name: str, table: Table, columns: Sequence[str], run: Run
) -> _OfRun:
    """All images come through the model's autoencoder, as generated ones have."""
    model = load_model(experiment.model(name, run), best_device())
    image = next(iter(experiment.schema.images))
    training, _, test = experiment.tables(run)
    drawn, given = asked_images(experiment, name, run, image)
    groups = {GENERATED: drawn, READ: reconstructed(model, image, test.images[image])}
    seen = reconstructed(model, image, training.images[image])
    values = {c: _measured(table, c, training.subjects) for c in columns}
    readings = read_measurements(seen, values, groups)
    measured = {c: _measured(table, c, test.subjects) for c in columns}
    return _OfRun(readings, measured, given, test.scalars)


def _row(schema: Schema, plan: AnatomyPlan, column: str, runs: Sequence[_OfRun]) -> dict[str, Any]:
    """One measurement over all runs."""
    generated, unseen = (
        np.concatenate([of.readings[column].values[group] for of in runs])
        for group in (GENERATED, READ)
    )
    measured = np.concatenate([of.measured[column] for of in runs])
    asked = {v: np.concatenate([of.asked[v] for of in runs]) for v in runs[0].asked}
    people = {v: np.concatenate([of.people[v] for of in runs]) for v in runs[0].people}
    conditions = [dict(zip(asked, each, strict=True)) for each in zip(*asked.values(), strict=True)]
    real = {READ: People(people, unseen), MEASURED: People(people, measured)}
    groups = schema, plan.along, conditions, generated[:, None], real
    rates, left = slopes(*groups, plan.per), spreads(*groups)
    return {
        "measurement": column,
        "along": plan.along,
        "per": plan.per,
        "reader": {k: x.to_json() for k, x in reader_scores(unseen, measured).items()},
        "slopes": {group: x.to_json() for group, x in rates.items()},
        "spreads": {group: x.to_json() for group, x in left.items()},
        "values": {
            GENERATED: [_numbers(asked[plan.along]), _numbers(generated)],
            MEASURED: [_numbers(people[plan.along]), _numbers(measured)],
        },
    }


def _measured(table: Table, column: str, subjects: Sequence[str]) -> np.ndarray:
    """A column for each of the subjects (n,), NaN where n/a. Raises MetaVoxelError."""
    known: dict[str, float] = {}
    for row in table.rows:
        cell = row.cells[column]
        value = number(cell)
        if value is not None:
            known[row.cells["participant_id"]] = value
        elif not is_missing(cell):
            raise MetaVoxelError(
                f'{table.path}, row {row.number}, column "{column}": "{cell}" is not a number. '
                "Correct it."
            )
    return np.array([known.get(subject, np.nan) for subject in subjects])


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(x) else round(float(x), 4) for x in values]
