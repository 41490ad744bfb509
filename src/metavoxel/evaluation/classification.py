"""Statistics of categorical answers against truth (n,), as functions of weights (b, n).

Probabilities are (n, K); truth and answers are label indices.
"""

from __future__ import annotations

import numpy as np

from metavoxel.evaluation.scores import Statistic, mean_of

BINS = 10  # of confidence, all as wide, for the calibration error
_LEAST = 1e-7  # a probability of 0 that comes true would cost infinitely much


def balanced_accuracy(truth: np.ndarray, hit: np.ndarray) -> Statistic:
    """The mean over the labels that occur of the share that is right."""
    of_label = np.stack([truth == k for k in np.unique(truth)], axis=1).astype(float)

    def statistic(w: np.ndarray) -> np.ndarray:
        recall = (w * hit) @ of_label / (w @ of_label)
        drawn = ~np.isnan(recall)
        return np.where(drawn, recall, 0).sum(1) / drawn.sum(1)

    return statistic


def log_loss(truth: np.ndarray, probabilities: np.ndarray) -> Statistic:
    """The mean of -log p(truth), in nats."""
    chosen = probabilities[np.arange(len(truth)), truth.astype(int)]
    return mean_of(-np.log(np.clip(chosen, _LEAST, 1)))


def auroc(truth: np.ndarray, probabilities: np.ndarray) -> Statistic:
    """Area under the ROC curve: of the second of two labels, or the mean of one against the rest.

    Labels that no subject has, or all, have no curve and are left out of the mean.
    """
    labels = probabilities.shape[1]
    of_interest = [1] if labels == 2 else range(labels)
    curves = [_area(truth == k, probabilities[:, k]) for k in of_interest]

    def statistic(w: np.ndarray) -> np.ndarray:
        areas = np.stack([curve(w) for curve in curves])
        defined = ~np.isnan(areas)
        return np.where(defined, areas, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan)

    return statistic


def _area(positive: np.ndarray, score: np.ndarray) -> Statistic:
    """The chance that a positive scores above a negative; a tie counts half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)
    positive = positive[order]

    def statistic(w: np.ndarray) -> np.ndarray:
        w = w[:, order]
        above = np.add.reduceat(w * positive, starts, axis=1)
        below = np.add.reduceat(w * ~positive, starts, axis=1)
        won = above * (below.cumsum(1) - below / 2)
        return won.sum(1) / (above.sum(1) * below.sum(1))

    return statistic


def calibration_error(hit: np.ndarray, confidence: np.ndarray) -> Statistic:
    """Expected calibration error: |accuracy - confidence| in bins of the confidence (n,) in the
    answered label, weighted by how many fall in. Few records make it large by chance alone."""
    bins = confidence_bins(confidence)
    occupied = [bins == b for b in np.unique(bins)]
    gap = hit - confidence
    return lambda w: sum(np.abs(w @ (gap * inside)) for inside in occupied) / w.sum(1)


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """Which of BINS bins (a, b] each confidence lies in."""
    return np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
