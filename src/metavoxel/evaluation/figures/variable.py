"""Accuracy and calibration of one variable.

`systems` maps a system's name to what is drawn of it, `colours` to its colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import binom
from sklearn.metrics import roc_curve

from metavoxel.evaluation.classification import BINS, confidence_bins
from metavoxel.evaluation.distributions import Predictive
from metavoxel.evaluation.figures.style import (
    COLOURS,
    axes,
    diagonal,
    legend,
    regression_line,
)
from metavoxel.evaluation.scores import wilson


def scatter(
    x: np.ndarray,
    y: np.ndarray,
    labels: tuple[str, str],
    title: str,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """y (n,) against x (n,) and the diagonal; red are those whose interval of y leaves x out."""
    low, high = ends if ends is not None else (y, y)
    inside = (x >= low) & (x <= high) if ends is not None else np.full(len(x), True)
    with axes() as (fig, ax):
        for chosen, colour in ((inside, COLOURS[0]), (~inside, COLOURS[1])):
            ax.vlines(x[chosen], low[chosen], high[chosen], color=colour, alpha=0.35, lw=1.1)
            ax.plot(x[chosen], y[chosen], "o", color=colour, ms=3.5, mew=0)
        everything = np.concatenate([x, low, high])
        diagonal(ax, everything.min(), everything.max())
        ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
    return fig


def error_and_truth(
    truth: np.ndarray, point: np.ndarray, corrected: np.ndarray | None, label: str
) -> Figure:
    """The error (n,) against the truth, with its line: a fall is regression to the mean."""
    shown = {"as answered": point} | ({"corrected": corrected} if corrected is not None else {})
    with axes() as (fig, ax):
        ax.axhline(0, color="0.6", lw=1, zorder=0)
        for (name, answer), colour in zip(shown.items(), COLOURS, strict=False):
            error = answer - truth
            ax.plot(truth, error, "o", color=colour, ms=3.5, mew=0, alpha=0.55)
            if np.ptp(truth) > 0:
                regression_line(ax, truth, error, colour, f"{name}: slope {{slope:.2f}}")
        ax.set(xlabel=f"true {label}", ylabel="predicted minus true", title="Bias with the truth")
        legend(ax)
    return fig


def coverage_curves(
    truth: np.ndarray,
    systems: Mapping[str, Predictive],
    conformal: Mapping[float, float],
    colours: Mapping[str, str],
) -> Figure:
    """Which share of truths the intervals of every level hold; `conformal` by level.

    Grey is where calibrated intervals lie in 95 of 100 cohorts of this size.
    """
    levels, n = np.linspace(0.02, 0.98, 49), len(truth)
    with axes() as (fig, ax):
        low, high = binom.ppf([[0.025], [0.975]], n, levels) / n
        ax.fill_between(levels, low, high, color="0.9", lw=0, zorder=0)
        diagonal(ax)
        for name, predictive in systems.items():
            held = [
                (level, _held(truth, predictive.interval(level)))
                for level in levels
                if predictive.nominal(level) == level
            ]
            ax.plot(*zip(*held, strict=True), color=colours[name], lw=1.6, label=name)
        if conformal:
            ax.plot([*conformal], [*conformal.values()], "D", color="k", ms=4.5, label="conformal")
        ax.set(xlabel="stated", ylabel="held", title=f"Coverage of the intervals (n = {n})")
        ax.set(xlim=(0, 1), ylim=(0, 1.02))
        legend(ax, loc="upper left")
    return fig


def _held(truth: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> float:
    return float(((truth >= ends[0]) & (truth <= ends[1])).mean())


def pit_histograms(
    systems: Mapping[str, Sequence[float]], n: int, colours: Mapping[str, str]
) -> Figure:
    """PIT counts by system; grey is where a flat one lies in 95 of 100 cohorts, bin by bin."""
    with axes() as (fig, ax):
        bins = len(next(iter(systems.values())))
        edges = np.linspace(0, 1, bins + 1)
        low, high = binom.ppf([0.025, 0.975], n, 1 / bins) / n * bins
        ax.axhspan(low, high, color="0.9", lw=0, zorder=0)
        ax.axhline(1, color="0.6", lw=1, zorder=0)
        for name, counts in systems.items():
            density = np.array(counts) / n * bins
            ax.stairs(density, edges, color=colours[name], lw=1.6, label=name)
        ax.set(xlabel="P(variable ≤ truth)", ylabel="density", title=f"PIT histogram (n = {n})")
        ax.set(xlim=(0, 1), ylim=(0, ax.get_ylim()[1] * 1.25))
        legend(ax, loc="upper center")
    return fig


def reliability(hit: np.ndarray, confidence: np.ndarray) -> Figure:
    """The share of answers (n,) that are right against their confidence, bin by bin, with 95 %
    Wilson intervals; the number of answers beside each."""
    bins, n = confidence_bins(confidence), len(hit)
    with axes() as (fig, ax):
        diagonal(ax)
        counts = np.bincount(bins, minlength=BINS)
        ax.bar(
            (np.arange(BINS) + 0.5) / BINS, counts / n, 0.9 / BINS, color="0.85", zorder=0,
            label="share of answers",
        )  # fmt: skip
        for b in np.unique(bins):
            inside = bins == b
            x, p = confidence[inside].mean(), hit[inside].mean()
            low, high = wilson(p, int(inside.sum()))
            ax.vlines(x, low, high, color=COLOURS[0], lw=1.4)
            ax.plot(x, p, "o", color=COLOURS[0], ms=5, label="right" if b == bins.min() else None)
            ax.annotate(str(inside.sum()), (x, p), (5, 4), textcoords="offset points", fontsize=8)
        ax.set(xlabel="confidence in the answer", ylabel="share right")
        ax.set(xlim=(0, 1), ylim=(0, 1.03), title=f"Reliability (n = {n})")
        legend(ax, loc="upper left")
    return fig


def roc_curves(
    truth: np.ndarray,
    systems: Mapping[str, np.ndarray],
    labels: Sequence[str],
    colours: Mapping[str, str],
) -> Figure:
    """ROC curves: of the last of two labels by system, or of every label by the first system.

    `systems[name]` are probabilities (n, K). Labels that no or every subject has have none.
    """
    if len(labels) == 2:
        curves, title = (
            {s: (truth == 1, p[:, 1]) for s, p in systems.items()},
            f"ROC of {labels[1]}",
        )
    else:
        first = next(iter(systems.values()))
        curves = {label: (truth == k, first[:, k]) for k, label in enumerate(labels)}
        title = "ROC, one against the rest"
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(labels)))
        colours = {v: to_hex(shade) for v, shade in zip(labels, shades, strict=True)}
    with axes() as (fig, ax):
        diagonal(ax)
        for name, (positive, score) in curves.items():
            if positive.any() and not positive.all():
                wrong, right, _ = roc_curve(positive, score)
                ax.plot(wrong, right, color=colours[name], lw=1.6, label=name)
        ax.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
        ax.set(xlim=(-0.01, 1), ylim=(0, 1.01))
        legend(ax, loc="lower right")
    return fig


def confusion(truth: np.ndarray, point: np.ndarray, labels: Sequence[str]) -> Figure:
    """How many of each true label (rows) got which answer (columns)."""
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (truth.astype(int), point.astype(int)), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with axes() as (fig, ax):
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(counts.shape):
            colour = "white" if share[i, j] > 0.6 else "black"
            ax.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour)
        ax.set(xticks=range(len(labels)), yticks=range(len(labels)))
        ax.set(xticklabels=labels, yticklabels=labels, xlabel="predicted", ylabel="true")
        ax.set(title="Confusion")
    return fig
