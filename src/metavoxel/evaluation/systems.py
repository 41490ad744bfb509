"""The systems of a report: the model's own ways to answer, and baselines; kept as they finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.encoding.scalars import OneHot
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.baselines import (
    frequencies,
    kernel_ridge,
    logistic_probabilities,
    majority,
    population_mean,
)
from metavoxel.evaluation.cohort import Table
from metavoxel.files.arrays import read_arrays
from metavoxel.files.wall import reading
from metavoxel.files.writing import atomic_write
from metavoxel.inference.ask import BATCH, IMAGES, ask_encoded
from metavoxel.model import MetaVoxel
from metavoxel.schema import Schema

FEW = 3  # the paper's number of samples
ONE = "one evaluation"
SIMPLE, LINEAR = "population mean / majority", "ridge / logistic on voxels"
_SAVE_EVERY = 20.0  # seconds of answers that an interruption may cost
_UNSEEN = 1e-3  # probability of a label that training never saw, before normalising

Progress = Callable[[str, int, int], None]  # (system, records done, of)


@dataclass(frozen=True, eq=False)
class SystemAnswers:
    """One system's answers by variable: `points` (n,), numbers or label indices; `samples` (n, m);
    `probabilities` (n, K) of categoricals; `spreads` (n,), stated standard deviations. Where there
    are both, the samples are the evenly spaced quantiles of what is stated."""

    points: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)
    spreads: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0  # all of them together

    def __len__(self) -> int:
        return len(next(iter(self.points.values())))


_LEVELS = (np.arange(100) + 0.5) / 100  # of stated quantiles
_ARRAYS = ("points", "samples", "probabilities", "spreads")


def joined(first: SystemAnswers | None, more: SystemAnswers) -> SystemAnswers:
    """The answers to the records of one, then of the other."""
    if first is None:
        return more
    parts = {
        kind: {v: np.concatenate([x, getattr(more, kind)[v]]) for v, x in of_kind.items()}
        for kind in _ARRAYS
        for of_kind in [getattr(first, kind)]
    }
    return SystemAnswers(**parts, seconds=first.seconds + more.seconds)


@dataclass(frozen=True)
class Kept:
    """Answers on disk, one file a system, good for one model, cohort and seed alone (`key`)."""

    folder: Path
    key: str

    def read(self, system: str) -> SystemAnswers | None:
        """What is there of a system: all of it, its first records, or None."""
        path = self._path(system)
        if not path.is_file():
            return None
        try:
            with reading(path, "answers that were kept"):
                arrays = read_arrays(path)
                if str(arrays.pop("key")) != self.key:
                    return None
                seconds = float(arrays.pop("seconds"))
                parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in _ARRAYS}
                for name, x in arrays.items():
                    kind, _, v = name.partition("/")
                    parts[kind][v] = x
                if len({len(x) for x in arrays.values()}) > 1:
                    raise ValueError("not of the same records")
                return SystemAnswers(**parts, seconds=seconds)
        except MetaVoxelError:  # it is damaged: answer again
            return None

    def write(self, system: str, answers: SystemAnswers) -> None:
        arrays = {f"{kind}/{v}": x for kind in _ARRAYS for v, x in getattr(answers, kind).items()}
        about = {"key": np.array(self.key), "seconds": np.array(answers.seconds)}
        with atomic_write(self._path(system)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **about, **arrays)

    def _path(self, system: str) -> Path:
        name = "".join(c if c.isalnum() else "-" for c in system)
        return self.folder / f"{'-'.join(filter(None, name.split('-')))}.npz"


def model_answers(
    model: MetaVoxel,
    asked: Sequence[str],
    table: Table,
    samples: int,
    seed: int,
    kept: Kept,
    progress: Progress,
) -> dict[str, SystemAnswers]:
    """The model's answers: in one evaluation if it can, and of scalars that diffuse from few
    samples, from many. By the law samples are draws of what the one evaluation states."""
    engine = model.config.sampling.conditioner
    counts = {ONE: 0} if answers_at_once(model, model.config.sampling) else {}
    if model.law is None:
        counts |= {f"{count} samples, {engine}": count for count in sorted({FEW, samples})}
    return {
        system: _in_pieces(system, model, asked, table, count, seed, kept, progress)
        for system, count in counts.items()
    }


def answers_at_once(model: MetaVoxel, settings: SamplingConfig) -> bool:
    """Whether one evaluation answers questions about scalars."""
    return model.law is not None or settings.point == "one_evaluation"


def _in_pieces(
    system: str,
    model: MetaVoxel,
    asked: Sequence[str],
    table: Table,
    count: int,
    seed: int,
    kept: Kept,
    progress: Progress,
) -> SystemAnswers:
    """As many records at once as fill a batch; what is answered is kept every few seconds.

    Every piece has its own seed, so that it is answered alike wherever a run was interrupted.
    """
    answers, piece, saved = kept.read(system), max(1, BATCH // max(1, count)), time.monotonic()
    for start in range(0 if answers is None else len(answers), len(table), piece):
        progress(system, start, len(table))
        rows = slice(start, start + piece)
        images = {v: x[rows] for v, x in table.images.items()}
        own = int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
        n = len(range(len(table))[rows])
        answers = joined(answers, answer(model, asked, images, n, count, own))
        done = len(answers) == len(table)
        if done or time.monotonic() - saved > _SAVE_EVERY:
            kept.write(system, answers)
            saved = time.monotonic()
    progress(system, len(table), len(table))
    assert answers is not None
    return answers


def answer(
    model: MetaVoxel,
    asked: Sequence[str],
    known: Mapping[str, np.ndarray],
    n: int,
    count: int,
    seed: int,
    settings: SamplingConfig | None = None,
) -> SystemAnswers:
    """Ask for scalars of n records given images (n, C, *grid), and scalars (n,) as numbers or label
    indices: from `count` samples, or 0 for one evaluation. 100 quantiles, evenly spaced, stand for
    the distribution of a number as samples."""
    start, settings = time.perf_counter(), settings or model.config.sampling
    z0 = {v: _encoded(model, v, x) for v, x in known.items()}
    if count == 0:
        stated = ask_encoded(model, asked, z0, n, 0, seed)
        raw = {v: x.double().numpy() for v, x in stated.point.items()}
        probabilities = {v: _normalised(x) for v, x in raw.items() if x.ndim == 2}
        points = {v: x if x.ndim == 1 else x.argmax(1).astype(float) for v, x in raw.items()}
        spread = {v: x.std for v, x in stated.numbers.items()}
        samples = {v: x.quantiles(_LEVELS) for v, x in stated.numbers.items()}
        return SystemAnswers(points, samples, probabilities, spread, time.perf_counter() - start)
    # The one evaluation is timed on its own.
    settings = settings.model_copy(update={"point": "samples"})
    drawn = ask_encoded(model, asked, z0, n, count, seed, settings).samples
    samples = {v: x.double().numpy() for v, x in drawn.items()}
    seconds = time.perf_counter() - start
    counts = {v: _counts(samples[v], k.labels) for v, k in model.labels.items() if v in samples}
    points = {v: _majority(counts[v], x) if v in counts else x.mean(1) for v, x in samples.items()}
    return SystemAnswers(
        points, samples, {v: _normalised(c + 1) for v, c in counts.items()}, {}, seconds
    )


def _encoded(model: MetaVoxel, name: str, values: np.ndarray) -> torch.Tensor:
    parts = torch.from_numpy(values).split(IMAGES)
    return torch.cat([model.encode({name: part})[name] for part in parts])


def _counts(samples: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """How often each label was drawn, (n, K)."""
    return OneHot(tuple(labels)).encode(torch.from_numpy(samples)).sum(1).double().numpy()


def _majority(counts: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """The label drawn most often; a tie goes to a label drawn first."""
    counts = counts.copy()
    counts[np.arange(len(samples)), samples[:, 0].astype(int)] += 0.5
    return counts.argmax(1).astype(float)


def _normalised(x: np.ndarray) -> np.ndarray:
    return x / x.sum(1, keepdims=True)


def baseline_answers(
    schema: Schema, training: Table, test: Table, kept: Kept, progress: Progress
) -> dict[str, SystemAnswers]:
    """Population mean or majority; ridge and logistic regression on the voxels.

    A variable without a value in training has no baseline, and is missing from the answers.
    """
    fits = {SIMPLE: _simple, LINEAR: _linear}
    out = {}
    for system, fit in fits.items():
        found = kept.read(system)
        if found is None:
            progress(system, 0, len(test))
            found = fit(schema, training, test)
            kept.write(system, found)
        progress(system, len(test), len(test))
        out[system] = found
    return out


def _simple(schema: Schema, training: Table, test: Table) -> SystemAnswers:
    points, probabilities = {}, {}
    for v, kind in schema.scalars.items():
        values = training.scalars[v][~np.isnan(training.scalars[v])]
        labels, n = getattr(kind, "labels", None), len(test)
        if not len(values):
            continue
        points[v] = majority(values, n) if labels else population_mean(values, n)
        if labels:
            probabilities[v] = frequencies(values, len(labels), n)
    return SystemAnswers(points, {}, probabilities)


def _linear(schema: Schema, training: Table, test: Table) -> SystemAnswers:
    x, x_test = (
        np.concatenate([i.reshape(len(i), -1) for i in t.images.values()], axis=1)
        for t in (training, test)
    )
    points, probabilities = {}, {}
    for v, kind in schema.scalars.items():
        known = ~np.isnan(training.scalars[v])
        values, seen = training.scalars[v][known], x[known]
        labels = getattr(kind, "labels", None)
        if len(values) < 2:
            continue
        if not labels:
            points[v] = kernel_ridge(seen, values, x_test)
            continue
        classes, said = logistic_probabilities(seen, values, x_test)
        every = np.full((len(test), len(labels)), _UNSEEN)
        every[:, classes.astype(int)] = said
        points[v], probabilities[v] = every.argmax(1).astype(float), _normalised(every)
    return SystemAnswers(points, {}, probabilities)
