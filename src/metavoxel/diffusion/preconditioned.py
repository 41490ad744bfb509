"""Gaussian diffusion whose network predicts the residual of the LMMSE estimate (preconditioning).

A network that must predict an image's velocity or noise spends most of its training on passing its
own input through, at every noise level and in every channel, and on what all images of the cohort
share. If z_0 were Gaussian, its best estimate would be linear in z_t (LMMSE, the Wiener filter),
with a known error. The network predicts that error, in units of its standard deviation. This is the
preconditioning of EDM (Karras et al., 2022, Eq. 7), with a Gaussian of the training images where
EDM has one standard deviation for all data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metavoxel.diffusion.combined import CombinedProcess
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.process import over_axes

_NOISE = 4.0  # weight of the noise's error, so that an image counts about as much as a scalar
_TAUGHT = 0.003  # alpha_bar about which Eq. 5 ceases to teach: docs/explanation/engines.md
_LEAST, _LEAST_TAUGHT = 1e-12, 1e-6


@dataclass(frozen=True, eq=False)
class LinearAnswer:
    """The LMMSE estimate of z_0 given z_t. Shapes (B, ...).

    `mean` and `std` are those of every element; `own` is the mean of what an element does not share
    with others, over its standard deviation: of variance 1 at most, and 0 where nothing is known.
    """

    mean: Tensor
    std: Tensor
    own: Tensor


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What is known of the first j of a Gaussian's factors: mean (B, j), covariance (B, j, j)."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class FactorGaussian:
    """z_0 ~ N(0, F F' + diag(psi)), as in factor analysis.

    `factors` (k, ...) holds the columns of F, the directions in which elements vary together; k may
    be 0. `own` (...) is psi > 0, the variance that is each element's own. So z_0 = F c + e, and
    given c its elements are independent: what has to be inverted are k x k numbers, not one of
    every pair of elements.
    """

    factors: Tensor
    own: Tensor

    def given(self, zt: Tensor, alpha_bar: Tensor) -> LinearAnswer:
        """The posterior of z_0 given z_t (B, ...) at alpha_bar (B,).

        With a = alpha_bar and d = Var[z_t | c] = a psi + 1 - a, c has the posterior precision
        I + a F' diag(1 / d) F, one for each of the a's.
        """
        with torch.autocast(zt.device.type, enabled=False):
            F, psi = self.factors.flatten(1), self.own.flatten()  # noqa: N806
            levels, level = alpha_bar.to(zt).unique(return_inverse=True)
            a, d = self._variances(levels)
            precision = torch.eye(len(F)).to(F) + self._information(a, d)
            root = torch.linalg.cholesky(precision)
            shared_variance = (torch.linalg.inv(root) @ F).square().sum(1)  # of F c, given z_t
            # Given z_t, e = sqrt(a) psi / d (z_t - sqrt(a) F c) and what the noise leaves open.
            share = (1 - a) / d
            std = (psi * share + share.square() * shared_variance).sqrt()
            a, d = a[level], d[level]
            evidence = (a.sqrt() * zt.flatten(1) / d) @ F.T
            c = torch.cholesky_solve(evidence[..., None], root[level])[..., 0]
            shared, own = self._parts(c, zt, a, d)
            return LinearAnswer(
                (shared + own).view_as(zt), std[level].view_as(zt), (own / psi.sqrt()).view_as(zt)
            )

    def mean_given(self, zt: Tensor, alpha_bar: Tensor, known: Coefficients) -> Tensor:
        """E[z_0 | z_t] (B, ...), if of c's first elements more is `known` than N(0, I).

        With c ~ N(m, V) and M = a F' diag(1 / d) F, E[c | z_t] = m + V (I + M V)^-1 (s - M m),
        s = sqrt(a) F' diag(1 / d) z_t: V may be 0.
        """
        with torch.autocast(zt.device.type, enabled=False):
            F, j = self.factors.flatten(1), known.mean.shape[1]  # noqa: N806
            levels, level = alpha_bar.to(zt).unique(return_inverse=True)
            a, d = self._variances(levels)
            information = self._information(a, d).double()[level]
            a, d = a[level], d[level]
            evidence = ((a.sqrt() * zt.flatten(1) / d) @ F.T).double()
            one = torch.eye(len(F)).to(evidence)
            m, V = torch.zeros_like(evidence), one.repeat(len(zt), 1, 1)  # noqa: N806
            m[:, :j], V[:, :j, :j] = known.mean.to(m), known.covariance.to(V)
            surprise = evidence - torch.einsum("bij,bj->bi", information, m)
            left = torch.linalg.solve(one + information @ V, surprise)
            c = (m + torch.einsum("bij,bj->bi", V, left)).to(zt)
            shared, own = self._parts(c, zt, a, d)
            return (shared + own).view_as(zt)

    def _variances(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """a (L, 1) and d (L, n) of L values of alpha_bar."""
        a = levels[:, None]
        return a, a * self.own.flatten() + 1 - a

    def _information(self, a: Tensor, d: Tensor) -> Tensor:
        """What z_t tells of c: a F' diag(1 / d) F, (L, k, k)."""
        F = self.factors.flatten(1)  # noqa: N806
        return (F * (a / d)[:, None]) @ F.T

    def _parts(self, c: Tensor, zt: Tensor, a: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """F c and the mean of e (B, n), given z_t and c (B, k)."""
        shared = c @ self.factors.flatten(1)
        own = a.sqrt() * self.own.flatten() / d * (zt.flatten(1) - a.sqrt() * shared)
        return shared, own


@dataclass(frozen=True, eq=False)
class PreconditionedGaussian(CombinedProcess):
    """A Gaussian process of a field whose network prediction is a correction, of variance 1.

    `process` predicts z_0; noise and velocity are linear in it, so that a correction of either is
    the same up to its sign. `gaussian` gives the Gaussian of the estimate. The network's inputs are
    the estimate and the part of it that is unique to each element, which the shared would drown.
    `relative` is the share of the loss that is relative to the LMMSE estimate's error. Without it
    nothing is taught at T, so that corrections fade there and leave the LMMSE estimate.
    """

    process: GaussianProcess
    gaussian: Callable[[], FactorGaussian]
    relative: float = 1.0
    _latest: list[tuple[tuple[Tensor, ...], LinearAnswer]] = field(
        default_factory=list, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.process.prediction != "x0":
            raise ValueError("the LMMSE estimate is one of z_0; give a process that predicts x0")

    @property
    def widths(self) -> tuple[int, int]:
        return 2, 1

    def seen(self, zt: Tensor, t: Tensor) -> Tensor:
        """z_t's own word on z_0 (B, 2 c, ...)."""
        answer = self.linear(zt, t)
        return torch.cat([answer.mean, answer.own], 1)

    def combined(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        answer = self.linear(zt, t)
        return answer.mean + self._unit(answer, t) * prediction

    def silence(self, zt: Tensor) -> Tensor:
        return torch.zeros_like(zt)

    def informed(self, prediction: Tensor, zt: Tensor, t: Tensor, known: Coefficients) -> Tensor:
        """A prediction (B, ...) that corrects the answer given what else is `known` of the
        Gaussian's first factors, as one that corrects the answer without."""
        answer, gaussian = self.linear(zt, t), self.gaussian()
        mean = gaussian.mean_given(zt, self.schedule.alpha_bar(t), known)
        return prediction + (mean - answer.mean) / self._unit(answer, t).clamp_min(_LEAST)

    def loss(self, prediction: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Squared error of z_0 relative to that of the LMMSE estimate, and of the noise (Eq. 5).

        The first lets every t count alike, 1 for no correction. The second lets those count where
        detail is decided, and teaches nothing at T, where only scalars are known of an image.
        """
        zt = self.process.noised(z0, t, noise)
        error = (self.combined(prediction, zt, t) - z0).square().flatten(1).mean(1)
        # A known field is at t = 0, where std is 0; its loss is masked, its gradient is not.
        expected = self.linear(zt, t).std.square().flatten(1).mean(1).clamp_min(_LEAST)
        a = self.schedule.alpha_bar(t)
        snr = a / (1 - a).clamp_min(_LEAST)
        return error * (_NOISE * (1 - self.relative) * snr + self.relative / expected)

    def _unit(self, answer: LinearAnswer, t: Tensor) -> Tensor:
        """What a correction of 1 moves the answer by (B, ...)."""
        if self.relative:
            return answer.std
        a = self.schedule.alpha_bar(t)
        taught = (a / (a + _TAUGHT)).clamp_min(_LEAST_TAUGHT)  # not 0: `informed` divides by it
        return answer.std * over_axes(taught, answer.std)

    def linear(self, zt: Tensor, t: Tensor) -> LinearAnswer:
        """The LMMSE estimate, which the network corrects.

        It is needed several times for one z_t: for the input, the prediction and the loss. So the
        latest one is kept.
        """
        gaussian, alpha_bar = self.gaussian(), self.schedule.alpha_bar(t)
        asked = (zt, alpha_bar, gaussian.factors, gaussian.own)
        if not (self._latest and all(map(_same, asked, self._latest[0][0]))):
            kept = (zt.clone(), *asked[1:])  # whatever is written into z_t later
            self._latest[:] = [(kept, gaussian.given(zt, alpha_bar))]
        return self._latest[0][1]


def _same(x: Tensor, y: Tensor) -> bool:
    alike = (x.shape, x.dtype, x.device) == (y.shape, y.dtype, y.device)
    return alike and torch.equal(x, y)
