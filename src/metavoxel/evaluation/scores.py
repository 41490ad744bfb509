"""Scores of answers, with intervals over subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metavoxel.inference.answers import central_interval

_RESAMPLES = 2000  # bootstrap resamples of the subjects behind every interval


@dataclass(frozen=True)
class Score:
    """A mean over subjects, with a 95 % bootstrap interval, and how many there were."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def over_subjects(
    values: np.ndarray, seed: int = 0, statistic: Callable[..., np.ndarray] = np.mean
) -> Score:
    """The statistic of one value per subject (n,), with its percentile bootstrap interval."""
    rng = np.random.default_rng(seed)
    draws = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))]
    low, high = np.quantile(statistic(draws, axis=1), [0.025, 0.975])
    return Score(float(statistic(values)), float(low), float(high), len(values))


def coverage(samples: np.ndarray, truth: np.ndarray, level: float) -> float:
    """Share of truths (n,) inside the central interval of their samples (n, m)."""
    low, high = central_interval(samples, level)
    return float(((truth >= low) & (truth <= high)).mean())


def dispersion(samples: np.ndarray, truth: np.ndarray) -> float:
    """Variance of the samples (n, m) over squared error of their mean; 1 when calibrated.

    The mean of m samples misses the truth by (1 + 1/m) times the variance on average.
    """
    m = samples.shape[1]
    squared = np.square(samples.mean(1) - truth).mean()
    return float(samples.var(1, ddof=1).mean() * (1 + 1 / m) / squared)
