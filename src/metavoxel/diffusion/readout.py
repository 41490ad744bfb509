"""Scalars read out by Bayes' rule: the network says what the rest of the record says of a scalar.

By the structure of the forward process, a scalar's own noisy value z_t speaks of z_0 independently
of the rest of the noisy record:

    p(z_0 | z_t, rest)  is proportional to  q(z_t | z_0) p(z_0 | rest).

The first factor is known in closed form, so the network need only learn the second, which is the
answer to the question itself; it does not spend capacity on passing z_t through. At t = T the first
factor is flat and the two agree: the prediction there is the one-evaluation answer, as for v or x0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.diffusion.categorical import CategoricalProcess
from metavoxel.diffusion.combined import CombinedProcess
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.process import Past, over_axes
from metavoxel.diffusion.together import Evidence, Marginal, Measurement

VARIANCE_WEIGHT = 0.1  # small: what it teaches the head, it should not ask of the network before it

_RAREST = 1e-4  # a label's least frequency: one that nobody had may be asked about
_ERROR_RATE = 0.01  # of values that are not what they should be: a slip of the pen, another unit
_ERROR_STD = 10  # the spread of those, in units of the data's


class ReadOut(CombinedProcess):
    """A scalar whose network prediction is p(z_0 | rest), a distribution that can be tempered."""

    @property
    @abstractmethod
    def linear_in(self) -> int:
        """The power of the factor in which what is stated is linear. If the factor itself is
        unsure, that power's mean is the one that states what all its values state together."""

    @abstractmethod
    def tempered(self, prediction: Tensor, factor: Tensor) -> Tensor:
        """The prediction (B, k) made less sure by the factor (B, 1) or (1,); 1 leaves it alone."""

    @abstractmethod
    def measured(self, zt: Tensor, t: Tensor, cohort: Marginal) -> Measurement:
        """z_t as a linear measurement of z_0, exact in its first two moments over the cohort."""

    @abstractmethod
    def pooled(
        self, prediction: Tensor, weight: Tensor, said: Evidence, cohort: Marginal
    ) -> Tensor:
        """The cohort's distribution, tilted by what is `said` and by the prediction (B, k), which
        is another tilt of it, to the power of `weight` (B,): a logarithmic opinion pool (Genest and
        Zidek, 1986). Shape (B, k)."""

    @abstractmethod
    def drawn(self, prediction: Tensor, generator: torch.Generator | None) -> Tensor:
        """z_0 ~ p(z_0 | rest), one for each of the predictions (B, k)."""

    @abstractmethod
    def log_likelihood(self, prediction: Tensor, z0: Tensor) -> Tensor:
        """log p(z_0 | rest), (B,), up to a constant, if a few values of z_0 may be plain wrong."""


