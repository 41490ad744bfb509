"""Distributions of one number, for one subject or for many, as probabilities of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_TINY = np.finfo(float).tiny


@dataclass(frozen=True, eq=False)
class Marginal:
    """A distribution of one number, uniform within cells; leading axes (...) are subjects.

    `edges` (..., n + 1) are the ends of the cells, in the number's unit; `mass` (..., n) is the
    probability of each and sums to 1. One cell of no width where the number is known. Fine cells
    make the moments, the CDF and the CRPS those of the smooth density that they tabulate.
    """

    edges: np.ndarray
    mass: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Marginal]) -> Marginal:
        """Of the subjects of one, then of the next; all have the same cells."""
        return cls(parts[0].edges, np.concatenate([part.mass for part in parts]))

    @property
    def centres(self) -> np.ndarray:
        """The middles of the cells, (..., n)."""
        return (self.edges[..., 1:] + self.edges[..., :-1]) / 2

    @property
    def density(self) -> np.ndarray:
        """The density in each cell, per unit, (..., n)."""
        return self.mass / np.diff(self.edges)

    @property
    def mean(self) -> np.ndarray:
        return (self.mass * self.centres).sum(-1)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt((self.mass * np.square(self.centres - self.mean[..., None])).sum(-1))

    def cdf(self, value: float | np.ndarray) -> np.ndarray:
        """Probability of lying below `value` (...)."""
        return _interpolated(value, self.edges, self._below)

    def quantile(self, q: float | np.ndarray) -> np.ndarray:
        """The value below which the distribution has mass q (...)."""
        return _interpolated(q, self._below, self.edges)

    def quantiles(self, levels: np.ndarray) -> np.ndarray:
        """Those at m levels, (..., m)."""
        return np.stack([self.quantile(q) for q in levels], -1)

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """The central interval of this probability."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def log_density(self, value: float | np.ndarray) -> np.ndarray:
        """The logarithm of the density, per unit, at `value` (...).

        Linear between the middles of the cells; minus infinity outside of the cells, infinity at a
        known value.
        """
        width = np.diff(self.edges)
        inside = (value >= self.edges[..., 0]) & (value <= self.edges[..., -1])
        with np.errstate(divide="ignore", invalid="ignore"):  # of a known value
            logs = np.log(np.maximum(self.mass, _TINY)) - np.log(width)
            return np.where(inside, _interpolated(value, self.centres, logs), -np.inf)

    def crps(self, value: float | np.ndarray) -> np.ndarray:
        """Continuous ranked probability score at `value` (...), in the unit: E|Y - value| less half
        of E|Y - Y'| (Gneiting and Raftery, 2007)."""
        width, below = np.diff(self.edges), self._below
        away = np.abs(np.asarray(value)[..., None] - self.centres)
        within = width / 4 + np.square(away) / np.where(width > 0, width, 1)
        error = (self.mass * np.where(away < width / 2, within, away)).sum(-1)
        a, b = below[..., :-1], below[..., 1:]
        # Half of E|Y - Y'| is the integral of F (1 - F), and F is linear from a to b.
        return error - (width * ((a + b) / 2 - (a * a + a * b + b * b) / 3)).sum(-1)

    @property
    def _below(self) -> np.ndarray:
        """The CDF at `edges`, (..., n + 1)."""
        return np.concatenate([np.zeros_like(self.mass[..., :1]), self.mass.cumsum(-1)], axis=-1)


def _interpolated(x: float | np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """`np.interp` for each row: x (...), xs and ys (..., m), xs in ascending order."""
    at = np.asarray(x, dtype=float)[..., None]
    shape = np.broadcast_shapes(at.shape[:-1] + xs.shape[-1:], xs.shape, ys.shape)
    last = shape[-1] - 1
    left = np.clip((np.broadcast_to(xs, shape) <= at).sum(-1, keepdims=True) - 1, 0, last)
    right = np.minimum(left + 1, last)
    x0, x1, y0, y1 = (
        np.take_along_axis(np.broadcast_to(values, shape), index, -1)[..., 0]
        for values, index in ((xs, left), (xs, right), (ys, left), (ys, right))
    )
    width = x1 - x0
    along = np.where(width > 0, (at[..., 0] - x0) / np.where(width > 0, width, 1), 0)
    return y0 + np.clip(along, 0, 1) * np.where(along > 0, y1 - y0, 0)
