"""An image as a Gaussian by factor analysis: the LMMSE (Wiener) estimate of z_0 given z_t."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LMMSE:
    """The LMMSE estimate of z_0 given z_t. Shapes (B, ...).

    `mean` and `std` are those of every element; `unique` is the mean of what an element does not
    share with others, over its standard deviation: of variance 1 at most, and 0 where nothing is
    known.
    """

    mean: Tensor
    std: Tensor
    unique: Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of the first j of a Gaussian's factors: mean (B, j), covariance (B, j, j)."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class FactorGaussian:
    """z_0 ~ N(0, F F' + diag(psi)), as in factor analysis.

    `factors` (k, ...) holds the columns of F, the directions in which elements vary together; k may
    be 0. `unique` (...) is psi > 0, the variance that is each element's own. So z_0 = F c + e, and
    given c its elements are independent: what has to be inverted are k x k numbers, not one of
    every pair of elements.
    """

    factors: Tensor
    unique: Tensor

    def lmmse(self, zt: Tensor, alpha_bar: Tensor) -> LMMSE:
        """The posterior of z_0 given z_t (B, ...) at alpha_bar (B,).

        With a = alpha_bar and d = Var[z_t | c] = a psi + 1 - a, c has the posterior precision
        I + a F' diag(1 / d) F, one for each of the a's.
        """
        with torch.autocast(zt.device.type, enabled=False):
            F, psi = self.factors.flatten(1), self.unique.flatten()
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
            shared, unique = self._parts(c, zt, a, d)
            return LMMSE(
                (shared + unique).view_as(zt),
                std[level].view_as(zt),
                (unique / psi.sqrt()).view_as(zt),
            )

    def mean_given(self, zt: Tensor, alpha_bar: Tensor, known: Moments) -> Tensor:
        """E[z_0 | z_t] (B, ...), if of c's first elements more is `known` than N(0, I).

        With c ~ N(m, V) and M = a F' diag(1 / d) F, E[c | z_t] = m + V (I + M V)^-1 (s - M m),
        s = sqrt(a) F' diag(1 / d) z_t: V may be 0.
        """
        with torch.autocast(zt.device.type, enabled=False):
            F, j = self.factors.flatten(1), known.mean.shape[1]
            levels, level = alpha_bar.to(zt).unique(return_inverse=True)
            a, d = self._variances(levels)
            information = self._information(a, d).double()[level]
            a, d = a[level], d[level]
            evidence = ((a.sqrt() * zt.flatten(1) / d) @ F.T).double()
            one = torch.eye(len(F)).to(evidence)
            m, V = torch.zeros_like(evidence), one.repeat(len(zt), 1, 1)
            m[:, :j], V[:, :j, :j] = known.mean.to(m), known.covariance.to(V)
            surprise = evidence - torch.einsum("bij,bj->bi", information, m)
            left = torch.linalg.solve(one + information @ V, surprise)
            c = (m + torch.einsum("bij,bj->bi", V, left)).to(zt)
            shared, unique = self._parts(c, zt, a, d)
            return (shared + unique).view_as(zt)

    def _variances(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """a (L, 1) and d (L, n) of L values of alpha_bar."""
        a = levels[:, None]
        return a, a * self.unique.flatten() + 1 - a

    def _information(self, a: Tensor, d: Tensor) -> Tensor:
        """What z_t tells of c: a F' diag(1 / d) F, (L, k, k)."""
        F = self.factors.flatten(1)
        return (F * (a / d)[:, None]) @ F.T

    def _parts(self, c: Tensor, zt: Tensor, a: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """F c and the mean of e (B, n), given z_t and c (B, k)."""
        shared = c @ self.factors.flatten(1)
        unique = a.sqrt() * self.unique.flatten() / d * (zt.flatten(1) - a.sqrt() * shared)
        return shared, unique
