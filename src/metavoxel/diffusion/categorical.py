"""Discrete diffusion of categorical variables (D3PM; Eq. 2 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.diffusion.forward import Past, over_axes
from metavoxel.diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class CategoricalForward:
    """Discrete diffusion over K labels (MetaVoxel, Eq. 2 and 4; Austin et al., 2021).

    States are one-hot rows. The uniform kernel keeps z_0 with probability alpha_bar(t) and
    otherwise draws any label, so that

        q(z_t | z_0) = Cat(alpha_bar(t) z_0 + (1 - alpha_bar(t)) / K).
    """

    schedule: Schedule
    K: int

    def transition_matrix(self, t: int) -> Tensor:
        """Q_t of Eq. 4, (K, K), float64."""
        beta = self.schedule.beta(t)
        return (1 - beta) * torch.eye(self.K, dtype=torch.float64) + beta / self.K

    def noise(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        """Gumbel noise (n, K): argmax(log p + noise) ~ Cat(p)."""
        uniform = torch.rand((n, self.K), generator=generator)
        return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))

    def prior(self, noise: Tensor) -> Tensor:
        return self._draw(torch.full_like(noise, 1 / self.K), noise)

    def noised(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_0). Shapes: z0, noise and z_t (B, K), t (B,)."""
        return self._draw(self.marginal(z0, t), noise)

    def marginal(self, z0: Tensor, t: Tensor) -> Tensor:
        """Probabilities of q(z_t | z_0), (B, K), for one-hot or soft z0 (B, K)."""
        a = over_axes(self.schedule.alpha_bar(t), z0)
        return a * z0 + (1 - a) / self.K

    def renoised(self, zs: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_s), s < t."""
        kept = over_axes(self.schedule.alpha_bar(t) / self.schedule.alpha_bar(s), zs)
        return self._draw(kept * zs + (1 - kept) / self.K, noise)

    def posterior(self, z0: Tensor, zt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """p(z_s | z_t) = sum_k p(z_0 = k | z_t) q(z_s | z_t, z_0 = k), (B, K); `z0` (B, K) are the
        probabilities of the clean label.

        q(z_s | z_t, z_0) is proportional to q(z_t | z_s) q(z_s | z_0), and its normaliser is
        q(z_t | z_0).
        """
        a_t = over_axes(self.schedule.alpha_bar(t), zt)
        a_s = over_axes(self.schedule.alpha_bar(s), zt)
        kept = a_t / a_s
        evidence = kept * zt + (1 - kept) / self.K  # q(z_t | z_s = j), as a function of j
        normaliser = a_t * zt + (1 - a_t) / self.K
        # A label that z_t reveals keeps some weight even where softmax underflows to 0.
        z0 = z0.clamp_min(1e-30)
        weight = torch.where(normaliser > 0, z0 / normaliser.clamp_min(1e-30), 0.0)
        joint = evidence * (a_s * weight + (1 - a_s) / self.K * weight.sum(-1, keepdim=True))
        return joint / joint.sum(-1, keepdim=True)

    def step(
        self,
        z0: Tensor,
        zt: Tensor,
        t: Tensor,
        s: Tensor,
        generator: torch.Generator | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """Draw z_s ~ p(z_s | z_t), `z0` (B, K) the probabilities of the clean label; `past` has
        no meaning here."""
        probabilities = self.posterior(z0, zt, t, s)
        return self._draw(probabilities, self.noise(len(zt), (self.K,), generator).to(zt.device))

    def past(self, z0: Tensor, zt: Tensor, t: Tensor) -> Past | None:
        return None

    def _draw(self, probabilities: Tensor, noise: Tensor) -> Tensor:
        state = (probabilities.clamp_min(1e-30).log() + noise).argmax(-1)
        return F.one_hot(state, self.K).to(probabilities.dtype)
