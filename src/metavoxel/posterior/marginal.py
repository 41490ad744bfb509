"""The distribution of one number given what is known, in the variable's unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr

from metavoxel.encoding.normal_scores import NormalScores

_HALVINGS = 40  # of the interval in which a quantile is looked for
_COMPONENTS = 32  # whose distribution functions are in memory at once


@dataclass(frozen=True, eq=False)
class NumberMarginal:
    """Of B records: the scores of a number are a mixture of M normals that share one deviation.

    Shapes: weight and mean (B, M), std (B,), float64; `scores` maps scores to the unit.
    """

    weight: Tensor
    mean: Tensor
    std: Tensor
    scores: NormalScores

    def moments(self) -> tuple[Tensor, Tensor]:
        """Expectation and standard deviation in the unit, (B,) each, by quadrature: the mass between
        neighbouring knots of the map counts as one value, that of the middle."""
        knots = self.scores.knots.to(self.mean)
        below = self._below(knots.expand(len(self.mean), -1))
        mass = torch.cat([below[:, :1], below.diff(dim=1), 1 - below[:, -1:]], 1)
        middle = torch.cat([knots[:1], (knots[1:] + knots[:-1]) / 2, knots[-1:]])
        values = self.scores.values(middle)
        mean = mass @ values
        variance = (mass * (values - mean[:, None]).square()).sum(1)
        return mean, variance.sqrt()

    def cdf(self, values: Tensor) -> Tensor:
        """P(variable <= value) at values (B, m) in the unit, (B, m)."""
        return self._below(self.scores.scores(values).to(self.mean))

    def log_density(self, values: Tensor) -> Tensor:
        """Log density per unit at values (B,), (B,)."""
        standard = (self.scores.scores(values)[:, None].to(self.mean) - self.mean) / self.std[
            :, None
        ]
        normal = -standard.square() / 2 - self.std[:, None].log() - np.log(2 * np.pi) / 2
        density = (self.weight.log() + normal).logsumexp(1)
        return density + self.scores.slope(values).log()

    def quantiles(self, levels: Tensor) -> Tensor:
        """At levels (m,) between 0 and 1, in the unit: (B, m)."""
        levels = levels.to(self.mean).expand(len(self.mean), -1)
        # A quantile of a mixture lies between the least and the greatest of its components'.
        each = self.mean[:, None] + self.std[:, None, None] * torch.special.ndtri(levels)[..., None]
        low, high = each.amin(2), each.amax(2)
        for _ in range(_HALVINGS if self.mean.shape[1] > 1 else 0):
            middle = (low + high) / 2
            less = self._below(middle) < levels
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return self.scores.values((low + high) / 2)

    def _below(self, x: Tensor) -> Tensor:
        """P(score <= x), x (B, m), a few components at a time."""
        total = torch.zeros_like(x)
        for weight, mean in zip(
            self.weight.split(_COMPONENTS, 1), self.mean.split(_COMPONENTS, 1), strict=True
        ):
            standard = (x[..., None] - mean[:, None]) / self.std[:, None, None]
            total = total + (weight[:, None] * ndtr(standard)).sum(2)
        return total
