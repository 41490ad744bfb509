"""Numbers as normal scores: the monotone map that makes them standard normal over the cohort."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import log_ndtr, ndtri_exp
from torch import Tensor

_MOST = 6  # normals in a mixture
_SUBJECTS = 10  # at least, that a normal of several stands for
_NARROWEST = 0.1  # normal, over the spread of all values: an age that many share is no spike
_END = 6.0  # scores beyond which the map goes on in a line
_KNOTS, _GRID = 1201, 40_001

Component = tuple[float, float, float]  # weight, mean, standard deviation


@dataclass(frozen=True)
class NormalScores:
    """A number, mapped so that it is N(0, 1) over the training set: x = probit(F(value)).

    F is the distribution function of a mixture of normals in the variable's unit, which is fitted
    to the training set; [low, high] is the range of the variable. The map is tabulated, linear
    between its knots and beyond them, so that it has an exact inverse.
    """

    low: float
    high: float
    components: tuple[Component, ...]

    @classmethod
    def fit(cls, values: Tensor, bounds: tuple[float, float] | None) -> NormalScores:
        """The map of a number: bounds from the schema, or from the observed values (n,)."""
        low, high = bounds if bounds is not None else (float(values.min()), float(values.max()))
        high = high if high > low else low + 1.0
        resolved = 1e-10 * max(abs(low), abs(high))  # so that knots differ, in double precision
        return cls(low, high, fit_mixture(values, max(1e-3 * (high - low), resolved)))

    def encode(self, values: Tensor) -> Tensor:
        """Values (B,) in the variable's unit -> x (B, 1)."""
        return self.scores(values).float()[:, None]

    def decode(self, x: Tensor) -> Tensor:
        """x (B, 1) -> values (B,) in the variable's unit, float64."""
        return self.values(x[:, 0])

    def scores(self, values: Tensor) -> Tensor:
        """The scores of values, in the unit, of any shape; float64."""
        scores, knots = self._table
        return _interpolated(values.double(), knots, scores)

    def values(self, x: Tensor) -> Tensor:
        """The values, in the unit, of scores of any shape; float64."""
        scores, knots = self._table
        return _interpolated(x.double(), scores, knots)

    def slope(self, values: Tensor) -> Tensor:
        """dx / dvalue at values of any shape, float64."""
        scores, knots = (x.to(values.device) for x in self._table)
        i = torch.searchsorted(knots, values.double()).clamp(1, len(knots) - 1)
        return (scores[i] - scores[i - 1]) / (knots[i] - knots[i - 1])

    @property
    def knots(self) -> Tensor:
        """The scores between which the map is linear, rising, float64."""
        return self._table[0]

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """Scores, evenly spaced, and the values that have them."""
        weight, mean, std = (np.array(x) for x in zip(*self.components, strict=True))
        values = np.linspace((mean - 9 * std).min(), (mean + 9 * std).max(), _GRID)
        standard = (values[:, None] - mean) / std
        below, above = (
            np.logaddexp.reduce(np.log(weight) + log_ndtr(sign * standard), axis=1)
            for sign in (1, -1)
        )
        found = np.where(below < above, ndtri_exp(below), -ndtri_exp(above))
        scores = np.linspace(-_END, _END, _KNOTS)
        # Where no value of the mixture is likely, rounding leaves ties; the map must still rise.
        found = np.maximum.accumulate(found) + 1e-12 * np.arange(len(found))
        return torch.from_numpy(scores), torch.from_numpy(np.interp(scores, found, values))


def fit_mixture(values: Tensor, least: float) -> tuple[Component, ...]:
    """The mixture of one to six normals that describes values (n,), best by BIC (Schwarz, 1978), of
    those whose every normal stands for ten subjects or more: one subject is not a group.

    `least` is the smallest standard deviation of all values that is believed.
    """
    from sklearn.mixture import GaussianMixture  # slow to import, and needed in training alone

    x = values.double().numpy()[:, None]
    centre, spread = float(x.mean()), max(float(x.std()), least)
    if len(x) < 2:
        return ((1.0, centre, spread),)
    x = (x - centre) / spread
    most = min(_MOST, len(np.unique(x)))
    fits: list[Any] = [
        GaussianMixture(k, n_init=3, reg_covar=_NARROWEST**2, random_state=0).fit(x)
        for k in range(1, most + 1)
    ]
    groups = [fit for fit in fits[1:] if len(x) * fit.weights_.min() >= _SUBJECTS]
    best = min([fits[0], *groups], key=lambda fit: fit.bic(x))
    parts = zip(best.weights_, best.means_[:, 0], best.covariances_[:, 0, 0] ** 0.5, strict=True)
    return tuple((float(w), centre + spread * float(m), spread * float(s)) for w, m, s in parts)


def _interpolated(x: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Linear between the knots `at` (k,), rising, and beyond them."""
    at, values = at.to(x.device), values.to(x.device)
    i = torch.searchsorted(at, x.contiguous()).clamp(1, len(at) - 1)
    slope = (values[i] - values[i - 1]) / (at[i] - at[i - 1])
    return values[i - 1] + slope * (x - at[i - 1])
