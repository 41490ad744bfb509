"""An evaluation's answers, scored: every measure of every system, and the systems compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metavoxel.evaluation.cohort import Parts, Table
from metavoxel.evaluation.distributions import Predictive, pit_histogram
from metavoxel.evaluation.measures import (
    calibrated,
    categorical_scores,
    continuous_scores,
    gains,
    predictive_of,
)
from metavoxel.evaluation.scores import Bootstrap
from metavoxel.evaluation.systems import ONE, SystemAnswers
from metavoxel.inference.calibration import Calibration
from metavoxel.schema import Schema

_PIT_BINS, _MANY = 10, 100  # bins of the PIT histogram; half as many below so many records


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was asked and answered: everything that the scores and the pictures come from."""

    schema: Schema  # the model's variables that the cohort has
    parts: Parts
    table: Table
    systems: Mapping[str, SystemAnswers]
    reference: str  # the system that the others are compared with
    calibrations: Mapping[str, Calibration]  # of the one evaluation


@dataclass(frozen=True, eq=False)
class Known:
    """The records (n,) in which a variable's truth is known."""

    rows: np.ndarray
    truth: np.ndarray
    people: Bootstrap


def known_records(evaluation: Evaluation) -> Iterator[tuple[str, Known]]:
    """By variable; those that nobody has are left out."""
    for v in evaluation.schema.scalars:
        truth = evaluation.table.scalars[v]
        rows = np.flatnonzero(~np.isnan(truth))
        if len(rows):
            subjects = [evaluation.table.subjects[i] for i in rows]
            yield v, Known(rows, truth[rows], Bootstrap(subjects))


def score_systems(evaluation: Evaluation) -> dict[str, dict[str, dict[str, Any]]]:
    """Per variable and system: every measure, as plain numbers."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for v, known in known_records(evaluation):
        out[v] = {}
        for system, answers in evaluation.systems.items():
            if v not in answers.points:
                continue
            point = answers.points[v][known.rows]
            if v in evaluation.schema.numbers:
                predictive = predictive_for(answers, v, known.rows)
                own = evaluation.calibrations.get(v) if system == ONE else None
                spread = spread_of(answers, v, known.rows)
                amended = calibrated(own, point, spread) if own is not None else None
                scores = continuous_scores(known.truth, point, predictive, amended, known.people)
            else:
                probabilities = answers.probabilities[v][known.rows]
                scores = categorical_scores(known.truth, point, probabilities, known.people)
            out[v][system] = {name: score.to_json() for name, score in scores.items()}
    return out


def predictive_for(answers: SystemAnswers, name: str, rows: np.ndarray) -> Predictive | None:
    """The predictive distributions of a system's answers to a continuous variable, or None."""
    samples = answers.samples.get(name)
    return predictive_of(
        None if samples is None else samples[rows],
        answers.points[name][rows],
        spread_of(answers, name, rows),
    )


def spread_of(answers: SystemAnswers, name: str, rows: np.ndarray) -> np.ndarray | None:
    """The standard deviations that a system states of its answers, or None."""
    spread = answers.spreads.get(name)
    return None if spread is None else spread[rows]


def compare_systems(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Per variable: by how much the reference is better than each other system."""
    out = {}
    for v, known in known_records(evaluation):
        points = {
            system: answers.points[v][known.rows]
            for system, answers in evaluation.systems.items()
            if v in answers.points
        }
        number = v in evaluation.schema.numbers
        scores = gains(known.truth, points, evaluation.reference, number, known.people)
        out[v] = {system: score.to_json() for system, score in scores.items()}
    return out


def pit_of_systems(evaluation: Evaluation) -> dict[str, dict[str, list[float]]]:
    """Per continuous variable and system with a distribution: counts of the PIT histogram."""
    out: dict[str, dict[str, list[float]]] = {}
    for v, known in known_records(evaluation):
        for system, answers in evaluation.systems.items():
            if v in evaluation.schema.numbers and v in answers.points:
                predictive = predictive_for(answers, v, known.rows)
                if predictive is not None:
                    bins = _PIT_BINS if len(known.rows) >= _MANY else _PIT_BINS // 2
                    counts = pit_histogram(predictive, known.truth, bins)
                    out.setdefault(v, {})[system] = [round(float(x), 4) for x in counts]
    return out
