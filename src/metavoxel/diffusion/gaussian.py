"""Gaussian diffusion of continuous variables and of image latents (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metavoxel.diffusion.process import Past, over_axes
from metavoxel.diffusion.schedule import Schedule

Prediction = Literal["epsilon", "x0", "v"]


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """Gaussian diffusion of a continuous variable (MetaVoxel, Eq. 1).

    Works on any shape: the first axis is the batch, `t` holds one time per record.
    `prediction` is what the network is trained to say: the noise (the paper), z_0, or the velocity
    v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) z_0 (Salimans and Ho, 2022). `data_std` is the
    standard deviation of z_0 over the training split: the loss is divided by the variance that the
    target has at t, so that 1 is the loss of predicting the mean, whatever the target and t.
    `clip` is the largest |z_0| that is read off a prediction, as DDPM clips images to [-1, 1]: near
    T, an error of the noise is one of z_0 over sqrt(alpha_bar), many times as large.
    """

    schedule: Schedule
    prediction: Prediction = "epsilon"
    data_std: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.prediction == "epsilon" and self.schedule.zero_terminal_snr:
            raise ValueError("at zero terminal SNR the noise says nothing of z_0; predict x0 or v")

    @property
    def widths(self) -> tuple[int, int]:
        return 1, 1

    def noise(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        return torch.randn((n, *shape), generator=generator)

    def prior(self, noise: Tensor) -> Tensor:
        return noise

    def noised(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_0). Shapes: z0 and noise (B, ...), t (B,)."""
        signal, spread = self._amplitudes(t, z0)
        return signal * z0 + spread * noise

    def renoised(self, zs: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_s), s < t."""
        kept = over_axes(self.schedule.alpha_bar(t) / self.schedule.alpha_bar(s), zs)
        return kept.sqrt() * zs + (1 - kept).sqrt() * noise

    def seen(self, zt: Tensor, t: Tensor) -> Tensor:
        return zt

    def target(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network should say at z_t."""
        signal, spread = self._amplitudes(t, z0)
        return {"epsilon": noise, "x0": z0, "v": signal * noise - spread * z0}[self.prediction]

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the target, mean over all but the batch, in units of its variance."""
        error = (prediction - self.target(z0, t, noise)).square().flatten(1).mean(1)
        return error / self.target_variance(t)

    def target_variance(self, t: Tensor) -> Tensor:
        """Variance of the target at t (B,) over the data, if z_0 has mean 0 and std `data_std`."""
        a = self.schedule.alpha_bar(t)
        data = self.data_std**2
        return {
            "epsilon": torch.ones_like(a),
            "x0": torch.full_like(a, data),
            "v": a + (1 - a) * data,
        }[self.prediction]

    def clean(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """E[z_0 | z_t] from the network's prediction. Shapes (B, ...)."""
        signal, spread = self._amplitudes(t, zt)
        z0 = {
            "epsilon": lambda: (zt - spread * prediction) / signal,
            "x0": lambda: prediction,
            "v": lambda: signal * zt - spread * prediction,
        }[self.prediction]()
        return z0 if self.clip is None else z0.clamp(-self.clip, self.clip)

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
        """One DDIM step from t to s (Song et al., 2021, Eq. 12); eta = 1 is ancestral (DDPM).

        Along a DDIM trajectory dz = d(cos a) z_0 + d(sin a) noise, with the angle
        a = arccos sqrt(alpha_bar). DDIM holds z_0 and the noise fixed over the step; with a `past`
        they are extrapolated to its middle, which makes the step second-order (as in
        DPM-Solver++, Lu et al., 2022) at no further evaluation. Only for eta = 0.
        """
        now = self.past(prediction, zt, t)
        z0, noise = now.z0, now.noise
        signal_t, spread_t = self._amplitudes(t, zt)
        signal_s, spread_s = self._amplitudes(s, zt)
        if eta == 0 and past is not None:
            ahead = (now.angle - self._angle(s, zt)) / (2 * (past.angle - now.angle))
            z0, noise = z0 + ahead * (z0 - past.z0), noise + ahead * (noise - past.noise)
            return zt + (signal_s - signal_t) * z0 + (spread_s - spread_t) * noise
        if eta == 0:
            return signal_s * z0 + spread_s * noise
        kept = (signal_t / signal_s).square()  # alpha_bar(t) / alpha_bar(s)
        sigma = eta * spread_s / spread_t * (1 - kept).sqrt()
        direction = (spread_s.square() - sigma.square()).clamp_min(0).sqrt()
        fresh = torch.randn(zt.shape, generator=generator).to(zt.device)
        return signal_s * z0 + direction * noise + sigma * fresh

    def past(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Past:
        """z_0 and the noise that the prediction reads off z_t, t > 0."""
        z0 = self.clean(prediction, zt, t)
        signal, spread = self._amplitudes(t, zt)
        return Past(z0, (zt - signal * z0) / spread, self._angle(t, zt))

    def _angle(self, t: Tensor, like: Tensor) -> Tensor:
        return over_axes(self.schedule.alpha_bar(t).sqrt().clamp(max=1).acos(), like)

    def _amplitudes(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        a = over_axes(self.schedule.alpha_bar(t), like)
        return a.sqrt(), (1 - a).sqrt()
