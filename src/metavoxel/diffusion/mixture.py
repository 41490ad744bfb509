"""Read-outs of a scalar whose values over the cohort are not one normal.

The ages of a cohort may have two humps, or be spread evenly; volumes are skewed. Bayes' rule needs
no normal: with what z_t says and what the rest of the record says both normal in z_0,

    p(z_0 | z_t, rest)  is proportional to  q(z_t | z_0) p(rest | z_0) p(z_0),

and a mixture of normals for p(z_0), fitted to the training people, gives a mixture again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.special import ndtr, ndtri

from metavoxel.diffusion.process import over_axes
from metavoxel.diffusion.readout import VARIANCE_WEIGHT, GaussianReadOut, log_normal, velocity
from metavoxel.diffusion.together import Evidence, Marginal

_OFFSET = 2.0  # before training a network says little: the variance that it leaves is 0.88 of all
_MOST = 6  # normals in a mixture
_PEOPLE = 10  # at least, that a normal of several stands for
_NARROWEST = 0.1  # normal, over the spread of all values: an age that many share is no spike
_HALVINGS = 24  # of the interval in which a quantile is looked for: to 1e-7 of it
_TAIL = 12.0  # standard deviations, beyond which none is looked for

Component = tuple[float, float, float]  # weight, mean, standard deviation


def fit_mixture(values: Tensor) -> tuple[Component, ...]:
    """The mixture of one to six normals that describes values (n,), n >= 2, best by BIC (Schwarz,
    1978), of those whose every normal stands for ten values or more: one person is not a group."""
    from sklearn.mixture import GaussianMixture  # slow to import, and needed in training alone

    x = values.double().numpy()[:, None]
    floor = (_NARROWEST * max(float(x.std()), 1e-3)) ** 2
    most = min(_MOST, len(np.unique(x)))
    fits: list[Any] = [
        GaussianMixture(k, n_init=3, reg_covar=floor, random_state=0).fit(x)
        for k in range(1, most + 1)
    ]
    groups = [fit for fit in fits[1:] if len(x) * fit.weights_.min() >= _PEOPLE]
    best = min([fits[0], *groups], key=lambda fit: fit.bic(x))
    parts = zip(best.weights_, best.means_[:, 0], best.covariances_[:, 0, 0] ** 0.5, strict=True)
    return tuple((float(w), float(m), float(s)) for w, m, s in parts)


@dataclass(frozen=True)
class Normals:
    """Mixtures of K normals, one for each record: weights as logits, means and variances (B, K)."""

    logits: Tensor
    mean: Tensor
    variance: Tensor

    def noised(self, a: Tensor) -> Normals:
        """The distribution of z_t, a = alpha_bar(t) of shape (B, 1)."""
        return Normals(self.logits, a.sqrt() * self.mean, a * self.variance + 1 - a)

    def log_density(self, x: Tensor) -> Tensor:
        """At x (B, 1), up to a constant: (B, 1)."""
        each = self.logits.log_softmax(1) + log_normal(x - self.mean, self.variance)
        return each.logsumexp(1, keepdim=True)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each (B, 1)."""
        weights = self.logits.softmax(1)
        mean = (weights * self.mean).sum(1, keepdim=True)
        second = weights * (self.variance + (self.mean - mean).square())
        return mean, second.sum(1, keepdim=True)

    def tails(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities to lie below and above x (B, m), float64."""
        weights = self.logits.double().softmax(1)[:, None]
        standard = (x.double()[:, :, None] - self.mean[:, None]) / self.variance.sqrt()[:, None]
        below, above = (ndtr(sign * standard) for sign in (1, -1))
        return (weights * below).sum(2), (weights * above).sum(2)

    def quantile(self, below: Tensor, above: Tensor) -> Tensor:
        """Where these shares (B, m) lie below and above; both are given, as either may be tiny.

        It lies between the least and the greatest of the quantiles of its normals.
        """
        standard = torch.where(below < above, ndtri(below), -ndtri(above)).clamp(-_TAIL, _TAIL)
        each = self.mean[:, None] + self.variance.sqrt()[:, None] * standard[:, :, None]
        low, high = each.amin(2), each.amax(2)
        for _ in range(_HALVINGS if each.shape[2] > 1 else 0):
            middle = (low + high) / 2
            lower, upper = self.tails(middle)
            farther = torch.where(below < above, lower < below, upper > above)
            low, high = torch.where(farther, middle, low), torch.where(farther, high, middle)
        return ((low + high) / 2).float()


@dataclass(frozen=True, eq=False)
class MixtureReadOut(GaussianReadOut):
    """A continuous variable that is distributed over the cohort as a mixture of normals.

    The network's prediction (B, 2) is what it would say of a variable that is N(0, data_std^2) over
    the cohort: the mean m and, by way of a logistic function, the variance r that the rest of the
    record leaves. The rest itself then speaks by exp(eta z_0 - precision z_0^2 / 2) with precision
    1/r - 1/data_std^2 and eta m/r. If it says nothing, both are 0 and the answer is the cohort's
    distribution, as it is.
    """

    components: tuple[Component, ...] = field(default=())
    velocity_moves_variance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.components:
            raise ValueError("a mixture needs components; fit_mixture finds those of a cohort")

    def combined(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """The velocity (B, 1): every normal's own, by how likely z_t makes it."""
        return self._velocity(self.given(prediction), zt, t)

    def seen(self, zt: Tensor, t: Tensor) -> Tensor:
        nothing = zt.new_zeros(len(zt), 1)
        return self.process.clean(self._velocity(self._given(nothing, nothing), zt, t), zt, t)

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The velocity's loss, and `VARIANCE_WEIGHT` times the surprise at z_0, as a read-out of
        one normal has it; 0 is that of the cohort's distribution.

        The velocity depends on the variance, too, and here at every t. A network that bends the
        variance to move the mean states a spread that is too wide, and makes up for it by hearing
        z_t itself. Without `velocity_moves_variance` each of the two has one teacher.
        """
        zt = self.noised(z0, t, noise)
        mean, variance = self._read(prediction)
        moved = variance if self.velocity_moves_variance else variance.detach()
        velocity = self._velocity(self._given(*self._evidence(mean, moved)), zt, t)
        velocity_loss = self.process.loss(velocity, z0, t, noise)
        said = self._given(*self._evidence(mean.detach(), variance))
        nothing = z0.new_zeros(len(z0), 1)
        surprise = self._given(nothing, nothing).log_density(z0) - said.log_density(z0)
        return velocity_loss + VARIANCE_WEIGHT * surprise.flatten(1).mean(1)

    def carried(
        self, mean: Tensor, variance: Tensor, zt: Tensor, a_t: Tensor, a_s: Tensor
    ) -> Tensor:
        """Along the deterministic flow every value keeps its quantile: in one dimension the flow
        between two densities is the monotone map from one to the other."""
        said = self._given(*self._evidence(mean, variance.clamp(max=self.process.data_std**2)))
        return said.noised(a_s).quantile(*said.noised(a_t).tails(zt)).to(zt)

    def moments(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """So the likelihood of a temper is that of a normal with the answer's mean and variance (a
        quasi-likelihood; Wedderburn, 1974): greatest where the stated variance is the errors'."""
        return self.given(prediction).moments()

    def drawn(self, prediction: Tensor, generator: torch.Generator | None) -> Tensor:
        below = torch.rand((len(prediction), 1), generator=generator, dtype=torch.float64)
        below = below.to(prediction.device)
        return self.given(prediction).quantile(below, 1 - below)

    def quantiles(self, prediction: Tensor, levels: Tensor) -> Tensor:
        """Those of p(z_0 | rest) at levels (m,): (B, m)."""
        below = levels.to(prediction.device).double().expand(len(prediction), -1)
        return self.given(prediction).quantile(below, 1 - below)

    def tempered(self, prediction: Tensor, factor: Tensor) -> Tensor:
        """What the rest says, `factor` times less sure; the cohort's distribution stays."""
        eta, precision = self._evidence(*self._read(prediction))
        return self._prediction(eta / factor, precision / factor)

    def pooled(
        self, prediction: Tensor, weight: Tensor, said: Evidence, cohort: Marginal
    ) -> Tensor:
        eta, precision = (weight[:, None] * x for x in self._evidence(*self._read(prediction)))
        return self._prediction(eta + said.eta, precision + said.precision[..., 0])

    def given(self, prediction: Tensor) -> Normals:
        """p(z_0 | rest)."""
        return self._given(*self._evidence(*self._read(prediction)))

    def _read(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """m and r, each (B, 1)."""
        mean, logit = prediction.float().chunk(2, dim=-1)
        share = F.logsigmoid(logit + _OFFSET).clamp(min=-12).exp()
        return mean, self.process.data_std**2 * share

    def _evidence(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """eta and precision of what the rest says, each (B, 1)."""
        return mean / variance, 1 / variance - 1 / self.process.data_std**2

    def _prediction(self, eta: Tensor, precision: Tensor) -> Tensor:
        """That which says this: the inverse of `_evidence` of `_read`."""
        most = self.process.data_std**2
        left = 1 / (1 / most + precision)
        share = (left / most).clamp(1e-6, 1 - 1e-6)
        return torch.cat([left * eta, share.logit() - _OFFSET], -1)

    def _given(self, eta: Tensor, precision: Tensor) -> Normals:
        """The cohort's mixture times exp(eta z_0 - precision z_0^2 / 2)."""
        weight, mean, std = eta.new_tensor(self.components).T[:, None]  # (1, K) each
        own = 1 / std.square()
        total = own + precision
        tilted = (mean * own + eta).square() / total - mean.square() * own
        logits = weight.log() + (own.log() - total.log() + tilted) / 2
        return Normals(logits, (mean * own + eta) / total, 1 / total)

    def _velocity(self, said: Normals, zt: Tensor, t: Tensor) -> Tensor:
        a = over_axes(self.schedule.alpha_bar(t), zt)
        noised = said.noised(a)
        logits = said.logits.log_softmax(1) + log_normal(zt - noised.mean, noised.variance)
        each = velocity(said.mean, said.variance, zt, a)
        return (logits.softmax(1) * each).sum(1, keepdim=True)
