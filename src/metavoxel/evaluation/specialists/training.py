"""Training a specialist for its one question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.questions import rows_of
from metavoxel.evaluation.specialists.config import SpecialistConfig
from metavoxel.evaluation.specialists.encoding import (
    Inputs,
    Target,
    column,
    fit_inputs,
    fit_target,
)
from metavoxel.evaluation.specialists.loop import (
    Examples,
    Progress,
    digest_of,
    fit_network,
    opened,
)
from metavoxel.evaluation.specialists.networks import build_network
from metavoxel.evaluation.specialists.specialist import Fitted, Specialist, load_specialist
from metavoxel.schema import Schema


def train_specialist(
    config: SpecialistConfig,
    schema: Schema,
    training: Table,
    validation: Table,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
) -> Specialist:
    """Train a specialist, or continue, or read it if `folder` holds it already.

    Records without the value that is asked are left out. Raises MetaVoxelError if the question or
    the data do not serve, or if `folder` holds a specialist of other settings or data.
    """
    folder = Path(folder)
    question = config.checked(schema)
    asked = question.asked[0]
    training, validation = (
        _with_target(asked, table, part)
        for table, part in ((training, "training"), (validation, "validation"))
    )
    fitted = Fitted(
        config=config,
        seed=seed,
        data=digest_of((*question.given, asked), training, validation),
        inputs=fit_inputs(question, schema, training),
        target=fit_target(asked, schema, training),
    )
    inputs, target = fitted.inputs, fitted.target
    with opened(folder, fitted) as done:
        if not done:
            fit_network(
                config,
                seed,
                inputs,
                lambda: build_network(config, inputs, target.outputs),
                _Records.of(training, inputs, target),
                _Records.of(validation, inputs, target),
                (asked,),
                folder,
                progress,
            )
        return load_specialist(folder)


def _with_target(asked: str, table: Table, part: str) -> Table:
    rows = np.flatnonzero(~np.isnan(column(table, asked)))
    if not len(rows):
        raise MetaVoxelError(
            f"No {part} record has {asked}, so no specialist can be trained for it. Ask for "
            "another variable, or give records that have it."
        )
    return rows_of(table, rows)


@dataclass(eq=False)
class _Records(Examples):
    """The known of a table, and the truth (n,) about the one scalar that is asked."""

    images: Tensor
    scalars: Tensor
    truth: Tensor
    target: Target

    @staticmethod
    def of(table: Table, inputs: Inputs, target: Target) -> _Records:
        truth = target.encode(torch.tensor(table.scalars[target.name]))
        return _Records(inputs.stacked(table), inputs.encode_scalars(table), truth, target)

    def drawn(self, rows: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.scalars[rows], self.truth[rows]

    def losses(self, said: Tensor, wanted: Tensor) -> Mapping[str, tuple[Tensor, int]]:
        return {self.target.name: (self.target.loss(said, wanted.to(said.device)), len(wanted))}
