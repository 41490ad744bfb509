"""Generated images of an experiment, measured: against real ones, by group, and for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import RootModel
from rich.console import Console

from metavoxel.evaluation.experiment.pieces import Piece, slug
from metavoxel.evaluation.experiment.work import Experiment, Run, bound, generation
from metavoxel.evaluation.figures.style import save_png
from metavoxel.evaluation.images.scores import averaged, score_images
from metavoxel.evaluation.membership import answer_membership, reconstructed
from metavoxel.evaluation.memorisation import LATENT, memorisation, pairs_figure
from metavoxel.evaluation.questions import rows_of
from metavoxel.files.arrays import read_arrays
from metavoxel.files.json import read_model, read_object
from metavoxel.files.writing import atomic_write
from metavoxel.model import best_device
from metavoxel.model_files import json_text
from metavoxel.model_folder import load_model
from metavoxel.schema import Schema

_BANDS = 2  # of a continuous variable, of as many test subjects each, in the groups of Figure D.5
_FEWEST = 5  # real images of a group in a fold, below which it is not measured there
_RULE = "against the test images of each fold"  # what was measured by another rule is not taken


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
    return lambda: " ".join([plan.extractor, _RULE, *(of_run() for of_run in drawn)])


def _images_key(experiment: Experiment, name: str, run: Run) -> Callable[[], str]:
    return lambda: experiment.images(name, run).name


def image_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """What the pieces measured of images drawn freely, a row for every training."""
    return [row for row in _rows(experiment) if "group" not in row]


def group_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """The same of images that were asked for, by group of subjects."""
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
    """Images (n, C, *grid) in [0, 1] that a training drew unconditionally."""
    return _read(experiment.images(name, run)).get(f"free/{image}")


def asked_images(
    experiment: Experiment, name: str, run: Run, image: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images (n, C, *grid) that were drawn for subjects' values, and these values (n,)."""
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
    """The images of every run against the test images of its own fold, and the mean over runs.

    Against the images of all folds, most of the real ones would be of a model's training subjects.
    """
    plan = experiment.config.images
    assert plan is not None
    found = {run: _read(experiment.images(name, run)) for run in experiment.runs}
    rows: list[dict[str, Any]] = []
    for image in experiment.schema.images:
        free = {run: x[f"free/{image}"] for run, x in found.items() if f"free/{image}" in x}
        if free:
            row = {"system": name, "question": f"{image} |"}
            rows.append(row | _against_own_fold(experiment, image, free, plan.extractor))
        asked = {
            run: (x[f"asked/{image}"], x["rows"].astype(int))
            for run, x in found.items()
            if f"asked/{image}" in x
        }
        if asked:
            rows += _by_group(experiment, name, image, asked)
    with atomic_write(image_folder(experiment, name) / "measures.json") as temporary:
        temporary.write_text(json_text(rows, indent=1))


def _against_own_fold(
    experiment: Experiment, image: str, drawn: Mapping[Run, np.ndarray], extractor: str
) -> dict[str, Any]:
    """The mean over runs, with a `floor`: the same of as many training images of each run."""
    found, floors = [], []
    for run, generated in drawn.items():
        training, _, test = experiment.tables(run)
        found.append(score_images(generated, test.images[image], extractor))
        some = np.random.default_rng(run.draws).permutation(len(training))[: len(generated)]
        real = training.images[image][some]
        floors.append(score_images(real, test.images[image], extractor))
    folds = [run.fold for run in drawn]
    floor = averaged(floors, folds)
    return averaged(found, folds) | {
        "floor": floor,
        "frechet_training": floor["frechet"],
        "mmd_training": floor["mmd"],
    }


def _by_group(
    experiment: Experiment,
    name: str,
    image: str,
    asked: Mapping[Run, tuple[np.ndarray, np.ndarray]],
) -> Iterator[dict[str, Any]]:
    """Images drawn for subjects' values beside the images of these very subjects, by group: the
    mean over the runs that have enough of a group."""
    plan = experiment.config.images
    assert plan is not None
    tables = {run: rows_of(experiment.tables(run)[2], rows) for run, (_, rows) in asked.items()}
    values = {v: np.concatenate([t.scalars[v] for t in tables.values()]) for v in plan.given}
    owner = np.concatenate([np.full(len(t), i) for i, t in enumerate(tables.values())])
    for group, inside in groups(experiment.schema, values):
        found, folds = [], []
        for i, (run, (drawn, _)) in enumerate(asked.items()):
            own = inside[owner == i]
            if own.sum() >= _FEWEST:
                real = tables[run].images[image][own]
                found.append(score_images(drawn[own], real, plan.extractor))
                folds.append(run.fold)
        if found:
            question = f"{image} | {', '.join(plan.given)}"
            row = {"system": name, "question": question, "group": group}
            yield row | averaged(found, folds)


def groups(schema: Schema, values: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Groups of subjects (n,) by label, by band of each continuous variable, and all of them."""
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


def _read(path: Path) -> dict[str, np.ndarray]:
    """What was generated, images in [0, 1]."""
    if not path.is_file():
        return {}
    arrays = read_arrays(path)
    return {k: x.astype(np.float32) / 255 if x.dtype == np.uint8 else x for k, x in arrays.items()}


def _memorisation(experiment: Experiment, name: str, run: Run, console: Console) -> None:
    """Of the first image variable, against the subjects of the test fold."""
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
    folder = _memory_folder(experiment, name, run)
    save_png(pairs_figure(found.spaces[LATENT], shown, generated), folder / "pairs.png")
    with atomic_write(folder / "memorisation.json") as temporary:
        temporary.write_text(json_text(said, indent=1))
