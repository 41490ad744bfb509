"""Statistics of continuous answers (n,) against truth (n,), as functions of weights (b, n)."""

from __future__ import annotations

import numpy as np

from metavoxel.evaluation.scores import Statistic


def rmse(error: np.ndarray) -> Statistic:
    """Root of the mean squared error."""
    squared = np.square(error)
    return lambda w: np.sqrt(w @ squared / w.sum(1))


def deviation(values: np.ndarray) -> Statistic:
    """The standard deviation of the values between records, as in "MAE 4.50 +- 3.46"."""
    centred = values - values.mean()

    def statistic(w: np.ndarray) -> np.ndarray:
        n = w.sum(1)
        variance = w @ centred**2 / n - np.square(w @ centred / n)
        return np.sqrt(np.maximum(variance, 0) * n / (n - 1))

    return statistic


def correlation(x: np.ndarray, y: np.ndarray) -> Statistic:
    """Pearson's r; not defined where either is constant."""
    return lambda w: _covariance(w, x, y) / np.sqrt(_variance(w, x) * _variance(w, y))


def slope(x: np.ndarray, y: np.ndarray) -> Statistic:
    """The slope of y on x by least squares. Of the error on the truth it is the bias with the
    variable itself: 0 without regression to the mean, -1 if every answer is the mean."""
    return lambda w: _covariance(w, x, y) / _variance(w, x)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Statistic:
    """The mean of one over the mean of the other."""
    return lambda w: w @ numerator / (w @ denominator)


def _covariance(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of x and y under the weights (b,)."""
    x, y, n = x - x.mean(), y - y.mean(), w.sum(1)
    return w @ (x * y) / n - (w @ x / n) * (w @ y / n)


def _variance(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """NaN where it is nothing but rounding."""
    variance = _covariance(w, x, x)
    return np.where(variance > 1e-12 * np.square(x).max(initial=0), variance, np.nan)
