"""Generated images of an experiment, measured: against real ones, by group, and for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import RootModel
from rich.console import Console

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.experiment.pieces import Piece, slug
from metavoxel.evaluation.experiment.work import Experiment, Run, bound, generation
from metavoxel.evaluation.images.scores import score_images
from metavoxel.evaluation.membership import answer_membership, reconstructed
from metavoxel.evaluation.memorisation import LATENT, memorisation, pairs_figure
from metavoxel.files.arrays import read_arrays
from metavoxel.files.json import read_model, read_object
from metavoxel.files.writing import atomic_write
from metavoxel.model import best_device
from metavoxel.model_files import json_text
from metavoxel.model_folder import load_model
from metavoxel.schema import Schema

_BANDS = 2  # of a continuous variable, of as many test people each, in the groups of Figure D.5
_FEWEST = 8  # real images of a group, below which nothing is measured


def measuring(experiment: Experiment) -> Iterator[Piece]:
    """The pieces that measure what was generated."""
    plan = experiment.config.images
    if plan is None:
        return
    for name in dict.fromkeys((*plan.trainings, *plan.conditional)):
        yield _measurement(experiment, name)
    for name in plan.memorisation:
        for run in experiment.runs:
            yield _memory(experiment, name, run)


def _measurement(experiment: Experiment, name: str) -> Piece:
    needs = tuple(generation(name, run) for run in experiment.runs)
    do = bound(_measure, experiment, name)
    return Piece(f"measure images of {name}", do, _key(experiment, name), needs)


def _memory(experiment: Experiment, name: str, run: Run) -> Piece:
    do = bound(_memorisation, experiment, name, run)
    key = _images_key(experiment, name, run)
    return Piece(f"memorisation of {name}, {run}", do, key, (generation(name, run),))


def _key(experiment: Experiment, name: str) -> Callable[[], str]:
    plan = experiment.config.images
    assert plan is not None
    drawn = [_images_key(experiment, name, run) for run in experiment.runs]
    return lambda: " ".join([plan.extractor, *(of_run() for of_run in drawn)])


def _images_key(experiment: Experiment, name: str, run: Run) -> Callable[[], str]:
    return lambda: experiment.images(name, run).name


def image_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """What the pieces measured of images drawn freely, a row for every training."""
    return [row for row in _rows(experiment) if "group" not in row]


def group_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """The same of images that were asked for, by group of people."""
    return [row for row in _rows(experiment) if "group" in row]


def memories(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """By training, by run: what `memorisation` found."""
    out: dict[str, dict[str, Any]] = {}
    for name, run, path in _remembered(experiment, "memorisation.json"):
        out.setdefault(name, {})[str(run)] = read_object(path)
    return out


def pairs_drawn(experiment: Experiment) -> dict[str, Path]:
    """By training and run: the figure of generated images beside the nearest training images."""
    found = _remembered(experiment, "pairs.png")
    return {f"{name}, {run}": path for name, run, path in found}


def _remembered(experiment: Experiment, file: str) -> Iterator[tuple[str, Run, Path]]:
    plan = experiment.config.images
    for name in plan.memorisation if plan else ():
        for run in experiment.runs:
            path = _memory_folder(experiment, name, run) / file
            if experiment.done(_memory(experiment, name, run)) and path.is_file():
                yield name, run, path


def _memory_folder(experiment: Experiment, name: str, run: Run) -> Path:
    """Where what a training remembers is kept."""
    return image_folder(experiment, name) / "memory" / slug(str(run))


def free_images(experiment: Experiment, name: str, run: Run, image: str) -> np.ndarray | None:
    """Images (n, C, *grid) in [0, 1] that a training drew of nobody."""
    return _read(experiment.images(name, run)).get(f"free/{image}")


def asked_images(
    experiment: Experiment, name: str, run: Run, image: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images (n, C, *grid) that were drawn for people's values, and these values (n,)."""
    found = _read(experiment.images(name, run))
    given = {k.removeprefix("given/"): x for k, x in found.items() if k.startswith("given/")}
    return found[f"asked/{image}"], given


