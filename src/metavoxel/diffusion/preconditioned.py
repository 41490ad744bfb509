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

from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.process import Past, over_axes
from metavoxel.diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class PreconditionedGaussian:
    """A Gaussian process whose network prediction is a correction, of variance 1 over the data.

    `std` gives the standard deviation (> 0) of every element of z_0, whose mean is 0.
    """

    process: GaussianProcess
    std: Callable[[], Tensor]

    @property
    def schedule(self) -> Schedule:
        return self.process.schedule

    @property
    def widths(self) -> tuple[int, int]:
        return self.process.widths

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
        """The linear answer E[z_0 | z_t]: pure noise is shown as the mean image."""
        return self.clean(torch.zeros_like(zt), zt, t)

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the target, relative to that of the linear answer: 1 is no better."""
        zt = self.process.noised(z0, t, noise)
        linear, spread = self.linear(zt, t)
        target = self.process.target(z0, t, noise)
        error = (linear + spread * prediction - target).square().flatten(1).mean(1)
        return error / spread.square().flatten(1).mean(1)

    def clean(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        return self.process.clean(self.target(prediction, zt, t), zt, t)

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
        target = self.target(prediction, zt, t)
        return self.process.step(target, zt, t, s, generator, eta, past)

    def past(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Past:
        return self.process.past(self.target(prediction, zt, t), zt, t)

    def target(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """What the process's own network would say: the linear answer and its correction."""
        linear, spread = self.linear(zt, t)
        return linear + spread * prediction

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
