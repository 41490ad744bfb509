"""Discrete diffusion of categorical variables (D3PM; Eq. 2 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.diffusion.forward import Past, over_axes
from metavoxel.diffusion.schedule import Schedule

Kernel = Literal["uniform", "absorbing"]


@dataclass(frozen=True, eq=False)
class CategoricalForward:
    """Discrete diffusion over K labels (MetaVoxel, Eq. 2 and 4; Austin et al., 2021).

    States are one-hot rows: K of them under the `uniform` kernel, K + 1 under the `absorbing` one,
    whose last state is the mask. Both keep z_0 with probability alpha_bar(t) and otherwise draw
    from the stationary distribution pi, so that

        q(z_t | z_0) = Cat(alpha_bar(t) z_0 + (1 - alpha_bar(t)) pi).
    """

    schedule: Schedule
    K: int
    kernel: Kernel = "uniform"

    @property
    def states(self) -> int:
        return self.K + (self.kernel == "absorbing")

    def stationary(self, like: Tensor) -> Tensor:
        """pi, shape (states,)."""
        if self.kernel == "uniform":
            return torch.full((self.K,), 1 / self.K, dtype=like.dtype, device=like.device)
        return F.one_hot(torch.tensor(self.K, device=like.device), self.states).to(like.dtype)

    def transition_matrix(self, t: int) -> Tensor:
        """Q_t of Eq. 4 (or of the absorbing kernel), shape (states, states), float64."""
        beta = self.schedule.beta(t)
        identity = torch.eye(self.states, dtype=torch.float64)
        return (1 - beta) * identity + beta * self.stationary(identity)

    def noise(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        """Gumbel noise (n, states), for z_0 of shape (K,): argmax(log p + noise) ~ Cat(p)."""
        uniform = torch.rand((n, self.states), generator=generator)
        return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))

    def prior(self, noise: Tensor) -> Tensor:
        return self._draw(self.stationary(noise).expand_as(noise), noise)

    def noised(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_0). Shapes: z0 (B, K), t (B,), noise and z_t (B, states)."""
        return self._draw(self.marginal(z0, t), noise)

    def marginal(self, z0: Tensor, t: Tensor) -> Tensor:
        """Probabilities of q(z_t | z_0), shape (B, states), for one-hot or soft z0 (B, K)."""
        a = over_axes(self.schedule.alpha_bar(t), z0)
        z0 = F.pad(z0, (0, self.states - self.K))
        return a * z0 + (1 - a) * self.stationary(z0)

    def renoised(self, zs: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | z_s), s < t."""
        kept = over_axes(self.schedule.alpha_bar(t) / self.schedule.alpha_bar(s), zs)
        return self._draw(kept * zs + (1 - kept) * self.stationary(zs), noise)

    def posterior(self, probabilities: Tensor, zt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """p(z_s | z_t) = sum_k p(z_0 = k | z_t) q(z_s | z_t, z_0 = k), shape (B, states).

        q(z_s | z_t, z_0) is proportional to q(z_t | z_s) q(z_s | z_0), and its normaliser is
        q(z_t | z_0). `probabilities` (B, K) may come from a network that puts weight on labels
        which z_t excludes (under the absorbing kernel); that weight is dropped.
        """
        a_t = over_axes(self.schedule.alpha_bar(t), zt)
        a_s = over_axes(self.schedule.alpha_bar(s), zt)
        kept = a_t / a_s
        pi = self.stationary(zt)
        # q(z_t | z_s = j), as a function of j.
        evidence = kept * zt + (1 - kept) * (zt * pi).sum(-1, keepdim=True)
        normaliser = a_t * zt[:, : self.K] + (1 - a_t) * (zt * pi).sum(-1, keepdim=True)
        # A label that z_t reveals keeps some weight even where softmax underflows to 0.
        probabilities = probabilities.clamp_min(1e-30)
        weight = torch.where(normaliser > 0, probabilities / normaliser.clamp_min(1e-30), 0.0)
        mixture = a_s * F.pad(weight, (0, self.states - self.K))
        mixture = mixture + (1 - a_s) * weight.sum(-1, keepdim=True) * pi
        joint = evidence * mixture
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
        return F.one_hot(state, self.states).to(probabilities.dtype)
