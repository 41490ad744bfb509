"""Processes whose network predicts the residual of a closed-form estimate of z_0 given z_t.

The estimate is also the network's input in place of z_t, so that the input of a marginalised
variable is 0, where its noise would drown the known variables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from metavoxel.diffusion.process import Past, Process
from metavoxel.diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class CombinedProcess(ABC):
    """`process`, with a network that speaks of the rest of the record alone."""

    process: Process

    @abstractmethod
    def combined(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """What the network of `process` would say: the prediction, together with z_t's own word."""

    @abstractmethod
    def silence(self, zt: Tensor) -> Tensor:
        """The prediction that adds nothing to z_t's own word."""

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int]: ...

    @property
    def schedule(self) -> Schedule:
        return self.process.schedule

    def noise(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        return self.process.noise(n, shape, generator)

    def prior(self, noise: Tensor) -> Tensor:
        return self.process.prior(noise)

    def noised(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.process.noised(z0, t, noise)

    def renoised(self, zs: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.process.renoised(zs, s, t, noise)

    def seen(self, zt: Tensor, t: Tensor) -> Tensor:
        """z_t's own word on z_0: E[z_0 | z_t], or probabilities of the labels."""
        return self.clean(self.silence(zt), zt, t)

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        zt = self.noised(z0, t, noise)
        return self.process.loss(self.combined(prediction, zt, t), z0, t, noise)

    def clean(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        return self.process.clean(self.combined(prediction, zt, t), zt, t)

    def step(
        self,
        prediction: Tensor,
        zt: Tensor,
        t: Tensor,
        s: Tensor,
        generator: torch.Generator | None = None,
        eta: float = 0.0,
        past: Past | None = None,
    ) -> Tensor:
        return self.process.step(self.combined(prediction, zt, t), zt, t, s, generator, eta, past)

    def past(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Past | None:
        return self.process.past(self.combined(prediction, zt, t), zt, t)
