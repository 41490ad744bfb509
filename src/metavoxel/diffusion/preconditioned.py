"""Gaussian diffusion whose network corrects the answer that a Gaussian would give.

A network that must predict an image's velocity or noise spends most of its training on passing its
own input through, at every noise level and in every channel. If each element of z_0 is N(m, s^2),
independently of the others, the best answer is known (the posterior mean of Bayes' rule, linear in
z_t), and so is the error that it leaves. The network predicts that error, in units of its standard
deviation. This is the preconditioning of EDM (Karras et al., 2022, Eq. 7), with the mean and
standard deviation of every element where EDM has one of all data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metavoxel.diffusion.combined import CombinedProcess
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.process import over_axes


@dataclass(frozen=True, eq=False)
class PreconditionedGaussian(CombinedProcess):
    """A Gaussian process whose network prediction is a correction, of variance 1 over the data.

    `std` gives the standard deviation (> 0) of every element of z_0, whose mean is 0.
    """

    process: GaussianProcess
    std: Callable[[], Tensor]

    @property
    def widths(self) -> tuple[int, int]:
        return self.process.widths

    def combined(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        linear, spread = self.linear(zt, t)
        return linear + spread * prediction

    def silence(self, zt: Tensor) -> Tensor:
        return torch.zeros_like(zt)

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the target, relative to that of the linear answer: 1 is no better."""
        zt = self.process.noised(z0, t, noise)
        linear, spread = self.linear(zt, t)
        target = self.process.target(z0, t, noise)
        error = (linear + spread * prediction - target).square().flatten(1).mean(1)
        return error / spread.square().flatten(1).mean(1)

    def linear(self, zt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the target given z_t, under N(0, s^2). Shapes (B, ...).

        With a = alpha_bar(t) and V = Var z_t = a s^2 + 1 - a, E[z_0 | z_t] is sqrt(a) s^2 z_t / V,
        of variance (1 - a) s^2 / V; the noise and the velocity are linear in z_0 and z_t. All three
        forms are finite at every t > 0.
        """
        std = self.std()
        a = over_axes(self.schedule.alpha_bar(t), zt)
        total = a * std.square() + 1 - a
        slope, spread = {
            "x0": (a.sqrt() * std.square(), (1 - a).sqrt()),
            "epsilon": ((1 - a).sqrt(), a.sqrt()),
            "v": ((a * (1 - a)).sqrt() * (1 - std.square()), torch.ones_like(a)),
        }[self.process.prediction]
        return slope * zt / total, spread * std / total.sqrt()