def _rows(experiment: Experiment) -> Iterator[dict[str, Any]]:
    plan = experiment.config.images
    for name in dict.fromkeys((*plan.trainings, *plan.conditional)) if plan else ():
        path = image_folder(experiment, name) / "measures.json"
        if experiment.done(_measurement(experiment, name)) and path.is_file():
            yield from read_rows(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of what was measured. Raises MetaVoxelError."""
    return read_model(path, _Rows).root


class _Rows(RootModel[list[dict[str, Any]]]):
    """A JSON file of rows."""


def image_folder(experiment: Experiment, name: str) -> Path:
    """Where what is measured of a training's images is kept."""
    return experiment.out / "images" / slug(name)


def _measure(experiment: Experiment, name: str, console: Console) -> None:
    plan = experiment.config.images
    assert plan is not None
    found = {run: _read(experiment.images(name, run)) for run in experiment.runs}
    tests = {run: experiment.tables(run)[2] for run in experiment.runs}
    rows: list[dict[str, Any]] = []
    for image in experiment.schema.images:
        real = np.concatenate([tests[run].images[image] for run in experiment.runs])
        free = [x[f"free/{image}"] for x in found.values() if f"free/{image}" in x]
        if free:
            drawn = np.concatenate(free)
            row = {"system": name, "question": f"{image} |"}
            rows.append(row | score_images(drawn, real, plan.extractor))
        asked = [
            (x[f"asked/{image}"], _only(tests[run], x["rows"].astype(int)))
            for run, x in found.items()
            if f"asked/{image}" in x
        ]
        if asked:
            rows += _by_group(experiment.schema, name, image, asked, plan.given, plan.extractor)
    with atomic_write(image_folder(experiment, name) / "measures.json") as temporary:
        temporary.write_text(json_text(rows, indent=1))


def _by_group(
    schema: Schema,
    name: str,
    image: str,
    asked: Sequence[tuple[np.ndarray, Table]],
    given: Sequence[str],
    extractor: str,
) -> Iterator[dict[str, Any]]:
    """Images drawn for people's values beside the images of these people, group by group."""
    drawn = np.concatenate([x for x, _ in asked])
    real = np.concatenate([table.images[image] for _, table in asked])
    values = {v: np.concatenate([table.scalars[v] for _, table in asked]) for v in given}
    for group, inside in groups(schema, values):
        if inside.sum() >= _FEWEST:
            scores = score_images(drawn[inside], real[inside], extractor)
            question = f"{image} | {', '.join(given)}"
            yield {"system": name, "question": question, "group": group, **scores}


def groups(schema: Schema, values: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Groups of people (n,) by label, and by band of each continuous variable; and all of them."""
    n = len(next(iter(values.values())))
    found: list[tuple[tuple[str, ...], np.ndarray]] = [((), np.ones(n, bool))]
    for v, x in values.items():
        parts = _labels(schema, v, x) if v in schema.categorical else _bands(v, x)
        found = [((*said, label), inside & some) for said, inside in found for label, some in parts]
    yield "all", np.ones(n, bool)
    for said, inside in found:
        yield ", ".join(said), inside


def _labels(schema: Schema, name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [(label, values == k) for k, label in enumerate(schema.categorical[name].labels)]


def _bands(name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    edges = np.quantile(values, np.linspace(0, 1, _BANDS + 1))
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BANDS - 1)
    return [(f"{name} {edges[i]:.0f}–{edges[i + 1]:.0f}", which == i) for i in range(_BANDS)]


def _only(table: Table, rows: np.ndarray) -> Table:
    return Table(
        {v: x[rows] for v, x in table.images.items()},
        {v: x[rows] for v, x in table.scalars.items()},
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    """What was generated, images in [0, 1]."""
    if not path.is_file():
        return {}
    arrays = read_arrays(path)
    return {k: x.astype(np.float32) / 255 if x.dtype == np.uint8 else x for k, x in arrays.items()}


def _memorisation(experiment: Experiment, name: str, run: Run, console: Console) -> None:
    """Of the first image variable, against the people of the test fold."""
    model = load_model(experiment.model(name, run), best_device())
    training, _, test = experiment.tables(run)
    image = next(iter(model.schema.images))
    generated = free_images(experiment, name, run, image)
    assert generated is not None  # read_experiment has seen to it
    found = memorisation(
        model, image, training.images[image], test.images[image], generated, run.seed
    )
    answers = answer_membership(model, training, test, run.seed)
    said = found.to_json() | {"answers_auc": {v: x.to_json() for v, x in answers.items()}}
    shown = reconstructed(model, image, training.images[image])
    figure = pairs_figure(found.spaces[LATENT], shown, generated)
    folder = _memory_folder(experiment, name, run)
    with atomic_write(folder / "pairs.png") as temporary:
        figure.savefig(temporary, dpi=150)
    with atomic_write(folder / "memorisation.json") as temporary:
        temporary.write_text(json_text(said, indent=1))
