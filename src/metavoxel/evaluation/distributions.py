"""Predictive distributions of n records of a continuous variable, drawn or in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.stats import norm

from metavoxel.inference.answers import central_interval
from metavoxel.inference.calibration import crps, sample_variance


class Predictive(Protocol):
    """What is measured of one; every array holds one value per record (n,)."""

    @property
    def variance(self) -> np.ndarray:
        """Of the truth about `centre` if the distribution is right."""
        ...

    @property
    def centre(self) -> np.ndarray: ...

    def crps(self, truth: np.ndarray) -> np.ndarray: ...

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]: ...

    def nominal(self, level: float) -> float:
        """The share that the intervals of this level hold if the distribution is right."""
        ...

    def pit(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ends of where P(variable <= truth) lies: one point if the distribution is known."""
        ...


@dataclass(frozen=True, eq=False)
class Sampled:
    """m >= 2 draws for each record, (n, m)."""

    samples: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        return sample_variance(self.samples)

    @property
    def centre(self) -> np.ndarray:
        return self.samples.mean(1)

    def crps(self, truth: np.ndarray) -> np.ndarray:
        return crps(self.samples, truth)

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = central_interval(self.samples, level)
        return low, high

    def nominal(self, level: float) -> float:
        """No interval of m draws holds more than that from the smallest to the largest."""
        m = self.samples.shape[1]
        return min(level, (m - 1) / (m + 1))

    def pit(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A truth between draws k and k + 1 of m lies from k / (m + 1) to (k + 1) / (m + 1)."""
        m = self.samples.shape[1]
        below = (self.samples < truth[:, None]).sum(1)
        up_to = (self.samples <= truth[:, None]).sum(1)
        return below / (m + 1), (up_to + 1) / (m + 1)


@dataclass(frozen=True, eq=False)
class Stated:
    """What one evaluation states for each record: a mean and a standard deviation, both (n,)."""

    mean: np.ndarray
    std: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        return np.square(self.std)

    @property
    def centre(self) -> np.ndarray:
        return self.mean


@dataclass(frozen=True, eq=False)
class Normal(Stated):
    """N(mean, std^2) for each record."""

    def crps(self, truth: np.ndarray) -> np.ndarray:
        """In closed form (Gneiting and Raftery, 2007)."""
        z = (truth - self.mean) / self.std
        return self.std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        half = norm.ppf((1 + level) / 2) * self.std
        return self.mean - half, self.mean + half

    def nominal(self, level: float) -> float:
        return level

    def pit(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = norm.cdf((truth - self.mean) / self.std)
        return at, at


@dataclass(frozen=True, eq=False)
class Quantiles(Stated):
    """Any distribution, by m evenly spaced quantiles, too, (n, m): the k-th is that of
    (k - 1/2) / m."""

    values: np.ndarray

    def crps(self, truth: np.ndarray) -> np.ndarray:
        """The mean of the quantile losses (Laio and Tamea, 2007)."""
        m = self.values.shape[1]
        levels, beyond = (np.arange(m) + 0.5) / m, self.values - truth[:, None]
        return 2 * (((beyond > 0) - levels) * beyond).mean(1)

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        ends = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(self.values, ends, axis=1, method="hazen")
        return low, high

    def nominal(self, level: float) -> float:
        """No more is known than from the first quantile to the last."""
        m = self.values.shape[1]
        return min(level, (m - 1) / m)

    def pit(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the quantile below the truth to that above it."""
        m = self.values.shape[1]
        below = (self.values < truth[:, None]).sum(1)
        up_to = (self.values <= truth[:, None]).sum(1)
        return np.maximum(below - 0.5, 0) / m, np.minimum(up_to + 0.5, m) / m


def pit_histogram(predictive: Predictive, truth: np.ndarray, bins: int) -> np.ndarray:
    """How many truths (n,) fall in each of the bins of P(variable <= truth), shape (bins,).

    Flat if the distributions are right; high at both ends if they are too narrow. What is known up
    to an interval is spread over it (Czado et al., 2009), so that few draws need no lot.
    """
    low, high = predictive.pit(truth)
    edges = np.linspace(0, 1, bins + 1)
    point = high - low < 1e-9
    counts = np.histogram(low[point], edges)[0].astype(float)
    a, b = low[~point, None], high[~point, None]
    inside = np.minimum(b, edges[1:]) - np.maximum(a, edges[:-1])
    return counts + (np.maximum(inside, 0) / (b - a)).sum(0)
