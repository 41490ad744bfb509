"""Gaussian diffusion of continuous variables and of image latents (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metavoxel.diffusion.forward import Past, over_axes
from metavoxel.diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class GaussianForward:
    """Gaussian diffusion of a continuous variable (MetaVoxel, Eq. 1).

    Works on any shape: the first axis is the batch, `t` holds one time per record.
    """

    schedule: Schedule

    def noise(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        return torch.randn((n, *shape), generator=generator)

    def prior(self, noise: Tensor) -> Tensor:
        return noise

    def noised(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_0). Shapes: z0 and noise (B, ...), t (B,)."""
        signal, spread = self.amplitudes(t, z0)
        return signal * z0 + spread * noise

    def renoised(self, zs: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_s), s < t."""
        kept = over_axes(self.schedule.alpha_bar(t) / self.schedule.alpha_bar(s), zs)
        return kept.sqrt() * zs + (1 - kept).sqrt() * noise

    def step(
        self,
        z0: Tensor,
        zt: Tensor,
        t: Tensor,
        s: Tensor,
        generator: torch.Generator | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """One DDIM step from t to s (Song et al., 2021, Eq. 12), deterministic.

        Along a DDIM trajectory dz = d(cos a) z_0 + d(sin a) noise, with the angle
        a = arccos sqrt(alpha_bar). DDIM holds z_0 and the noise fixed over the step; with a `past`
        they are extrapolated to its middle, which makes the step second-order (as in
        DPM-Solver++, Lu et al., 2022) at no further evaluation.
        """
        now = self.past(z0, zt, t)
        noise = now.noise
        signal_s, spread_s = self.amplitudes(s, zt)
        if past is None:
            return signal_s * z0 + spread_s * noise
        signal_t, spread_t = self.amplitudes(t, zt)
        ahead = (now.angle - self._angle(s, zt)) / (2 * (past.angle - now.angle))
        z0, noise = z0 + ahead * (z0 - past.z0), noise + ahead * (noise - past.noise)
        return zt + (signal_s - signal_t) * z0 + (spread_s - spread_t) * noise

    def past(self, z0: Tensor, zt: Tensor, t: Tensor) -> Past:
        """z_0, the noise that is then left of z_t, t > 0, and the angle."""
        signal, spread = self.amplitudes(t, zt)
        return Past(z0, (zt - signal * z0) / spread, self._angle(t, zt))

    def _angle(self, t: Tensor, like: Tensor) -> Tensor:
        return over_axes(self.schedule.alpha_bar(t).sqrt().clamp(max=1).acos(), like)

    def amplitudes(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at t, shaped to broadcast over `like`."""
        a = over_axes(self.schedule.alpha_bar(t), like)
        return a.sqrt(), (1 - a).sqrt()
