"""Everything that is measured of one system's answers about one variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metavoxel.evaluation import classification, regression
from metavoxel.evaluation.distributions import Normal, Predictive, Quantiles, Sampled
from metavoxel.evaluation.scores import Bootstrap, Score, Statistic, mean_of
from metavoxel.inference.calibration import LEVELS, Calibration

# How far below its level the intervals of few draws may lie and still be reported under it.
_SLACK = 0.02


@dataclass(frozen=True)
class Measure:
    """What a figure is called and what it means; `unit` says whether it has the variable's."""

    title: str
    meaning: str
    unit: bool = False


MEASURES = {
    "mae": Measure("MAE", "mean absolute error", True),
    "mae_sd": Measure("SD of the error", "standard deviation of the absolute error", True),
    "rmse": Measure("RMSE", "root mean squared error", True),
    "r": Measure("Pearson r", "correlation of answer and truth"),
    "bias": Measure("mean error", "answer minus truth", True),
    "bias_slope": Measure(
        "bias slope", "slope of the error on the truth: below 0, answers are drawn to the mean"
    ),
    "mae_corrected": Measure(
        "MAE, corrected", "after the linear bias correction of the validation records", True
    ),
    "bias_slope_corrected": Measure("bias slope, corrected", "slope that the correction leaves"),
    "crps": Measure("CRPS", "error of the whole distribution; compare with the MAE", True),
    "dispersion": Measure("variance / squared error", "1 when calibrated, below it overconfident"),
    **{
        f"coverage_{100 * level:g}": Measure(
            f"coverage at {100 * level:g} %", "share of truths inside the stated interval"
        )
        for level in LEVELS
    },
    **{
        f"conformal_{100 * level:g}": Measure(
            f"conformal coverage at {100 * level:g} %", "share inside the conformal interval"
        )
        for level in LEVELS
    },
    "conformal_width_90": Measure("conformal width, 90 %", "mean width of the interval", True),
    "accuracy": Measure("accuracy", "share that is right"),
    "balanced_accuracy": Measure("balanced accuracy", "mean over the labels of the share right"),
    "auroc": Measure("AUROC", "one label against the rest, mean over the labels"),
    "log_loss": Measure("log-loss", "mean of -log p(truth), nats"),
    "ece": Measure("calibration error", "|accuracy - confidence| in ten bins of confidence"),
}
HEADLINE = ("mae", "accuracy")  # the first measure of a continuous and a categorical variable


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Answers (n,) as held-out records amend them: without their regression to the mean, or None
    where there is none to be told, and the ends of conformal intervals by level."""

    corrected: np.ndarray | None
    intervals: Mapping[float, tuple[np.ndarray, np.ndarray]]


def calibrated(
    calibration: Calibration, point: np.ndarray, spread: np.ndarray | None
) -> Calibrated:
    """By the calibration of these answers (n,), with their stated standard deviations (n,)."""
    levels = [x for x, quantile in calibration.quantiles.items() if np.isfinite(quantile)]
    intervals = {level: calibration.interval(point, spread, level) for level in levels}
    return Calibrated(calibration.corrected(point), intervals)


def continuous_scores(
    truth: np.ndarray,
    point: np.ndarray,
    predictive: Predictive | None,
    amended: Calibrated | None,
    people: Bootstrap,
) -> dict[str, Score]:
    """Of answers (n,) to a continuous variable."""
    error = point - truth
    statistics: dict[str, Statistic] = {
        "mae": mean_of(np.abs(error)),
        "mae_sd": regression.deviation(np.abs(error)),
        "rmse": regression.rmse(error),
        "r": regression.correlation(point, truth),
        "bias": mean_of(error),
        "bias_slope": regression.slope(truth, error),
    }
    if amended is not None and amended.corrected is not None:
        statistics["mae_corrected"] = mean_of(np.abs(amended.corrected - truth))
        statistics["bias_slope_corrected"] = regression.slope(truth, amended.corrected - truth)
    scores = {name: people.score(statistic) for name, statistic in statistics.items()}
    if predictive is not None:
        scores |= _distribution(truth, predictive, people)
    for level, (low, high) in (amended.intervals if amended is not None else {}).items():
        scores[f"conformal_{100 * level:g}"] = people.share(inside(truth, (low, high)))
        if level == 0.9:
            scores["conformal_width_90"] = people.score(mean_of(high - low))
    return scores


def _distribution(truth: np.ndarray, predictive: Predictive, people: Bootstrap) -> dict[str, Score]:
    squared = np.square(predictive.centre - truth)
    out = {
        "crps": people.score(mean_of(predictive.crps(truth))),
        "dispersion": people.score(regression.ratio(predictive.variance, squared)),
    }
    for level in LEVELS:
        if predictive.nominal(level) >= level - _SLACK:
            hits = inside(truth, predictive.interval(level))
            out[f"coverage_{100 * level:g}"] = people.share(hits)
    return out


def inside(truth: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """1 where the truth (n,) lies between the ends, else 0."""
    return ((truth >= ends[0]) & (truth <= ends[1])).astype(float)


def categorical_scores(
    truth: np.ndarray, point: np.ndarray, probabilities: np.ndarray, people: Bootstrap
) -> dict[str, Score]:
    """Of answered labels (n,) and the probabilities (n, K) behind them."""
    hit = (point == truth).astype(float)
    confidence = probabilities[np.arange(len(point)), point.astype(int)]
    statistics: dict[str, Statistic] = {
        "balanced_accuracy": classification.balanced_accuracy(truth, hit),
        "auroc": classification.auroc(truth, probabilities),
        "log_loss": classification.log_loss(truth, probabilities),
        "ece": classification.calibration_error(hit, confidence),
    }
    scores = {name: people.score(statistic) for name, statistic in statistics.items()}
    return {"accuracy": people.share(hit), **scores}


def gains(
    truth: np.ndarray,
    points: Mapping[str, np.ndarray],
    reference: str,
    number: bool,
    people: Bootstrap,
) -> dict[str, Score]:
    """By how much `reference` has the smaller error, or is right more often, than every other
    system, record by record: above 0, it is the better one."""

    def loss(point: np.ndarray) -> np.ndarray:
        return np.abs(point - truth) if number else (point != truth).astype(float)

    own = loss(points[reference])
    return {
        name: people.score(mean_of(loss(point) - own))
        for name, point in points.items()
        if name != reference
    }


def predictive_of(
    samples: np.ndarray | None, mean: np.ndarray, std: np.ndarray | None
) -> Predictive | None:
    """The distribution behind an answer, if it has one: draws (n, m >= 2), or a stated spread; with
    both, `samples` are the evenly spaced quantiles of what is stated."""
    if samples is not None and std is not None:
        return Quantiles(mean, std, samples)
    if samples is not None and samples.shape[1] > 1:
        return Sampled(samples)
    return Normal(mean, std) if std is not None else None