@dataclass(frozen=True, eq=False)
class GaussianReadOut(ReadOut):
    """A continuous variable whose network prediction is (mean, log variance) of p(z_0 | rest).

    Both are in units of the data: the mean as it is, the variance relative to `data_std`**2.
    Combined with z_t they give the velocity of `process`, which must predict v.
    """

    process: GaussianProcess

    def __post_init__(self) -> None:
        if self.process.prediction != "v":
            raise ValueError("a read-out is combined into a velocity; the process must predict v")

    @property
    def widths(self) -> tuple[int, int]:
        return 1, 2

    def silence(self, zt: Tensor) -> Tensor:
        """The prior N(0, data_std^2), as if the mean were the middle of the range."""
        return zt.new_zeros(len(zt), 2)

    def combined(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """The velocity (B, 1) of the Gaussian posterior, from the read-out (B, 2).

        With a = alpha_bar(t), prior N(m, r) and evidence z_t ~ N(sqrt(a) z_0, 1 - a), the mean is
        E[z_0 | z_t] = ((1 - a) m + r sqrt(a) z_t) / (1 - a + r a); the velocity
        (sqrt(a) z_t - E[z_0 | z_t]) / sqrt(1 - a) then has no singularity at t = 0 or T.
        """
        mean, variance = self._read(prediction)
        return velocity(mean, variance, zt, over_axes(self.schedule.alpha_bar(t), zt))

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The velocity's loss, and `VARIANCE_WEIGHT` times the variance's.

        The velocity depends on the variance only at the few t where z_t is about as sure of z_0 as
        the rest is. The Gaussian log-likelihood of z_0 under N(m, r) teaches it at every t, with
        the mean held fixed, which is the velocity's to teach; 0 is that of the prior's variance.
        """
        mean, variance = self._read(prediction)
        squared_error = (mean.detach() - z0).square()
        surprise = (squared_error / variance + (variance / self.process.data_std**2).log() - 1) / 2
        velocity_loss = super().loss(prediction, z0, t, noise)
        return velocity_loss + VARIANCE_WEIGHT * surprise.flatten(1).mean(1)

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
        """One step from t to s along the trajectory that a prior N(m, r) has, in closed form.

        With a = alpha_bar, z_t ~ N(sqrt(a) m, a r + 1 - a) at every t, and the deterministic flow
        carries deviations from the mean in units of the spread. DDIM approximates it, and loses
        most of a narrow answer's spread in few steps; here only m and r, which move as the rest of
        the record does, are held fixed over the step or, with a `past`, extrapolated to its middle.
        """
        if eta > 0:
            return super().step(prediction, zt, t, s, generator, eta)
        now = self.past(prediction, zt, t)
        mean, log_variance = now.z0, now.noise
        if past is not None:
            angle = over_axes(self.schedule.alpha_bar(s).sqrt().clamp(max=1).acos(), zt)
            ahead = (now.angle - angle) / (2 * (past.angle - now.angle))
            mean = mean + ahead * (mean - past.z0)
            log_variance = log_variance + ahead * (log_variance - past.noise)
        a_t, a_s = (over_axes(self.schedule.alpha_bar(x), zt) for x in (t, s))
        return self.carried(mean, log_variance.exp(), zt, a_t, a_s)

    def carried(
        self, mean: Tensor, variance: Tensor, zt: Tensor, a_t: Tensor, a_s: Tensor
    ) -> Tensor:
        """z_t where the deterministic flow of m and r (B, 1) has brought it when a_t is a_s."""
        scale = ((a_s * variance + 1 - a_s) / (a_t * variance + 1 - a_t)).sqrt()
        return a_s.sqrt() * mean + scale * (zt - a_t.sqrt() * mean)

    def past(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Past:
        """What a step extrapolates from: m and log r, in the places of z_0 and the noise."""
        mean, variance = self._read(prediction)
        angle = over_axes(self.schedule.alpha_bar(t).sqrt().clamp(max=1).acos(), zt)
        return Past(mean, variance.log(), angle)

    def spread(self, prediction: Tensor) -> Tensor:
        """The standard deviation (B, 1) of p(z_0 | rest) that a prediction states."""
        return self.moments(prediction)[1].sqrt()

    def moments(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of p(z_0 | rest), each (B, 1)."""
        return self._read(prediction)

    def measured(self, zt: Tensor, t: Tensor, cohort: Marginal) -> Measurement:
        a = self.schedule.alpha_bar(t).to(zt)
        return Measurement(zt, a.sqrt(), (1 - a)[:, None, None])

    def pooled(
        self, prediction: Tensor, weight: Tensor, said: Evidence, cohort: Marginal
    ) -> Tensor:
        mean, variance = self._read(prediction)
        own_mean, own_variance = (x.to(mean).flatten() for x in cohort)
        w = weight[:, None]
        precision = (1 - w) / own_variance + w / variance + said.precision[..., 0]
        total = (1 - w) * own_mean / own_variance + w * mean / variance + said.eta
        log_variance = -(precision * self.process.data_std**2).log()
        return torch.cat([total / precision, log_variance], -1)

    def drawn(self, prediction: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, variance = self.moments(prediction)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        return mean + variance.sqrt() * noise

    @property
    def linear_in(self) -> int:
        return 1  # a mixture's variance is the mean of the variances

    def tempered(self, prediction: Tensor, factor: Tensor) -> Tensor:
        """The variance times the factor."""
        mean, log_variance = prediction.float().chunk(2, dim=-1)
        return torch.cat([mean, log_variance + factor.log()], -1)

    def log_likelihood(self, prediction: Tensor, z0: Tensor) -> Tensor:
        """Under the contaminated normal of Tukey (1960).

        One value in a hundred may be anything, of ten times the spread of the data, and says
        nothing of the prediction. So all of an error of 3 of its standard deviations counts, half
        of one of 4, and none of a height of 110 cm, which is 11 off.
        """
        mean, variance = self.moments(prediction)
        right = log_normal(z0 - mean, variance) + math.log1p(-_ERROR_RATE)
        anything = (_ERROR_STD * self.process.data_std) ** 2
        wrong = log_normal(z0, torch.full_like(variance, anything)) + math.log(_ERROR_RATE)
        return torch.logaddexp(right, wrong)[:, 0]

    def _read(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """m and r, each (B, 1)."""
        mean, log_variance = prediction.float().chunk(2, dim=-1)
        return mean, self.process.data_std**2 * log_variance.clamp(-12, 4).exp()


def velocity(mean: Tensor, variance: Tensor, zt: Tensor, a: Tensor) -> Tensor:
    """Of the posterior of a normal prior, given z_t (B, 1) at alpha_bar a (B, 1)."""
    direction = a.sqrt() * zt * (1 - variance) - mean
    return (1 - a).sqrt() * direction / (1 - a + variance * a)


def log_normal(x: Tensor, variance: Tensor) -> Tensor:
    """The log-density of N(0, variance) at x, up to a constant."""
    return -(x.square() / variance + variance.log()) / 2


@dataclass(frozen=True, eq=False)
class CategoricalReadOut(ReadOut):
    """A categorical variable whose network prediction is the logits of p(z_0 | rest)."""

    process: CategoricalProcess

    @property
    def widths(self) -> tuple[int, int]:
        return self.process.K, self.process.K

    def silence(self, zt: Tensor) -> Tensor:
        """All labels as frequent."""
        return zt.new_zeros(len(zt), self.process.K)

    def combined(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """Logits of p(z_0 | z_t, rest), shape (B, K): log p(z_0 | rest) + log q(z_t | z_0)."""
        a = over_axes(self.schedule.alpha_bar(t), zt)
        by_chance = (zt * self.process.stationary(zt)).sum(-1, keepdim=True)
        evidence = a * zt[:, : self.process.K] + (1 - a) * by_chance
        return prediction.float() + evidence.clamp_min(1e-30).log()

    def measured(self, zt: Tensor, t: Tensor, cohort: Marginal) -> Measurement:
        """The one-hot row less what chance adds to it. With p the labels' frequencies and q those
        of z_t's, its covariance is diag(q) - q q', of which a^2 (diag(p) - p p') is the label's."""
        K, a = self.process.K, self.schedule.alpha_bar(t).to(zt)  # noqa: N806
        p = _frequencies(cohort).to(zt)
        chance = (1 - a)[:, None] * self.process.stationary(zt)[:K]
        q = a[:, None] * p + chance
        own = p.diag() - p.outer(p)
        noise = q.diag_embed() - q[:, :, None] * q[:, None] - a.square()[:, None, None] * own
        return Measurement(zt[:, :K] - chance, a, noise)

    def pooled(
        self, prediction: Tensor, weight: Tensor, said: Evidence, cohort: Marginal
    ) -> Tensor:
        frequent = _frequencies(cohort).to(said.eta).log()
        tilt = said.log_likelihood(torch.eye(self.process.K).to(frequent))
        return frequent + weight[:, None] * (prediction.float() - frequent) + tilt

    def drawn(self, prediction: Tensor, generator: torch.Generator | None) -> Tensor:
        """By the Gumbel-max trick, as one-hot rows (B, K)."""
        noise = self.process.noise(len(prediction), (self.process.K,), generator)
        label = (prediction.float() + noise[:, : self.process.K].to(prediction.device)).argmax(-1)
        return F.one_hot(label, self.process.K).float()

    @property
    def linear_in(self) -> int:
        return -1  # probabilities are about linear in logits, the logits in 1 / temperature

    def tempered(self, prediction: Tensor, factor: Tensor) -> Tensor:
        """The logits over the factor.

        It is to them what it is to a variance: of two Gaussian groups with one variance, the
        log-odds are a distance over that variance.
        """
        return prediction.float() / factor

    def log_likelihood(self, prediction: Tensor, z0: Tensor) -> Tensor:
        """If one label in a hundred was drawn at random."""
        probability = (prediction.float().softmax(-1) * z0).sum(-1)
        return ((1 - _ERROR_RATE) * probability + _ERROR_RATE / self.process.K).log()


def _frequencies(cohort: Marginal) -> Tensor:
    """Of the labels (K,)."""
    mean = cohort[0].clamp_min(_RAREST)
    return mean / mean.sum()
