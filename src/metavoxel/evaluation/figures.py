"""Pictures of data, models and answers, for reports. Every function returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metavoxel.inference.answers import central_interval

_INK: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def planes(image: np.ndarray) -> list[np.ndarray]:
    """The middle sagittal, coronal and axial slices of a volume (x, y, z), upright; a 2D image as
    it is. The axial one lies a little above the middle, where the ventricles are."""
    if image.ndim == 2:
        return [image]
    x, y, z = (n // 2 for n in image.shape)
    cuts = (image[x + 1], image[:, y], image[:, :, z + image.shape[2] // 16])
    return [np.rot90(cut) for cut in cuts]


def montage(rows: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str] = ()) -> Figure:
    """Images (x, y[, z]) in [0, 1] in rows by title, each in its planes; captions above."""
    columns = max(map(len, rows.values()))
    tiles = [[tile(image) for image in images] for images in rows.values()]
    height, width = tiles[0][0].shape
    # In inches: a tile and the gap after it, and room for the titles and the captions.
    across, gap, left, top = 1.85, 0.06, 0.35, 0.3 if captions else 0.05
    down = across * height / width
    inches = left + columns * (across + gap), top + len(rows) * (down + gap)
    with plt.rc_context(_INK):
        fig, axes = plt.subplots(len(rows), columns, figsize=inches, squeeze=False)
        for row, (title, images) in enumerate(zip(rows, tiles, strict=True)):
            for column in range(columns):
                ax = axes[row, column]
                ax.axis("off")
                if column < len(images):
                    ax.imshow(images[column], cmap="gray", vmin=0, vmax=1)
                if row == 0 and column < len(captions):
                    ax.set_title(captions[column], fontsize=9)
            axes[row, 0].text(
                -0.06, 0.5, title, rotation=90, va="center", ha="right", fontsize=10,
                transform=axes[row, 0].transAxes,
            )  # fmt: skip
        fig.subplots_adjust(
            left=left / inches[0],
            right=1 - gap / inches[0],
            bottom=gap / inches[1],
            top=1 - top / inches[1],
            wspace=gap / across,
            hspace=gap / down,
        )
    return fig


def difference(image: np.ndarray, other: np.ndarray, caption: str) -> Figure:
    """Where `other` is brighter (red) or darker (blue) than `image`, in their planes."""
    change = tile(other) - tile(image)
    limit = max(0.05, float(np.abs(change).max()))
    with plt.rc_context(_INK):
        size = (3.2, 2.4 * change.shape[0] / change.shape[1] + 0.3)
        fig, ax = plt.subplots(figsize=size, layout="constrained")
        shown = ax.imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.axis("off")
        ax.set_title(caption, fontsize=9)
        fig.colorbar(shown, ax=ax, shrink=0.8)
    return fig


def truth_and_answer(
    truth: np.ndarray, answer: np.ndarray, samples: np.ndarray, label: str, level: float = 0.9
) -> Figure:
    """Answers (n,) against truth (n,), with central intervals of the samples (n, m)."""
    low, high = central_interval(samples, level)
    inside = (truth >= low) & (truth <= high)
    with plt.rc_context(_INK):
        fig, ax = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
        for chosen, colour in ((inside, "#1f6f8b"), (~inside, "#c8553d")):
            ax.vlines(truth[chosen], low[chosen], high[chosen], color=colour, alpha=0.35, lw=1.2)
            ax.plot(truth[chosen], answer[chosen], "o", color=colour, ms=4)
        ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
        ax.plot(ends, ends, color="0.6", lw=1, zorder=0)
        ax.set(xlabel=f"true {label}", ylabel=f"{label} given the scan")
        ax.set_title(
            f"{100 * level:g} % intervals hold {inside.sum()} of {len(truth)}", fontsize=10
        )
    return fig


def two_answers(exact: np.ndarray, answer: np.ndarray, label: str) -> Figure:
    """The model's answers (n,) against the exact ones (n,)."""
    with plt.rc_context(_INK):
        fig, ax = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
        ax.plot(exact, answer, "o", ms=4, color="#1f6f8b")
        ends = [min(exact.min(), answer.min()), max(exact.max(), answer.max())]
        ax.plot(ends, ends, color="0.6", lw=1, zorder=0)
        ax.set(xlabel=f"exact posterior mean of {label}", ylabel=f"{label} given the scan")
        ax.set_title(f"correlation {np.corrcoef(exact, answer)[0, 1]:.2f}", fontsize=10)
    return fig


def training_curves(logs: Path, tags: Mapping[str, str]) -> Figure:
    """Scalars of a run's TensorBoard logs, by label; a label never logged has no curve."""
    curves = read_curves(logs)
    with plt.rc_context(_INK):
        fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
        logged = {label: tag for label, tag in tags.items() if tag in curves}
        for label, tag in logged.items():
            ax.plot(*curves[tag], "o-", ms=3, label=label)
        ax.set(xlabel="step", ylabel="held-out loss")
        ax.legend(fontsize=8, frameon=False, ncols=2)
    return fig


def read_curves(logs: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every scalar in a folder of TensorBoard logs."""
    events = EventAccumulator(str(logs))
    events.Reload()
    return {
        tag: ([e.step for e in events.Scalars(tag)], [e.value for e in events.Scalars(tag)])
        for tag in events.Tags()["scalars"]
    }


def tile(image: np.ndarray) -> np.ndarray:
    """The planes of an image in one picture, stacked."""
    cuts = planes(image)
    width = max(cut.shape[1] for cut in cuts)
    padded = []
    for cut in cuts:
        left = (width - cut.shape[1]) // 2
        padded.append(np.pad(cut, ((0, 0), (left, width - cut.shape[1] - left))))
    return np.concatenate(padded)
