"""The opponents of an experiment: networks trained for its questions, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.experiment.config import SystemPlan
from metavoxel.evaluation.specialists.config import MultitaskConfig, SpecialistConfig, Weights
from metavoxel.evaluation.specialists.multitask import load_multitask, train_multitask
from metavoxel.evaluation.specialists.specialist import load_specialist
from metavoxel.evaluation.specialists.spread import with_validation_spread
from metavoxel.evaluation.specialists.training import train_specialist
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.inference.query import Question, parse_question
from metavoxel.schema import Schema

_BOTH: Mapping[str, Sequence[Weights]] = {
    "best": ("best",),
    "last": ("last",),
    "both": ("best", "last"),
}


@dataclass(frozen=True, eq=False)
class Opponent:
    """One network of a system, with the records that it is trained and selected on."""

    config: SpecialistConfig | MultitaskConfig
    schema: Schema
    training: Table
    validation: Table
    folder: Path
    seed: int

    def train(self) -> None:
        """Train it, or continue, or nothing if it is there. Raises MetaVoxelError."""
        facts = self.schema, self.training, self.validation, self.folder, self.seed
        if isinstance(self.config, SpecialistConfig):
            train_specialist(self.config, *facts)
        else:
            train_multitask(self.config, *facts)

    def answers(self, question: Question, test: Table, weights: str) -> SystemAnswers:
        """Of the trained network, numbers with the Gaussian of its validation residuals."""

        def said(table: Table) -> SystemAnswers:
            return mean_answers([self._said(question, table, each) for each in _BOTH[weights]])

        return with_validation_spread(said(test), said(self.validation), self.validation)

    def _said(self, question: Question, table: Table, weights: Weights) -> SystemAnswers:
        if isinstance(self.config, SpecialistConfig):
            return load_specialist(self.folder, weights).answers(table)
        return load_multitask(self.folder, weights).answers(question, table)


def networks(plan: SystemPlan) -> Sequence[SpecialistConfig | MultitaskConfig]:
    """What a system trains."""
    return [*plan.specialists, *([plan.multitask] if plan.multitask is not None else [])]


def asked_of(
    config: SpecialistConfig | MultitaskConfig, questions: Sequence[Question]
) -> Sequence[Question]:
    """Which of a system's questions a network answers."""
    if isinstance(config, SpecialistConfig):
        return [parse_question(config.question)]
    return questions


def mean_answers(said: Sequence[SystemAnswers]) -> SystemAnswers:
    """The ensemble of point answers: means of numbers and of probabilities, the likeliest label."""
    probabilities = {
        v: np.mean([each.probabilities[v] for each in said], axis=0) for v in said[0].probabilities
    }
    points = {
        v: probabilities[v].argmax(1).astype(float)
        if v in probabilities
        else np.mean([each.points[v] for each in said], axis=0)
        for v in said[0].points
    }
    seconds = sum(each.seconds for each in said)
    return SystemAnswers(points, probabilities=probabilities, seconds=seconds)
