"""What scalars say of one another, if over the cohort they are jointly normal.

A network has to learn it from the few records of a batch in which no image drowns it. But a mean
and a covariance are all that a normal needs, the training people give them at once, and Bayes' rule
does the rest in closed form, whichever scalars are known and however noisy they are. So the two are
pooled, in the measure in which held-out people find them right: without images, and beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metavoxel.diffusion.preconditioned import Coefficients

_JITTER = 1e-9  # added to variances: the elements of one-hot rows add up to 1, without any

Marginal = tuple[Tensor, Tensor]  # of one scalar: mean (k,) and covariance (k, k)


@dataclass(frozen=True, eq=False)
class Measurement:
    """A linear measurement of z_0 (B, k): value = gain z_0 + e, e of mean 0 and covariance noise.

    Shapes: value (B, k), gain (B,), noise (B, k, k).
    """

    value: Tensor
    gain: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class Evidence:
    """A likelihood of z_0 (B, k), exp(eta' z_0 - z_0' precision z_0 / 2)."""

    eta: Tensor
    precision: Tensor

    def log_likelihood(self, z0: Tensor) -> Tensor:
        """Of each of m values z0 (m, k), up to a constant: (B, m)."""
        products = z0[:, :, None] * z0[:, None]
        square = (self.precision[:, None] * products).sum((2, 3))  # no matmul: it would be autocast
        return (self.eta[:, None] * z0).sum(2) - square / 2

    def weighed(self, weight: Tensor) -> Evidence:
        """To the power of `weight` (B,)."""
        return Evidence(self.eta * weight[:, None], self.precision * weight[:, None, None])

    def explained(self, cohort: Marginal) -> Tensor:
        """The share (B,) of the cohort's variance that it explains, R^2, 0 if it says nothing."""
        left = cohort[1] @ self.precision.to(cohort[1]) + torch.eye(self.eta.shape[1]).to(cohort[1])
        k = self.eta.shape[1]
        gone = k - torch.linalg.inv(left).diagonal(dim1=1, dim2=2).sum(1)
        return (gone / max(k - 1, 1)).clamp(0, 1).to(self.eta)  # one-hot rows vary in k - 1 ways


