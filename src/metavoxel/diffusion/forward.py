"""The forward process of one variable, q(z_t | z_0), and its reverse step.

A new kind of process is one new file with a class of these methods (see docs/extending.md).
Shapes: the first axis is the batch; `t` and `s` hold one integer time per record, 0 <= s < t <= T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metavoxel.diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Past:
    """What the step before was taken from: E[z_0 | z_t], the noise, and the angle
    arccos sqrt(alpha_bar). A second-order step extrapolates from it."""

    z0: Tensor
    noise: Tensor
    angle: Tensor


class Forward(Protocol):
    """q(z_t | z_0) of one variable, and p(z_s | z_t) given an estimate of z_0."""

    @property
    def schedule(self) -> Schedule: ...

    def noise(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Everything random in one draw of q(z_t | z_0), for n records, on the CPU.

        Generators live on the CPU, so that a seed gives the same draws on every device.
        """
        ...

    def prior(self, noise: Tensor) -> Tensor:
        """z_T, drawn from the stationary distribution."""
        ...

    def noised(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t ~ q(z_t | z_0)."""
        ...

    def renoised(self, zs: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t ~ q(z_t | z_s), s < t: forward again, as RePaint's resampling does."""
        ...

    def step(
        self,
        z0: Tensor,
        zt: Tensor,
        t: Tensor,
        s: Tensor,
        generator: torch.Generator | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """z_s ~ p(z_s | z_t), s < t, any number of steps at once, where `z0` is E[z_0 | z_t]."""
        ...

    def past(self, z0: Tensor, zt: Tensor, t: Tensor) -> Past | None:
        """What the next step may extrapolate from, if this process can."""
        ...


def over_axes(values: Tensor, like: Tensor) -> Tensor:
    """Per-record values (B,) shaped to broadcast over `like` (B, ...)."""
    return values.view(-1, *([1] * (like.ndim - 1))).to(like.dtype)
