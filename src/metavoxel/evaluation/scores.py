"""Scores of answers, with intervals over subjects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from metavoxel.inference.answers import central_interval
from metavoxel.inference.calibration import sample_variance

_RESAMPLES = 2000  # bootstrap resamples of the subjects behind every interval
_CHUNK = 1_000_000  # weights at once

# What is measured of n records under weights (b, n), shape (b,); NaN where it is not defined.
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Score:
    """A figure over n records, with a 95 % bootstrap interval over their subjects.

    NaN is what cannot be measured: the interval with one subject, or the figure itself.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "n/a"
        if math.isnan(self.low):
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; JSON has no NaN."""
        return {k: None if math.isnan(x) else x for k, x in vars(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Score:
        value, low, high = (
            math.nan if (x := data[k]) is None else x for k in ("value", "low", "high")
        )
        return cls(value, low, high, data["n"])


class Bootstrap:
    """Resamples of subjects: who has several records brings them all, or none.

    `subjects` names the subject of each of the n records.
    """

    def __init__(self, subjects: Sequence[str], seed: int = 0) -> None:
        names, self._subject = np.unique(np.asarray(subjects), return_inverse=True)
        self._people, self._seed, self.n = len(names), seed, len(subjects)

    def score(self, statistic: Statistic) -> Score:
        """The statistic of the records, with its percentile interval.

        Resamples in which it is not defined (one class only) are left out.
        """
        with np.errstate(all="ignore"):
            value = float(statistic(np.ones((1, self.n)))[0])
            if math.isnan(value) or self._people < 2:
                return Score(value, math.nan, math.nan, self.n)
            drawn = np.concatenate([statistic(w.astype(float)) for w in self._weights])
            low, high = np.nanquantile(drawn, [0.025, 0.975])
        return Score(value, float(low), float(high), self.n)

    def share(self, hits: np.ndarray) -> Score:
        """The share of hits (n,), 0 or 1 each. Resamples cannot say how sure a share of 0 or 1 is;
        there, the interval is Wilson's, of as many trials as there are subjects."""
        score = self.score(mean_of(hits))
        if score.value in (0, 1) and self._people > 1:
            return Score(score.value, *wilson(score.value, self._people), self.n)
        return score

    @cached_property
    def _weights(self) -> list[np.ndarray]:
        return list(self._drawn())

    def _drawn(self) -> Iterator[np.ndarray]:
        """How often every record is drawn, (b, n) at a time."""
        rng, left = np.random.default_rng(self._seed), _RESAMPLES
        even = np.full(self._people, 1 / self._people)
        while left:
            b = min(left, max(1, _CHUNK // max(self.n, 1)))
            yield rng.multinomial(self._people, even, size=b)[:, self._subject].astype(np.float32)
            left -= b


def mean_of(values: np.ndarray) -> Statistic:
    """The mean of one value per record (n,)."""
    return lambda w: w @ values / w.sum(1)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson, 1927), which keeps within 0 and 1."""
    z2 = 1.96**2
    middle, half = share + z2 / (2 * n), math.sqrt(share * (1 - share) / n * z2 + (z2 / 2 / n) ** 2)
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


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
    """Variance of the samples (n, m) over squared error of their mean; 1 when calibrated."""
    squared = np.square(samples.mean(1) - truth).mean()
    return float(sample_variance(samples).mean() / squared)