class JointNormal(nn.Module):
    """z_0 of all scalars ~ N(mean, covariance), one after the other, labels by their one-hot rows.

    `widths` says how many of the elements of `mean` (D,) and `covariance` (D, D) are a scalar's.
    `share` is its weight in an answer where no image is seen, `beside` that about each scalar where
    images are; what is left is the network's. Computes in float64: what one-hot rows say of each
    other is nearly singular. Raises ValueError if the shapes do not fit.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        widths: Mapping[str, int],
        mean: Sequence[float],
        covariance: Sequence[Sequence[float]],
        share: float = 1.0,
        beside: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.share = share
        self.beside: Mapping[str, float] = {**dict.fromkeys(widths, 0.0), **(beside or {})}
        ends = torch.tensor([*widths.values()]).cumsum(0).tolist()
        self.places = {v: slice(end - widths[v], end) for v, end in zip(widths, ends, strict=True)}
        if torch.tensor(covariance).shape != (len(mean), len(mean)) or len(mean) != ends[-1]:
            raise ValueError("mean and covariance do not have as many elements as the scalars")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("covariance", torch.tensor(covariance, dtype=torch.float64))

    def as_dict(self) -> dict[str, Any]:
        """What it is made of."""
        widths = {v: place.stop - place.start for v, place in self.places.items()}
        return {
            "widths": widths,
            "mean": self.mean.tolist(),
            "covariance": self.covariance.tolist(),
            "share": self.share,
            "beside": dict(self.beside),
        }

    def voices(
        self, of: str, said: Evidence, known: Mapping[str, Tensor], seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weights (B,) in an answer about a scalar: of the network, and of what the others say.

        `known` holds the share (B,) of every variable, `seen` that of the images. Where no image is
        seen and nothing but the scalar is known, neither speaks, and the cohort's distribution is
        left. Beside an image the network gives way as far as the others explain the scalar: what
        they say, it read off the image in part.
        """
        unknown = torch.stack([1 - share for v, share in known.items() if v != of]).prod(0)
        without, beside = self.share, self.beside[of]
        alone = (1 - without) * (1 - unknown)
        together = 1 - beside * said.explained(self.marginal(of))
        own = torch.lerp(alone, together, seen)
        return own, without + (beside - without) * seen

    def marginal(self, name: str) -> Marginal:
        own = self.places[name]
        return self.mean[own], self.covariance[own, own]

    def standardised(self, given: Mapping[str, Measurement]) -> Coefficients:
        """What measurements of all scalars say of u ~ N(0, I), where z_0 = mean + covariance^1/2 u.

        With y = G z_0 + e and R = covariance^1/2: E[u | y] = R G Var[y]^-1 (y - E[y]), and
        Var[u | y] = I - R G Var[y]^-1 G R. A gain of 0 measures nothing.
        """
        value, gain, noise = _stacked([given[v] for v in self.places])
        total = gain[:, :, None] * self.covariance * gain[:, None] + noise
        root = gain[:, :, None] * self.root  # G R
        surprise = (value - gain * self.mean)[..., None]
        solved = torch.linalg.solve(total, torch.cat([surprise, root], 2))
        mean, explained = (root.mT @ solved).split([1, root.shape[2]], 2)
        return Coefficients(mean[..., 0], torch.eye(root.shape[2]).to(root) - explained)

    @property
    def root(self) -> Tensor:
        """covariance^1/2, symmetric (D, D)."""
        variance, axes = torch.linalg.eigh(self.covariance)
        return (axes * variance.clamp_min(0).sqrt()) @ axes.T

    def evidence(self, of: str, given: Mapping[str, Measurement]) -> Evidence:
        """What measurements of the other scalars say of one.

        With y the measurements and x the scalar, y = m + A x + e where A = Cov[y, x] Var[x]^-1 and
        Var[e] = Var[y] - A Var[x] A'. So eta = A' Var[e]^-1 (y - m), the precision A' Var[e]^-1 A.
        """
        others = [v for v in self.places if v != of]
        if not others:
            none = given[of].value
            return Evidence(torch.zeros_like(none), none.new_zeros(*none.shape, none.shape[1]))
        mean, variance = self.marginal(of)
        value, gain, noise = _stacked([given[v] for v in others])
        rows = torch.cat([torch.arange(self.mean.numel())[self.places[v]] for v in others])
        rows = rows.to(self.mean.device)
        total = gain[:, :, None] * self.covariance[rows][:, rows] * gain[:, None] + noise
        slope = gain[:, :, None] * torch.linalg.solve(
            variance, self.covariance[rows, self.places[of]], left=False
        )
        left = total - slope @ variance @ slope.mT
        weights = torch.linalg.solve(left, slope)  # (B, D - k, k)
        deviation = (value - gain * self.mean[rows])[..., None] + slope @ mean[:, None]
        eta, precision = (weights.mT @ deviation)[..., 0], weights.mT @ slope
        return Evidence(eta.float(), precision.float())


def _stacked(given: Sequence[Measurement]) -> tuple[Tensor, Tensor, Tensor]:
    """Value (B, K), gain (B, K) and noise (B, K, K) of several measurements, in float64."""
    value = torch.cat([m.value for m in given], 1).double()
    gain = torch.cat([m.gain[:, None].expand_as(m.value) for m in given], 1).double()
    noise = _block_diagonal([m.noise.double() for m in given])
    return value, gain, noise + _JITTER * torch.eye(value.shape[1]).to(noise)


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    """Matrices (B, k, k) of several k -> (B, K, K), K the sum of the k.

    B may be 0, which torch.block_diag under vmap refuses.
    """
    size = sum(block.shape[1] for block in blocks)
    out, at = blocks[0].new_zeros(len(blocks[0]), size, size), 0
    for block in blocks:
        end = at + block.shape[1]
        out[:, at:end, at:end] = block
        at = end
    return out
