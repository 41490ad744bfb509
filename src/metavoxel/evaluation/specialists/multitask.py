"""One ResNet for every question about scalars: the fair opponent of a joint model.

Its inputs are the images and all scalars with a flag each, known or not; its heads predict every
scalar. It is trained on random subsets of what is known of a record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.questions import rows_of
from metavoxel.evaluation.specialists.config import (
    MultitaskConfig,
    Weights,
    check_multitask_question,
)
from metavoxel.evaluation.specialists.encoding import (
    FlaggedInputs,
    Target,
    column,
    fit_flagged_inputs,
)
from metavoxel.evaluation.specialists.loop import (
    SETTINGS,
    WEIGHTS,
    Examples,
    Progress,
    digest_of,
    fit_network,
    opened,
)
from metavoxel.evaluation.specialists.networks import MultitaskNetwork, Standardised
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.files.json import read_model
from metavoxel.files.wall import reading
from metavoxel.files.weights import load_weights
from metavoxel.inference.ask import check_finite
from metavoxel.inference.query import Question
from metavoxel.schema import Schema
from metavoxel.settings import Strict

_RECORDS = 16  # that are answered at once


class FittedMultitask(Strict):
    """What a multi-task specialist follows from: settings, seed, data and their scales."""

    config: MultitaskConfig
    seed: int
    data: str = Field(description="SHA-256 of all that it was trained and selected on")
    inputs: FlaggedInputs

    def build(self) -> Standardised:
        """The network, with random weights from torch's global generator."""
        outputs = sum(target.outputs for target in self.inputs.scalars)
        return Standardised(MultitaskNetwork(self.config, self.inputs, outputs), self.inputs)


@dataclass(frozen=True, eq=False)
class MultitaskSpecialist:
    """A trained network that answers any question for scalars that gives all images."""

    fitted: FittedMultitask
    network: nn.Module

    @torch.no_grad()
    def answers(self, question: Question, table: Table) -> SystemAnswers:
        """The answers for every record: numbers in their units, label indices and probabilities.

        A known value that is missing is not known. Raises MetaVoxelError if an image is not given,
        or something else than scalars is asked.
        """
        start, inputs = time.perf_counter(), self.fitted.inputs
        targets = {target.name: target for target in inputs.scalars}
        check_multitask_question(question, [*targets], [*inputs.images])
        device = next(self.network.parameters()).device
        self.network.eval()
        values = _values(table, inputs.scalars)
        known = ~values.isnan() & torch.tensor([v in question.given for v in targets])
        scalars, images = inputs.encode(values, known), inputs.stacked(table)
        parts = zip(images.split(_RECORDS), scalars.split(_RECORDS), strict=True)
        said = torch.cat([self.network(x.to(device), s.to(device)).cpu() for x, s in parts])
        check_finite({", ".join(question.asked): said})
        by_name = dict(zip(targets, _heads(said, inputs.scalars), strict=True))
        each = [targets[v].answers(by_name[v], 0.0) for v in question.asked]
        points = {v: x for one in each for v, x in one.points.items()}
        probabilities = {v: x for one in each for v, x in one.probabilities.items()}
        seconds = time.perf_counter() - start
        return SystemAnswers(points, probabilities=probabilities, seconds=seconds)


def load_multitask(folder: Path, weights: Weights = "best") -> MultitaskSpecialist:
    """Read a trained network, with the averaged weights that validation chose or those of the last
    step. Raises MetaVoxelError if it is not there, or damaged."""
    fitted = read_model(folder / SETTINGS, FittedMultitask)
    with torch.random.fork_rng(), reading(folder / SETTINGS, "the settings of a specialist"):
        network = fitted.build()
    load_weights(network, folder / WEIGHTS[weights])  # those that it begins with are replaced
    return MultitaskSpecialist(fitted, network.eval())


def train_multitask(
    config: MultitaskConfig,
    schema: Schema,
    training: Table,
    validation: Table,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
) -> MultitaskSpecialist:
    """Train the network, or continue, or read it if `folder` holds it already.

    Records that have no scalar are left out. Raises MetaVoxelError if the data do not serve, or if
    `folder` holds a specialist of other settings or data.
    """
    folder = Path(folder)
    config.check_augmentation(schema)
    training, validation = (
        _with_a_scalar(schema, table, part)
        for table, part in ((training, "training"), (validation, "validation"))
    )
    inputs = fit_flagged_inputs(schema, training)
    data = digest_of([*schema], training, validation)
    fitted = FittedMultitask(config=config, seed=seed, data=data, inputs=inputs)
    with opened(folder, fitted) as done:
        if not done:
            fit_network(
                config,
                seed,
                inputs,
                fitted.build,
                _Records.of(training, inputs, 1),
                _Records.of(validation, inputs, config.validation_draws),
                [*schema.scalars],
                folder,
                progress,
            )
        return load_multitask(folder)


def _with_a_scalar(schema: Schema, table: Table, part: str) -> Table:
    rows = np.flatnonzero([not np.isnan(x).all() for x in _columns(table, [*schema.scalars])])
    if not len(rows):
        raise MetaVoxelError(
            f"No {part} record has any of {', '.join(schema.scalars)}, so no specialist can be "
            "trained. Give records that have them."
        )
    return rows_of(table, rows)


def _columns(table: Table, names: Sequence[str]) -> np.ndarray:
    """The scalars of a table, (n, V)."""
    return np.stack([column(table, v) for v in names], 1)


def _values(table: Table, targets: Sequence[Target]) -> Tensor:
    return torch.from_numpy(_columns(table, [target.name for target in targets]))


def _heads(said: Tensor, targets: Sequence[Target]) -> Sequence[Tensor]:
    """Outputs (b, K) by target."""
    return said.split([target.outputs for target in targets], 1)


@dataclass(eq=False)
class _Records(Examples):
    """All images and scalars (n, V) of a table; which are known is drawn anew each time.

    A share of the scalars, itself uniform in [0, 1], is known: nothing and everything else are
    known as often as any number between.
    """

    images: Tensor
    values: Tensor
    inputs: FlaggedInputs
    draws: int

    @staticmethod
    def of(table: Table, inputs: FlaggedInputs, draws: int) -> _Records:
        return _Records(inputs.stacked(table), _values(table, inputs.scalars), inputs, draws)

    def drawn(self, rows: Tensor, draw: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The inputs, and the values (b, V) with what of them is asked: all that is not known."""
        values = self.values[rows]
        share = torch.rand(len(rows), 1, generator=draw)
        told = torch.rand(values.shape, generator=draw) < share
        there = ~values.isnan()
        return self.inputs.encode(values, told & there), (values, ~told & there)

    def losses(
        self, said: Tensor, wanted: tuple[Tensor, Tensor]
    ) -> Mapping[str, tuple[Tensor, int]]:
        values, asked = (x.to(said.device) for x in wanted)
        heads, out = _heads(said, self.inputs.scalars), {}
        for i, target in enumerate(self.inputs.scalars):
            rows = asked[:, i].nonzero()[:, 0]
            if len(rows):
                truth = target.encode(values[rows, i])
                out[target.name] = target.loss(heads[i][rows], truth), len(rows)
        return out or {"nothing": (said.sum() * 0, 1)}  # everything is known of these records
