"""What a specialist reads of a record, what it is to say, and how far it is off."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.inference.query import Question
from metavoxel.schema import Schema
from metavoxel.settings import Strict


class Standard(Strict):
    """x -> (x - offset) / scale."""

    offset: float
    scale: float

    def encode(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.scale


class ImageInputs(Strict, ABC):
    """The known images with their channels, and beside them `features` numbers of scalars."""

    images: dict[str, int]
    grid: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    @abstractmethod
    def features(self) -> int: ...

    @property
    def channels(self) -> int:
        return sum(self.images.values())

    def stacked(self, table: Table) -> Tensor:
        """The known images of a table as one, (n, C, *grid) in [0, 1]."""
        return torch.cat([torch.as_tensor(table.images[v]).float() for v in self.images], 1)


class Inputs(ImageInputs):
    """The known images, and the known scalars, each on a scale of about 1."""

    scalars: dict[str, Standard]

    @property
    def features(self) -> int:
        return len(self.scalars)

    def encode_scalars(self, table: Table) -> Tensor:
        """(n, S); a value that is missing is 0."""
        columns = [c.encode(torch.tensor(column(table, v))) for v, c in self.scalars.items()]
        empty = torch.zeros(len(table), 0)
        return torch.stack(columns, 1).float().nan_to_num(nan=0.0) if columns else empty


class ContinuousTarget(Strict):
    """A number, standardised by the training records; mean squared error."""

    kind: Literal["continuous"] = "continuous"
    name: str
    standard: Standard

    @property
    def outputs(self) -> int:
        return 1

    def embed(self, values: Tensor) -> Tensor:
        """As an input, (n, 1)."""
        return self.encode(values)[:, None]

    def encode(self, values: Tensor) -> Tensor:
        return self.standard.encode(values).float()

    def loss(self, said: Tensor, truth: Tensor) -> Tensor:
        return F.mse_loss(said[:, 0], truth)

    def answers(self, said: Tensor, seconds: float) -> SystemAnswers:
        points = said[:, 0].double() * self.standard.scale + self.standard.offset
        return SystemAnswers({self.name: points.numpy()}, seconds=seconds)


class CategoricalTarget(Strict):
    """One of K labels; cross-entropy."""

    kind: Literal["categorical"] = "categorical"
    name: str
    labels: int

    @property
    def outputs(self) -> int:
        return self.labels

    def embed(self, values: Tensor) -> Tensor:
        """As an input, (n, K)."""
        return F.one_hot(values.long(), self.labels).float()

    def encode(self, values: Tensor) -> Tensor:
        return values.long()

    def loss(self, said: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(said, truth)

    def answers(self, said: Tensor, seconds: float) -> SystemAnswers:
        probabilities = {self.name: said.double().softmax(1).numpy()}
        points = {self.name: said.argmax(1).double().numpy()}
        return SystemAnswers(points, probabilities=probabilities, seconds=seconds)


Target = Annotated[ContinuousTarget | CategoricalTarget, Field(discriminator="kind")]


class FlaggedInputs(ImageInputs):
    """The images, and every scalar with a flag that says whether it is known."""

    scalars: tuple[Target, ...]

    @property
    def features(self) -> int:
        return sum(1 + target.outputs for target in self.scalars)

    def encode(self, values: Tensor, known: Tensor) -> Tensor:
        """values and known (n, V) -> (n, features): what is not known is 0, and so is its flag."""
        parts = []
        for i, target in enumerate(self.scalars):
            flag = known[:, i : i + 1].float()
            parts += [target.embed(values[:, i].nan_to_num(nan=0.0)) * flag, flag]
        return torch.cat(parts, 1)


def column(table: Table, name: str) -> np.ndarray:
    """The values (n,) of a scalar; of one that the table lacks, all are missing."""
    return table.scalars.get(name, np.full(len(table), np.nan))


def fit_inputs(question: Question, schema: Schema, training: Table) -> Inputs:
    """How the training records (those with a target) are put on a scale."""
    images = {v: kind.channels for v, kind in schema.images.items() if v in question.given}
    scalars = {v: _scaled(v, schema, training) for v in question.given if v in schema.scalars}
    return Inputs(images=images, scalars=scalars, **_space(schema))


def fit_flagged_inputs(schema: Schema, training: Table) -> FlaggedInputs:
    """All images, and all scalars by the training records that have them."""
    images = {v: kind.channels for v, kind in schema.images.items()}
    targets = tuple(fit_target(v, schema, training) for v in schema.scalars)
    return FlaggedInputs(images=images, scalars=targets, **_space(schema))


def _space(schema: Schema) -> dict[str, Any]:
    kind = next(iter(schema.images.values()))  # all images of a schema share one grid
    return {"grid": kind.shape, "spacing": kind.spacing}


def fit_target(name: str, schema: Schema, training: Table) -> ContinuousTarget | CategoricalTarget:
    """What is asked, standardised by the training records if it is a number."""
    if name in schema.categorical:
        return CategoricalTarget(name=name, labels=len(schema.categorical[name].labels))
    return ContinuousTarget(name=name, standard=_scaled(name, schema, training))


def _scaled(name: str, schema: Schema, training: Table) -> Standard:
    """A number by its mean and standard deviation; labels evenly over [-1, 1]."""
    if name in schema.categorical:
        half = (len(schema.categorical[name].labels) - 1) / 2
        return Standard(offset=half, scale=half)
    values = column(training, name)
    values = values[~np.isnan(values)]
    if not len(values):
        raise MetaVoxelError(
            f"No training record has {name}, which the specialist is to know. Leave it out of the "
            "question."
        )
    scale = float(values.std())
    return Standard(offset=float(values.mean()), scale=scale if scale > 0 else 1.0)
