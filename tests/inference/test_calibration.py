"""Scores of distributions and conformal intervals: by hand, in closed form, beside MAPIE."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from mapie.regression import SplitConformalRegressor
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin

from metavoxel.inference.calibration import (
    LEVELS,
    Calibration,
    calibrate,
    conformal_quantile,
    crps,
    sample_variance,
)


def test_crps_of_a_normal_matches_its_closed_form() -> None:
    """CRPS(N(0, 1), y) = y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)."""
    y = np.array([-1.0, 0.0, 2.0])
    samples = np.random.default_rng(0).normal(size=(3, 4000))
    expected = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    assert crps(samples, y) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("draws", [2, 3, 7])
def test_crps_is_the_mean_distance_less_half_that_of_pairs(draws: int) -> None:
    rng = np.random.default_rng(draws)
    samples, truth = rng.integers(0, 4, size=(5, draws)) * 1.0, rng.normal(size=5)  # with ties
    pairs = list(itertools.permutations(range(draws), 2))
    for x, y, score in zip(samples, truth, crps(samples, truth), strict=True):
        apart = np.mean([abs(x[i] - x[j]) for i, j in pairs])
        assert score == pytest.approx(np.abs(x - y).mean() - apart / 2)


def test_crps_of_one_sample_is_its_error() -> None:
    assert crps(np.array([[3.0], [5.0]]), np.array([1.0, 6.0])).tolist() == [2, 1]


def test_the_variance_of_few_samples_is_that_of_the_truth_about_their_mean() -> None:
    rng = np.random.default_rng(0)
    samples, truth = rng.normal(size=(40_000, 3)), rng.normal(size=40_000)
    missed = np.square(samples.mean(1) - truth).mean()
    assert sample_variance(samples).mean() == pytest.approx(missed, rel=0.03)


@pytest.mark.parametrize(
    ("level", "expected"), [(0.5, 6.0), (0.8, 9.0), (0.9, 10.0), (0.95, math.inf)]
)
def test_the_conformal_quantile_of_ten_residuals_by_hand(level: float, expected: float) -> None:
    """ceil(11 x 0.5) = 6, ceil(8.8) = 9, ceil(9.9) = 10; of ceil(10.45) = 11 there is none."""
    residuals = np.random.default_rng(0).permutation(np.arange(1.0, 11.0))
    assert conformal_quantile(residuals, level) == expected


def test_the_rank_does_not_hang_on_rounding() -> None:
    """(n + 1) level is 9 exactly for n = 9 and 0.9, whatever floating point makes of it."""
    assert all(conformal_quantile(np.arange(1.0, k), 1 - 1 / k) == k - 1 for k in range(3, 200))


class _Said(RegressorMixin, BaseEstimator):
    """A fitted regressor whose answer is its input."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> _Said:
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x[:, 0]


def test_plain_intervals_are_those_of_mapie() -> None:
    rng = np.random.default_rng(0)
    said, further = rng.normal(size=(40, 1)), rng.normal(size=(7, 1))
    truth = said[:, 0] + rng.standard_t(3, size=40)
    mine = calibrate(said[:, 0], None, truth)
    levels = [0.5, 0.8, 0.9, 0.95]
    mapie = SplitConformalRegressor(
        _Said().fit(said, truth), confidence_level=levels, prefit=True
    ).conformalize(said, truth)
    _, theirs = mapie.predict_interval(further)
    for i, level in enumerate(levels):
        low, high = mine.interval(further[:, 0], None, level)
        assert low == pytest.approx(theirs[:, 0, i])
        assert high == pytest.approx(theirs[:, 1, i])


@pytest.mark.parametrize("n", [19, 60])
def test_normalised_intervals_of_a_wrong_model_hold_what_they_say(n: int) -> None:
    """A model three times too sure: over many validation sets and people, at least the level, and
    at most 1 / (n + 1) more (Lei et al., 2018)."""
    rng, repeats = np.random.default_rng(n), 1500
    held = dict.fromkeys(LEVELS, 0.0)
    for _ in range(repeats):
        std = rng.uniform(1, 4, size=n + 20)
        truth = rng.normal(size=n + 20) * std
        mean, stated = np.zeros(n + 20), std / 3
        fit = calibrate(mean[:n], stated[:n], truth[:n])
        for level in LEVELS:
            low, high = fit.interval(mean[n:], stated[n:], level)
            held[level] += ((truth[n:] >= low) & (truth[n:] <= high)).mean() / repeats
    for level, share in held.items():
        assert level - 0.01 < share < level + 1 / (n + 1) + 0.01


def test_unsure_answers_get_wider_intervals() -> None:
    fit = Calibration(9, True, {0.9: 2.0}, None)
    with pytest.raises(ValueError, match="units of the answers' standard deviation"):
        fit.interval(np.array([10.0]), None, 0.9)
    low, high = fit.interval(np.array([10.0, 10.0]), np.array([1.0, 3.0]), 0.9)
    assert low.tolist() == [8, 4]
    assert high.tolist() == [12, 16]


def test_what_is_not_known_is_left_out_and_little_makes_no_claims() -> None:
    fit = calibrate(np.array([1.0, 2.0, 3.0]), None, np.array([1.5, np.nan, 3.0]))
    assert fit.n == 2
    assert fit.quantiles == {0.5: 0.5, 0.8: math.inf, 0.9: math.inf, 0.95: math.inf}
    assert fit.line is None


def test_the_correction_undoes_a_linear_shrinkage_and_uses_no_truth() -> None:
    truth = np.linspace(20, 80, 13)
    shrunk = 50 + 0.6 * (truth - 50)
    fit = calibrate(shrunk, None, truth)
    assert fit.line == pytest.approx((20, 0.6))
    assert fit.corrected(np.array([50.0, 38.0])) == pytest.approx([50, 30])


def test_a_slope_that_could_be_chance_corrects_nothing() -> None:
    truth = np.arange(12.0)
    said = np.random.default_rng(1).normal(size=12)
    assert calibrate(said, None, truth).corrected(said) is None
    assert calibrate(-truth, None, truth).corrected(said) is None
    assert calibrate(np.ones(12), None, truth).corrected(said) is None


def test_a_calibration_is_the_same_from_its_json() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=12)
    fit = calibrate(truth + 0.1 * rng.normal(size=12), np.full(12, 0.1), truth)
    assert math.isinf(fit.quantiles[0.95])
    assert Calibration.from_json(fit.to_json()) == fit
