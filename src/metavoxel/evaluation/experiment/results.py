"""What an experiment found: every system's answers to every question, over all folds and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.experiment.config import Simulation
from metavoxel.evaluation.experiment.exact import EXACT, exact_answers
from metavoxel.evaluation.experiment.work import Experiment, Run
from metavoxel.evaluation.measures import (
    Calibrated,
    calibrated,
    categorical_scores,
    continuous_scores,
    gains,
    predictive_of,
)
from metavoxel.evaluation.questions import records_with
from metavoxel.evaluation.scores import Bootstrap, mean_of
from metavoxel.evaluation.systems import LINEAR, SIMPLE, SystemAnswers
from metavoxel.files.json import read_model
from metavoxel.inference.calibration import Calibration
from metavoxel.inference.query import Question
from metavoxel.model_files import Calibrations


@dataclass(frozen=True, eq=False)
class Pooled:
    """One variable as one system answered it, over all test records of all runs (n,).

    `amended` holds what the calibration of each run's model says. `run` numbers the run of every
    record; `cells` names record, fold and seed, by which systems are compared.
    """

    truth: np.ndarray
    point: np.ndarray
    samples: np.ndarray | None
    spread: np.ndarray | None
    probabilities: np.ndarray | None
    amended: Calibrated | None
    subjects: Sequence[str]
    cells: Sequence[str]
    run: np.ndarray

    def losses(self, number: bool) -> np.ndarray:
        """Absolute error, or 1 where the label is right."""
        return np.abs(self.point - self.truth) if number else (self.point == self.truth) * 1.0


Answers = Mapping[tuple[str, str], Mapping[str, Pooled]]  # by question and variable, by system


def collect(experiment: Experiment) -> dict[tuple[str, str], dict[str, Pooled]]:
    """Everything that was answered."""
    out: dict[tuple[str, str], dict[str, Pooled]] = {}
    tests = {run: experiment.tables(run)[2] for run in experiment.runs}
    for system in system_names(experiment):
        for question in experiment.asked(system):
            found = {
                run: _answered(experiment, system, question, run, table)
                for run, table in tests.items()
            }
            for v in question.asked:
                if v not in experiment.schema.scalars:
                    continue
                parts = [
                    _one(
                        v,
                        said,
                        tests[run],
                        records_with(question, tests[run]),
                        _calibration(experiment, system, question, v, run),
                        run,
                        i,
                    )
                    for i, (run, said) in enumerate(found.items())
                    if said is not None and v in said.points
                ]
                if parts:
                    out.setdefault((str(question), v), {})[system] = _pooled(parts)
    return out


def system_names(experiment: Experiment) -> list[str]:
    """What nobody can do better, then the baselines."""
    exact = [EXACT] if isinstance(experiment.config.cohort, Simulation) else []
    simple = [SIMPLE, LINEAR] if experiment.config.baselines else []
    return [*exact, *simple, *experiment.config.systems]


def _answered(
    experiment: Experiment, system: str, question: Question, run: Run, test: Table
) -> SystemAnswers | None:
    if system in (SIMPLE, LINEAR):
        if system == LINEAR and not any(v in experiment.schema.images for v in question.given):
            return None  # it reads images alone
        said = experiment.answers(SIMPLE, run).read(system)
        return None if said is None else _rows(said, records_with(question, test))
    if system == EXACT:
        name, *others = question.asked
        if others or not _given_images(experiment, question):
            return None  # the truth holds the posterior given the image
        people = tuple(test.subjects[i] for i in records_with(question, test))
        return exact_answers(experiment.bids, experiment.schema, name, people)
    return experiment.answers(system, run).read(str(question))


def _given_images(experiment: Experiment, question: Question) -> bool:
    """Whether all images are given, and nothing else."""
    return set(question.given) == set(experiment.schema.images)


def _rows(said: SystemAnswers, rows: np.ndarray) -> SystemAnswers:
    return SystemAnswers(
        {v: x[rows] for v, x in said.points.items()},
        {},
        {v: x[rows] for v, x in said.probabilities.items()},
    )


def _calibration(
    experiment: Experiment, system: str, question: Question, name: str, run: Run
) -> Calibration | None:
    """That of the model's answers in one evaluation given its images, stored with the model.

    A label has none, though a model may have answered it as a number.
    """
    plan = experiment.config.systems.get(system)
    if plan is None or plan.training is None or plan.samples > 0:
        return None
    if name not in experiment.schema.numbers or not _given_images(experiment, question):
        return None
    path = experiment.model(plan.training, run) / "calibration.json"
    stored = (read_model(path, Calibrations).one_evaluation if path.is_file() else None) or {}
    return Calibration.from_json(stored[name].model_dump()) if name in stored else None


def _one(
    name: str,
    said: SystemAnswers,
    test: Table,
    rows: np.ndarray,
    calibration: Calibration | None,
    run: Run,
    index: int,
) -> Pooled:
    truth = test.scalars[name][rows]
    known = np.flatnonzero(~np.isnan(truth))

    def of(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        return arrays[name][known] if name in arrays else None

    point, samples, spread = of(said.points), of(said.samples), of(said.spreads)
    assert point is not None
    amended = None
    if calibration is not None:
        amended = calibrated(calibration, point, spread)
    return Pooled(
        truth[known],
        point,
        samples,
        spread,
        of(said.probabilities),
        amended,
        [test.subjects[i] for i in rows[known]],
        [f"{test.records[i]} {run}" for i in rows[known]],
        np.full(len(known), index),
    )


def _pooled(parts: Sequence[Pooled]) -> Pooled:
    def joined(kind: str) -> Any:
        each = [getattr(part, kind) for part in parts]
        if any(x is None for x in each):
            return None
        if isinstance(each[0], Calibrated):
            return _amended(each)
        return np.concatenate(each) if isinstance(each[0], np.ndarray) else [*chain(*each)]

    return Pooled(*(joined(kind) for kind in Pooled.__dataclass_fields__))


def _amended(parts: Sequence[Calibrated]) -> Calibrated:
    """Of all runs: corrected if each of them could be, with the levels that all of them have."""

    def ends(level: float, end: int) -> np.ndarray:
        return np.concatenate([part.intervals[level][end] for part in parts])

    each = [part.corrected for part in parts if part.corrected is not None]
    corrected = np.concatenate(each) if len(each) == len(parts) else None
    levels = [x for x in parts[0].intervals if all(x in part.intervals for part in parts)]
    return Calibrated(corrected, {x: (ends(x, 0), ends(x, 1)) for x in levels})


def scored(experiment: Experiment, answers: Answers) -> list[dict[str, Any]]:
    """A row per question, variable and system: every measure, and the comparison."""
    return [
        row
        for (question, v), by_system in answers.items()
        for row in _rows_of(experiment, question, v, by_system)
    ]


def _rows_of(
    experiment: Experiment, question: str, name: str, by_system: Mapping[str, Pooled]
) -> Iterator[dict[str, Any]]:
    number = name in experiment.schema.numbers
    for system, found in by_system.items():
        people = Bootstrap(found.subjects)
        if number:
            predictive = predictive_of(found.samples, found.point, found.spread)
            scores = continuous_scores(found.truth, found.point, predictive, found.amended, people)
            if predictive is not None:
                scores["variance"] = people.score(mean_of(predictive.variance))
        else:
            assert found.probabilities is not None
            scores = categorical_scores(found.truth, found.point, found.probabilities, people)
        yield {
            "question": question,
            "variable": name,
            "system": system,
            "n": len(found.truth),
            "subjects": len(set(found.subjects)),
            "scores": {k: x.to_json() for k, x in scores.items()},
            "runs": _by_run(found, number),
            "gain": _gain(experiment, by_system, system, number),
        }


def _by_run(found: Pooled, number: bool) -> list[float]:
    """The headline of every run on its own: what another fold or seed changes."""
    losses = found.losses(number)
    return [float(losses[found.run == i].mean()) for i in np.unique(found.run)]


def _gain(
    experiment: Experiment, by_system: Mapping[str, Pooled], system: str, number: bool
) -> dict[str, Any] | None:
    """By how much the reference is better on the records that both have answered."""
    reference = experiment.config.reference
    if system == reference or reference not in by_system:
        return None
    ours, theirs = by_system[reference], by_system[system]
    pairs = paired(ours, theirs)
    if pairs is None:
        return None
    i, j = pairs
    points = {reference: ours.point[i], system: theirs.point[j]}
    people = Bootstrap([str(theirs.subjects[k]) for k in j])
    return gains(theirs.truth[j], points, reference, number, people)[system].to_json()


def paired(ours: Pooled, theirs: Pooled) -> tuple[np.ndarray, np.ndarray] | None:
    """Where the records that both have answered stand in each (n,), fold by fold and seed by seed;
    None if there are none."""
    own = {cell: i for i, cell in enumerate(ours.cells)}
    pairs = [(own[c], j) for j, c in enumerate(theirs.cells) if c in own]
    if not pairs:
        return None
    i, j = np.array(pairs).T
    return i, j
