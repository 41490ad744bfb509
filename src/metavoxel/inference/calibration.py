"""How far a predictive distribution can be trusted, and intervals that can, whatever it says.

Split-conformal intervals (Vovk et al., 2005; Lei et al., 2018): the residuals of records that the
model was not fitted on say how wide an interval must be. If further records are exchangeable with
those, it holds the truth at least as often as its level says, however wrong the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import linregress

from metavoxel.model_files import LEVELS

_CHANCE = 0.05  # a slope that chance explains this often corrects nothing


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of samples (n, m) against truth (n,), shape (n,).

    The unbiased estimator E|X - y| - E|X - X'| / 2 (Gneiting and Raftery, 2007, Eq. 21), in the
    unit of the variable; with one sample, its absolute error.
    """
    m = samples.shape[1]
    near = np.abs(samples - truth[:, None]).mean(1)
    if m == 1:
        return near
    # The k-th smallest of m is the larger in k - 1 pairs and the smaller in m - k.
    signs = 2 * np.arange(1, m + 1) - m - 1
    return near - (np.sort(samples, axis=1) * signs).sum(1) / (m * (m - 1))


def sample_variance(samples: np.ndarray) -> np.ndarray:
    """The variance of the samples (n, m) about the truth if they are right, shape (n,).

    The mean of m samples misses the truth by (1 + 1/m) times their variance on average.
    """
    m = samples.shape[1]
    return samples.var(1, ddof=1) * (1 + 1 / m)


def conformal_quantile(residuals: np.ndarray, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n residuals; infinite where n is too small for it."""
    rank = math.ceil((len(residuals) + 1) * level - 1e-9)
    return float(np.sort(residuals)[rank - 1]) if rank <= len(residuals) else math.inf


@dataclass(frozen=True)
class Calibration:
    """What held-out records say of a continuous variable's one-evaluation answers.

    `quantiles` are those of the residuals |truth - mean|, divided by the answers' own standard
    deviation if `normalised`, by level. `line` is (intercept, slope) of the means on the truth, or
    None where that slope could be chance.
    """

    n: int
    normalised: bool
    quantiles: Mapping[float, float]
    line: tuple[float, float] | None

    def interval(
        self, mean: np.ndarray, std: np.ndarray | None, level: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ends, each (n,), of the intervals about the means (n,) at one of `quantiles`.

        Raises ValueError if they are in units of a standard deviation and none is given.
        """
        unit = std if self.normalised else np.ones_like(mean)
        if unit is None:
            raise ValueError("these intervals are in units of the answers' standard deviation")
        half = self.quantiles[level] * unit
        return mean - half, mean + half

    def corrected(self, mean: np.ndarray) -> np.ndarray | None:
        """The means (n,) without their regression towards the mean, (mean - intercept) / slope.

        The truth is not used (Cole et al., 2018; Smith et al., 2019), so that it can be applied to
        anyone; the price is a wider error.
        """
        if self.line is None:
            return None
        intercept, slope = self.line
        return (mean - intercept) / slope

    def to_json(self) -> dict[str, Any]:
        finite = {str(k): q if math.isfinite(q) else None for k, q in self.quantiles.items()}
        return {
            "n": self.n,
            "normalised": self.normalised,
            "conformal_quantiles": finite,
            "bias_line": self.line and list(self.line),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        quantiles = {
            float(k): math.inf if q is None else float(q)
            for k, q in data["conformal_quantiles"].items()
        }
        line = data["bias_line"]
        return cls(data["n"], data["normalised"], quantiles, line and (line[0], line[1]))


def calibrate(mean: np.ndarray, std: np.ndarray | None, truth: np.ndarray) -> Calibration:
    """Fit on the answers (n,) to records that the model was not trained on; NaN truth is left out.

    With `std` (n,) the residuals are in units of it: subjects whose answer is less sure get wider
    intervals.
    """
    known = ~np.isnan(truth)
    mean, truth = mean[known], truth[known]
    residuals = np.abs(truth - mean)
    if std is not None:
        residuals = residuals / std[known]
    quantiles = {level: conformal_quantile(residuals, level) for level in LEVELS}
    return Calibration(len(truth), std is not None, quantiles, _line(truth, mean))


def _line(truth: np.ndarray, mean: np.ndarray) -> tuple[float, float] | None:
    if len(truth) < 3 or np.ptp(truth) == 0 or np.ptp(mean) == 0:
        return None
    fit: Any = linregress(truth, mean)
    if fit.slope <= 0 or fit.pvalue > _CHANCE:
        return None
    return float(fit.intercept), float(fit.slope)
