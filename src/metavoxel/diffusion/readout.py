"""Scalars read out by Bayes' rule: the network says what the rest of the record says of a scalar.

By the structure of the forward process, a scalar's own noisy value z_t speaks of z_0 independently
of the rest of the noisy record:

    p(z_0 | z_t, rest)  is proportional to  q(z_t | z_0) p(z_0 | rest).

The first factor is known in closed form, so the network need only learn the second, which is the
answer to the question itself; it does not spend capacity on passing z_t through. At t = T the first
factor is flat and the two agree: the prediction there is the one-evaluation answer, as for v or x0.

For the other variables the network is shown what z_t says of z_0 rather than z_t itself, so that a
variable which is marginalised shows nothing, where its noise would drown the ones that are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metavoxel.diffusion.categorical import CategoricalProcess
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.process import Past, over_axes
from metavoxel.diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class GaussianReadOut:
    """A continuous variable whose network prediction is (mean, log variance) of p(z_0 | rest).

    Both are in units of the data: the mean as it is, the variance relative to `data_std`**2.
    Combined with z_t they give the velocity of `process`, which must predict v.
    """

    process: GaussianProcess

    def __post_init__(self) -> None:
        if self.process.prediction != "v":
            raise ValueError("a read-out is combined into a velocity; the process must predict v")

    @property
    def schedule(self) -> Schedule:
        return self.process.schedule

    @property
    def widths(self) -> tuple[int, int]:
        return 1, 2

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
        """E[z_0 | z_t], were z_0 N(0, data_std^2)."""
        return self.clean(zt.new_zeros(len(zt), 2), zt, t)

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        zt = self.process.noised(z0, t, noise)
        return self.process.loss(self.velocity(prediction, zt, t), z0, t, noise)

    def clean(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        return self.process.clean(self.velocity(prediction, zt, t), zt, t)

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
        velocity = self.velocity(prediction, zt, t)
        return self.process.step(velocity, zt, t, s, generator, eta, past)

    def past(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Past:
        return self.process.past(self.velocity(prediction, zt, t), zt, t)

    def velocity(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """The velocity (B, 1) at z_t of the Gaussian posterior, from the read-out (B, 2).

        With a = alpha_bar(t), prior N(m, r) and evidence z_t ~ N(sqrt(a) z_0, 1 - a), the mean is
        E[z_0 | z_t] = ((1 - a) m + r sqrt(a) z_t) / (1 - a + r a); the velocity
        (sqrt(a) z_t - E[z_0 | z_t]) / sqrt(1 - a) then has no singularity at t = 0 or T.
        """
        mean, log_variance = prediction.float().chunk(2, dim=-1)
        variance = self.process.data_std**2 * log_variance.clamp(-12, 4).exp()
        a = over_axes(self.schedule.alpha_bar(t), zt)
        direction = a.sqrt() * zt * (1 - variance) - mean
        return (1 - a).sqrt() * direction / (1 - a + variance * a)


@dataclass(frozen=True, eq=False)
class CategoricalReadOut:
    """A categorical variable whose network prediction is the logits of p(z_0 | rest)."""

    process: CategoricalProcess

    @property
    def schedule(self) -> Schedule:
        return self.process.schedule

    @property
    def states(self) -> int:
        return self.process.states

    @property
    def widths(self) -> tuple[int, int]:
        return self.process.K, self.process.K

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
        """p(z_0 | z_t), were all labels as frequent, shape (B, K)."""
        return self.clean(zt.new_zeros(len(zt), self.process.K), zt, t)

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        zt = self.process.noised(z0, t, noise)
        return self.process.loss(self.logits(prediction, zt, t), z0, t, noise)

    def clean(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        return self.process.clean(self.logits(prediction, zt, t), zt, t)

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
        return self.process.step(self.logits(prediction, zt, t), zt, t, s, generator, eta)

    def past(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Past | None:
        return None

    def logits(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """Logits of p(z_0 | z_t, rest), shape (B, K): log p(z_0 | rest) + log q(z_t | z_0)."""
        a = over_axes(self.schedule.alpha_bar(t), zt)
        by_chance = (zt * self.process.stationary(zt)).sum(-1, keepdim=True)
        evidence = a * zt[:, : self.process.K] + (1 - a) * by_chance
        return prediction.float() + evidence.clamp_min(1e-30).log()
