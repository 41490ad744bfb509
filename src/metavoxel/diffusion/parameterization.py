"""What a network is shown of a noisy variable, and what its prediction means.

The network of the paper sees z_t and predicts the noise of a continuous variable, and the clean
label of a categorical one (section 3.2). A new parameterisation is one class here or beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.diffusion.categorical import CategoricalForward
from metavoxel.diffusion.forward import Forward
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.linear_gaussian.images import Moments

Target = Literal["epsilon", "x0", "v"]


class Noisy(Protocol):
    """z_t (B, ...) of one variable at its times, to a network."""

    @property
    def network_input(self) -> Tensor: ...

    def denoised(self, prediction: Tensor) -> Tensor:
        """E[z_0 | z_t], or the probabilities of the labels (B, K)."""
        ...

    def loss(self, prediction: Tensor, z0: Tensor, noise: Tensor) -> Tensor:
        """The variable's term of Eq. 5, one value per record (B,)."""
        ...


class Parameterization(Protocol):
    @property
    def forward(self) -> Forward: ...

    @property
    def widths(self) -> tuple[int, int]:
        """Of the network's input, and of its prediction: a scalar's widths; an image's, in
        multiples of its channels."""
        ...

    def at(self, zt: Tensor, t: Tensor, known: Moments | None = None) -> Noisy:
        """z_t (B, ...) at times t (B,), where `known` is what other variables say of an image's
        factors."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianPrediction:
    """The network sees z_t and predicts the noise (the paper), z_0, or the velocity
    v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z_0 (Salimans and Ho, 2022).

    `data_std` is the standard deviation of z_0 over the training set: the loss is divided by the
    variance that the target has at t, so that 1 is the loss of predicting the mean, whatever the
    target and t. `clip` is the largest |z_0| that is read off a prediction, as DDPM clips images to
    [-1, 1]: near T, an error of the noise is one of z_0 over sqrt(alpha_bar), many times as large.
    """

    forward: GaussianForward
    target: Target = "epsilon"
    data_std: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.target == "epsilon" and self.forward.schedule.zero_terminal_snr:
            raise ValueError("at zero terminal SNR the noise says nothing of z_0; predict x0 or v")

    @property
    def widths(self) -> tuple[int, int]:
        return 1, 1

    def at(self, zt: Tensor, t: Tensor, known: Moments | None = None) -> NoisyGaussian:
        return NoisyGaussian(self, zt, t)

    def target_variance(self, t: Tensor) -> Tensor:
        """Variance of the target at t (B,) over the data, if z_0 has mean 0 and std `data_std`."""
        a, data = self.forward.schedule.alpha_bar(t), self.data_std**2
        return {
            "epsilon": torch.ones_like(a),
            "x0": torch.full_like(a, data),
            "v": a + (1 - a) * data,
        }[self.target]


@dataclass(frozen=True, eq=False)
class NoisyGaussian:
    """A Gaussian z_t as it is."""

    of: GaussianPrediction
    zt: Tensor
    t: Tensor

    @property
    def network_input(self) -> Tensor:
        return self.zt

    def denoised(self, prediction: Tensor) -> Tensor:
        signal, spread = self.of.forward.amplitudes(self.t, self.zt)
        z0 = {
            "epsilon": lambda: (self.zt - spread * prediction) / signal,
            "x0": lambda: prediction,
            "v": lambda: signal * self.zt - spread * prediction,
        }[self.of.target]()
        return z0 if self.of.clip is None else z0.clamp(-self.of.clip, self.of.clip)

    def target(self, z0: Tensor, noise: Tensor) -> Tensor:
        """What the network should predict."""
        signal, spread = self.of.forward.amplitudes(self.t, z0)
        return {"epsilon": noise, "x0": z0, "v": signal * noise - spread * z0}[self.of.target]

    def loss(self, prediction: Tensor, z0: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the target, mean over all but the batch, in units of its variance."""
        error = (prediction - self.target(z0, noise)).square().flatten(1).mean(1)
        return error / self.of.target_variance(self.t)


@dataclass(frozen=True, eq=False)
class LabelPrediction:
    """The network sees z_t and predicts the logits (B, K) of the clean label."""

    forward: CategoricalForward

    @property
    def widths(self) -> tuple[int, int]:
        return self.forward.K, self.forward.K

    def at(self, zt: Tensor, t: Tensor, known: Moments | None = None) -> NoisyLabel:
        return NoisyLabel(zt)


@dataclass(frozen=True, eq=False)
class NoisyLabel:
    """A label's z_t (B, K)."""

    zt: Tensor

    @property
    def network_input(self) -> Tensor:
        return self.zt

    def denoised(self, prediction: Tensor) -> Tensor:
        return prediction.float().softmax(-1)

    def loss(self, prediction: Tensor, z0: Tensor, noise: Tensor) -> Tensor:
        """Cross-entropy of the clean label (Eq. 5), in float32."""
        return -(z0.float() * F.log_softmax(prediction.float(), -1)).sum(-1)
