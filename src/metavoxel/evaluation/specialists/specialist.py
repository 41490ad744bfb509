"""A trained specialist and its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.specialists.config import SpecialistConfig, Weights
from metavoxel.evaluation.specialists.encoding import Inputs, Target
from metavoxel.evaluation.specialists.loop import SETTINGS, WEIGHTS
from metavoxel.evaluation.specialists.networks import build_network
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.files.json import read_model
from metavoxel.files.wall import reading
from metavoxel.files.weights import load_weights
from metavoxel.inference.ask import check_finite
from metavoxel.settings import Strict

_RECORDS = 16  # that are answered at once


class Fitted(Strict):
    """What a specialist follows from, `specialist.json`: settings, seed, data and their scales."""

    config: SpecialistConfig
    seed: int
    data: str = Field(description="SHA-256 of all that it was trained and selected on")
    inputs: Inputs
    target: Target


@dataclass(frozen=True, eq=False)
class Specialist:
    """A trained network that answers its one question."""

    fitted: Fitted
    network: nn.Module

    @property
    def config(self) -> SpecialistConfig:
        return self.fitted.config

    @torch.no_grad()
    def answers(self, table: Table) -> SystemAnswers:
        """The answer for every record: a number in its unit, or a label index and probabilities."""
        start, inputs = time.perf_counter(), self.fitted.inputs
        device = next(self.network.parameters()).device
        self.network.eval()
        parts = zip(
            inputs.stacked(table).split(_RECORDS),
            inputs.encode_scalars(table).split(_RECORDS),
            strict=True,
        )
        said = torch.cat([self.network(x.to(device), s.to(device)).cpu() for x, s in parts])
        check_finite({self.fitted.target.name: said})
        return self.fitted.target.answers(said, time.perf_counter() - start)


def load_specialist(folder: Path, weights: Weights = "best") -> Specialist:
    """Read a trained specialist, with the averaged weights that validation chose or those of the
    last step. Raises MetaVoxelError if it is not there, or damaged."""
    fitted = read_model(folder / SETTINGS, Fitted)
    with torch.random.fork_rng(), reading(folder / SETTINGS, "the settings of a specialist"):
        network = build_network(fitted.config, fitted.inputs, fitted.target.outputs)
    load_weights(network, folder / WEIGHTS[weights])  # those that it begins with are replaced
    return Specialist(fitted, network.eval())
