"""Scores against cases worked by hand or known in distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from metavoxel.evaluation.baselines import (
    frequencies,
    kernel_ridge,
    logistic,
    logistic_probabilities,
    majority,
    population_mean,
)
from metavoxel.evaluation.scores import (
    Bootstrap,
    Score,
    coverage,
    dispersion,
    mean_of,
    over_subjects,
    wilson,
)


def test_interval_over_subjects_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=400)
    score = over_subjects(values)
    half = 1.96 * values.std() / 20
    assert score.value == pytest.approx(values.mean())
    assert score.low == pytest.approx(values.mean() - half, abs=0.03)
    assert score.high == pytest.approx(values.mean() + half, abs=0.03)


def test_records_of_one_subject_are_drawn_together() -> None:
    """Four records a person that all say the same are worth one: the interval is twice as wide."""
    per_person = np.random.default_rng(0).normal(5, 2, size=100)
    people = [f"sub-{i:03d}" for i in range(100) for _ in range(4)]
    values = per_person.repeat(4)
    score = Bootstrap(people).score(mean_of(values))
    half = 1.96 * per_person.std() / 10
    assert (score.value, score.n) == (pytest.approx(per_person.mean()), 400)
    assert score.high - score.low == pytest.approx(2 * half, rel=0.1)
    alone = Bootstrap([str(i) for i in range(400)]).score(mean_of(values))
    assert alone.high - alone.low == pytest.approx(half, rel=0.1)


def test_nothing_is_claimed_of_one_person_or_of_what_is_not_defined() -> None:
    score = Bootstrap(["a", "a"]).score(mean_of(np.array([1.0, 3.0])))
    assert str(score) == "2"
    assert score.to_json() == {"value": 2, "low": None, "high": None, "n": 2}
    undefined = Bootstrap(["a", "b"]).score(lambda w: np.full(len(w), np.nan))
    assert str(undefined) == "n/a"
    assert str(Score.from_json(undefined.to_json())) == "n/a"


@pytest.mark.parametrize(("hits", "n"), [(0, 30), (17, 30), (30, 30), (1, 1)])
def test_the_interval_of_a_share_is_that_of_scipy(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_a_share_of_one_is_not_sure() -> None:
    score = Bootstrap([str(i) for i in range(30)]).share(np.ones(30))
    assert score.value == 1
    assert score.low == pytest.approx(0.886, abs=1e-3)


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


def test_logistic_probabilities_are_of_the_labels_that_occur() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0.0, 2.0] * 20)
    x = rng.normal(size=(40, 60)) + labels[:, None]
    classes, probabilities = logistic_probabilities(x[:30], labels[:30], x[30:])
    assert classes.tolist() == [0, 2]
    assert probabilities.sum(1) == pytest.approx(1)
    assert (classes[probabilities.argmax(1)] == labels[30:]).mean() == 1


def test_a_label_alone_or_once_is_answered_by_how_frequent_it_is() -> None:
    x, test = np.random.default_rng(0).normal(size=(4, 9)), np.zeros((2, 9))
    assert logistic(x, np.ones(4), test).tolist() == [1, 1]
    classes, probabilities = logistic_probabilities(x, np.array([0.0, 0, 0, 1]), test)
    assert classes.tolist() == [0, 1]
    assert probabilities.tolist() == [[0.75, 0.25]] * 2
    assert frequencies(np.array([0.0, 0, 0, 1]), 3, 2).tolist() == [[4 / 7, 2 / 7, 1 / 7]] * 2
