"""Scores against cases worked by hand or known in distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from metavoxel.evaluation.baselines import kernel_ridge, logistic, majority, population_mean
from metavoxel.evaluation.scores import coverage, dispersion, over_subjects
from metavoxel.training.answers import crps


def test_interval_over_subjects_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=400)
    score = over_subjects(values)
    half = 1.96 * values.std() / 20
    assert score.value == pytest.approx(values.mean())
    assert score.low == pytest.approx(values.mean() - half, abs=0.03)
    assert score.high == pytest.approx(values.mean() + half, abs=0.03)


def test_coverage_and_dispersion_of_calibrated_and_narrow_samples() -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(4000, 1))
    truth = (mean + rng.normal(size=(4000, 1)))[:, 0]
    calibrated = mean + rng.normal(size=(4000, 50))
    narrow = mean + 0.5 * rng.normal(size=(4000, 50))
    assert dispersion(calibrated, truth) == pytest.approx(1, abs=0.05)
    assert dispersion(narrow, truth) == pytest.approx(0.25, abs=0.02)
    assert coverage(narrow, truth, 0.8) < 0.55


@pytest.mark.parametrize(
    ("draws", "level"), [(9, 0.8), (19, 0.5), (19, 0.8), (19, 0.9), (39, 0.95), (99, 0.9)]
)
def test_intervals_of_calibrated_samples_hold_what_they_say(draws: int, level: float) -> None:
    """Few draws of the right distribution must not look overconfident: within 4 standard errors.

    For these numbers of draws both ends are draws themselves, and the rate is exact.
    """
    n, rng = 20_000, np.random.default_rng(0)
    samples, truth = rng.normal(size=(n, draws)), rng.normal(size=n)
    error = (level * (1 - level) / n) ** 0.5
    assert coverage(samples, truth, level) == pytest.approx(level, abs=4 * error)


def test_crps_of_a_normal_matches_its_closed_form() -> None:
    """CRPS(N(0, 1), y) = y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)."""
    y = torch.tensor([-1.0, 0.0, 2.0])
    samples = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
    expected = y.numpy() * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    assert crps(samples, y).numpy() == pytest.approx(expected, abs=0.03)


def test_linear_baselines_find_a_linear_truth() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 300))
    x[:, :5] *= 10  # the signal's directions carry the variance, as in images
    train, test = slice(0, 90), slice(90, 120)
    y = x[:, :5].sum(1)
    error = np.abs(kernel_ridge(x[train], y[train], x[test]) - y[test]).mean()
    assert error < 0.5 * np.abs(y[test] - population_mean(y[train], 30)).mean()
    labels = (y > 0).astype(float)
    right = (logistic(x[train], labels[train], x[test]) == labels[test]).mean()
    assert right > 0.8 > (majority(labels[train], 30) == labels[test]).mean()
