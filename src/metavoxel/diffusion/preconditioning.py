"""An image whose network predicts the error of its LMMSE estimate (preconditioning).

A network that must predict an image's velocity or noise spends most of its training on passing its
own input through, at every noise level and in every channel, and on what all images of the training
set share. If z_0 were Gaussian, its best estimate would be linear in z_t (LMMSE, the Wiener
filter), with a known error. The network predicts that error, in units of its standard deviation.
This is the preconditioning of EDM (Karras et al., 2022, Eq. 7), with a Gaussian of the training
images where EDM has one standard deviation for all data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metavoxel.diffusion.forward import over_axes
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.linear_gaussian.images import LMMSE, FactorGaussian, Moments

_NOISE = 4.0  # weight of the noise's error, so that an image counts about as much as a scalar
_TAUGHT = 0.003  # alpha_bar about which Eq. 5 ceases to teach: docs/explanation/engines.md
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Preconditioned:
    """The network sees the LMMSE estimate of an image and the part of it that is unique to each
    element, which the shared would drown, and predicts the estimate's error over its standard
    deviation.

    `gaussian` gives the Gaussian of the estimate. Eq. 5 teaches nothing at T, so that corrections
    fade there and leave the LMMSE estimate.
    """

    forward: GaussianForward
    gaussian: Callable[[], FactorGaussian]

    @property
    def widths(self) -> tuple[int, int]:
        return 2, 1

    def at(self, zt: Tensor, t: Tensor, known: Moments | None = None) -> NoisyImage:
        """With `known`, the network corrects the LMMSE estimate given it; it sees that without,
        which is z_t's own."""
        gaussian, alpha_bar = self.gaussian(), self.forward.schedule.alpha_bar(t)
        estimate = gaussian.lmmse(zt, alpha_bar)
        mean = estimate.mean if known is None else gaussian.mean_given(zt, alpha_bar, known)
        return NoisyImage(estimate, mean, alpha_bar)


@dataclass(frozen=True, eq=False)
class NoisyImage:
    """The LMMSE estimate given an image's z_t, and its `mean` given what else is known."""

    estimate: LMMSE
    mean: Tensor
    alpha_bar: Tensor

    @property
    def network_input(self) -> Tensor:
        return torch.cat([self.estimate.mean, self.estimate.unique], 1)

    def denoised(self, prediction: Tensor) -> Tensor:
        return self.mean + self._unit * prediction

    def loss(self, prediction: Tensor, z0: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise (Eq. 5): that of z_0 times the signal-to-noise ratio."""
        error = (self.denoised(prediction) - z0).square().flatten(1).mean(1)
        # A known image is at t = 0; its loss is masked, its gradient is not.
        return _NOISE * error * self.alpha_bar / (1 - self.alpha_bar).clamp_min(_LEAST)

    @cached_property
    def _unit(self) -> Tensor:
        """What a prediction of 1 moves the estimate by (B, ...)."""
        std = self.estimate.std
        return std * over_axes(self.alpha_bar / (self.alpha_bar + _TAUGHT), std)
