"""Every statistic is a library's, whole and on any resample; what cannot be measured is not."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy.stats import kstest, linregress, norm, pearsonr
from torchmetrics.classification import MulticlassCalibrationError

from metavoxel.evaluation import classification, regression
from metavoxel.evaluation.distributions import Normal, Quantiles, Sampled, pit_histogram
from metavoxel.evaluation.measures import (
    calibrated,
    categorical_scores,
    continuous_scores,
    gains,
    predictive_of,
)
from metavoxel.evaluation.scores import Bootstrap, Statistic
from metavoxel.inference.calibration import Calibration, crps

N = 30
RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(20, 80, size=N)
SAID = 50 + 0.7 * (TRUTH - 50) + RNG.normal(size=N) * 6
LABELS = RNG.integers(0, 3, size=N)
# Rounded to tenths, so that there are ties.
CHANCES = np.round(RNG.dirichlet([1, 1, 1], size=N) + 0.6 * np.eye(3)[LABELS] + 0.05, 1)
CHANCES /= CHANCES.sum(1, keepdims=True)
WEIGHTS = np.stack([np.ones(N), *RNG.multinomial(N, [1 / N] * N, size=4)])


def people(n: int = N) -> Bootstrap:
    return Bootstrap([f"sub-{i}" for i in range(n)])


def auroc(truth: np.ndarray, chances: np.ndarray) -> float:
    if chances.shape[1] == 2:
        return float(sklearn.metrics.roc_auc_score(truth, chances[:, 1]))
    areas = [
        float(sklearn.metrics.roc_auc_score(truth == k, chances[:, k]))
        for k in range(chances.shape[1])
        if 0 < (truth == k).sum() < len(truth)
    ]
    return float(np.mean(areas))


def calibration_error(truth: np.ndarray, chances: np.ndarray) -> float:
    metric = MulticlassCalibrationError(3, n_bins=classification.BINS, norm="l1")
    return float(metric(torch.tensor(chances), torch.tensor(truth)))


CONFIDENCE, HIT = CHANCES.max(1), (CHANCES.argmax(1) == LABELS) * 1.0
TWO = CHANCES[:, :2] / CHANCES[:, :2].sum(1, keepdims=True)
SEX = (LABELS > 0).astype(int)
# Ours; the library's, of the rows given.
STATISTICS = {
    "rmse": (
        regression.rmse(SAID - TRUTH),
        lambda i: sklearn.metrics.root_mean_squared_error(TRUTH[i], SAID[i]),
    ),
    "sd": (regression.deviation(SAID), lambda i: np.std(SAID[i], ddof=1)),
    "r": (regression.correlation(SAID, TRUTH), lambda i: pearsonr(SAID[i], TRUTH[i])[0]),
    "slope": (
        regression.slope(TRUTH, SAID - TRUTH),
        lambda i: linregress(TRUTH[i], (SAID - TRUTH)[i])[0],
    ),
    "ratio": (regression.ratio(SAID, TRUTH), lambda i: SAID[i].mean() / TRUTH[i].mean()),
    "balanced accuracy": (
        classification.balanced_accuracy(LABELS, HIT),
        lambda i: sklearn.metrics.balanced_accuracy_score(LABELS[i], CHANCES[i].argmax(1)),
    ),
    "log-loss": (
        classification.log_loss(LABELS, CHANCES),
        lambda i: sklearn.metrics.log_loss(LABELS[i], CHANCES[i], labels=[0, 1, 2]),
    ),
    "auroc of three": (
        classification.auroc(LABELS, CHANCES),
        lambda i: auroc(LABELS[i], CHANCES[i]),
    ),
    "auroc of two": (classification.auroc(SEX, TWO), lambda i: auroc(SEX[i], TWO[i])),
    "calibration error": (
        classification.calibration_error(HIT, CONFIDENCE),
        lambda i: calibration_error(LABELS[i], CHANCES[i]),
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_is_the_librarys_on_the_records_that_the_weights_repeat(name: str) -> None:
    ours, library = STATISTICS[name]
    expected = [library(np.arange(N).repeat(w.astype(int))) for w in WEIGHTS]
    assert ours(WEIGHTS) == pytest.approx(expected, rel=1e-5)


def test_auroc_is_the_share_of_pairs_in_order_and_half_the_ties() -> None:
    truth, score = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.4, 0.1])
    won = [
        (a > b) + (a == b) / 2 for a, b in itertools.product(score[truth == 1], score[truth == 0])
    ]
    area = classification.auroc(truth, np.stack([1 - score, score], 1))
    assert area(np.ones((1, 4)))[0] == pytest.approx(np.mean(won)) == 0.875


@pytest.mark.parametrize("labels", [2, 3])
def test_one_class_only_has_an_accuracy_and_no_curve(labels: int) -> None:
    chances = np.full((5, labels), 1 / labels)
    scores = categorical_scores(np.ones(5), np.ones(5), chances, people(5))
    assert math.isnan(scores["auroc"].value)
    assert scores["balanced_accuracy"].value == scores["accuracy"].value == 1
    assert scores["log_loss"].value == pytest.approx(math.log(labels))
    assert {s.n for s in scores.values()} == {5}


def test_a_probability_of_nought_that_comes_true_costs_much_but_not_all() -> None:
    chances = np.array([[1.0, 0.0], [0.0, 1.0]])
    loss = classification.log_loss(np.array([1, 1]), chances)(np.ones((1, 2)))[0]
    assert 5 < loss < 10


def test_one_answer_for_all_has_no_correlation_and_a_slope_of_minus_one() -> None:
    scores = continuous_scores(TRUTH, np.full(N, 50.0), None, None, people())
    assert math.isnan(scores["r"].value)
    assert scores["bias_slope"].value == pytest.approx(-1)
    assert scores["mae"].low < scores["mae"].value < scores["mae"].high


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_two_and_three_records_are_scored_without_a_warning(
    n: int, recwarn: pytest.WarningsRecorder
) -> None:
    truth, mean = TRUTH[:n], SAID[:n]
    fit = Calibration(12, False, {0.5: 1.0, 0.9: 100.0, 0.95: math.inf}, (3, 0.5))
    sd = np.ones(n)
    intervals = calibrated(fit, mean, sd)
    scores = continuous_scores(truth, mean, Normal(mean, sd), intervals, people(n))
    assert scores["mae"].value == pytest.approx(np.abs(mean - truth).mean())
    assert scores["conformal_90"].value == 1
    assert "conformal_95" not in scores
    chances = CHANCES[:n]
    categorical_scores(LABELS[:n] * 1.0, chances.argmax(1) * 1.0, chances, people(n))
    assert [str(w.message) for w in recwarn] == []


def test_the_correction_is_of_the_answers_and_the_bias_is_measured_after_it() -> None:
    truth = np.linspace(20, 80, 13)
    fit = Calibration(12, False, {}, (20, 0.6))
    said = 20 + 0.6 * truth
    scores = continuous_scores(truth, said, None, calibrated(fit, said, None), people(13))
    assert scores["bias_slope"].value == pytest.approx(-0.4)
    assert scores["mae_corrected"].value == pytest.approx(0, abs=1e-9)
    assert scores["bias_slope_corrected"].value == pytest.approx(0, abs=1e-9)


def test_few_samples_report_only_the_levels_that_they_can_hold() -> None:
    """The widest interval of m draws holds (m - 1) / (m + 1): 0.5 of 3, 0.8 of 9, 0.939 of 32."""
    rng = np.random.default_rng(0)
    reported = {}
    for m in (1, 2, 3, 9, 32):
        samples = rng.normal(size=(N, m))
        predictive = predictive_of(samples, samples.mean(1), None)
        scores = continuous_scores(TRUTH, samples.mean(1), predictive, None, people())
        reported[m] = [k.removeprefix("coverage_") for k in scores if k.startswith("coverage")]
    assert reported == {
        1: [], 2: [], 3: ["50"], 9: ["50", "80"], 32: ["50", "80", "90", "95"],
    }  # fmt: skip


def test_a_normal_is_the_limit_of_its_samples() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=50), rng.uniform(0.5, 2, size=50)
    truth = mean + std * rng.normal(size=50)
    drawn = Sampled(mean[:, None] + std[:, None] * rng.normal(size=(50, 4000)))
    exact = Normal(mean, std)
    assert exact.crps(truth) == pytest.approx(crps(drawn.samples, truth), abs=0.06)
    assert exact.variance == pytest.approx(drawn.variance, rel=0.15)
    assert np.stack(exact.interval(0.8)) == pytest.approx(np.stack(drawn.interval(0.8)), abs=0.25)
    assert exact.pit(truth)[0] == pytest.approx(drawn.pit(truth)[0], abs=0.04)


def test_a_normal_that_is_stated_by_its_quantiles_is_that_normal() -> None:
    """Whose 100 quantiles, taken for draws, made intervals hold a point too many."""
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=50), rng.uniform(0.5, 2, size=50)
    truth = mean + std * rng.normal(size=50)
    levels = (np.arange(100) + 0.5) / 100
    exact = Normal(mean, std)
    stated = predictive_of(mean[:, None] + std[:, None] * norm.ppf(levels), mean, std)
    assert isinstance(stated, Quantiles)
    assert stated.crps(truth) == pytest.approx(exact.crps(truth), abs=2e-3)
    assert np.array_equal(stated.variance, exact.variance)
    assert np.array_equal(stated.centre, exact.centre)
    for level in (0.5, 0.8, 0.9, 0.95):
        assert stated.nominal(level) == level
        held = norm.cdf(np.divide(np.subtract(stated.interval(level), mean), std))
        assert held[1] - held[0] == pytest.approx(level, abs=5e-4)
    low, high = stated.pit(truth)
    assert (low <= exact.pit(truth)[0]).all() and (exact.pit(truth)[0] <= high).all()
    assert high - low == pytest.approx(0.01, abs=0.0051)  # half of it beyond the outermost


@pytest.mark.parametrize("draws", [3, 9, 32])
def test_the_pit_of_calibrated_samples_is_flat_however_few(draws: int) -> None:
    n, bins, rng = 20_000, 10, np.random.default_rng(draws)
    counts = pit_histogram(Sampled(rng.normal(size=(n, draws))), rng.normal(size=n), bins)
    assert counts.sum() == pytest.approx(n)
    assert counts / n * bins == pytest.approx(np.ones(bins), abs=0.08)


def test_the_pit_of_a_normal_is_uniform_and_that_of_a_narrow_one_is_not() -> None:
    truth = np.random.default_rng(0).normal(size=2000)
    pit = Normal(np.zeros(2000), np.ones(2000)).pit(truth)[0]
    assert kstest(pit, "uniform").pvalue > 0.05
    counts = pit_histogram(Normal(np.zeros(2000), np.full(2000, 0.3)), truth, 10)
    assert counts[0] / 2000 == pytest.approx(norm.cdf(0.3 * norm.ppf(0.1)), abs=0.02)


def test_a_pit_by_hand() -> None:
    """Draws 1, 2, 3 and a truth of 2.5: between 2/4 and 3/4. Of 2, a tie: from 1/4 to 3/4."""
    two = Sampled(np.array([[1.0, 2, 3], [1, 2, 3]]))
    low, high = two.pit(np.array([2.5, 2.0]))
    assert (low.tolist(), high.tolist()) == ([0.5, 0.25], [0.75, 0.75])
    assert pit_histogram(two, np.array([2.5, 2.0]), 4).tolist() == [0, 0.5, 1.5, 0]


def test_gains_are_paired_and_signed() -> None:
    """A gain small beside the errors themselves, but the same for everyone, is a sure one."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60) * 10
    points = {"good": np.zeros(60), "bad": -np.sign(truth) * 0.5}
    gained = gains(truth, points, "good", True, people(60))
    assert gained["bad"].value == pytest.approx(0.5)
    assert gained["bad"].low == pytest.approx(0.5)
    labels = {"good": np.array([1.0, 1, 0]), "bad": np.array([1.0, 0, 0])}
    assert gains(np.array([1.0, 1, 1]), labels, "good", False, people(3))["bad"].value == (
        pytest.approx(1 / 3)
    )


def test_a_resample_in_which_a_figure_is_not_defined_is_left_out() -> None:
    """With one positive among five, a third of the resamples has none and no curve."""
    truth = np.array([1, 0, 0, 0, 0])
    area: Statistic = classification.auroc(truth, np.stack([1 - truth, truth * 1.0], 1))
    score = people(5).score(area)
    assert (score.value, score.low, score.high) == (1, 1, 1)
