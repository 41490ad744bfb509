"""How every figure looks: sizes, colours, lines that recur, and how it is written."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metavoxel.files.writing import atomic_write
from metavoxel.schema import Schema

WIDTH = 7.0  # inches of text on a page
COLOURS = ("#1f6f8b", "#c8553d", "#7a9e3f", "#8a63a8", "#d79b00")
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
}
_DPI = 150


@contextmanager
def axes(width: float = 3.7, height: float = 3.5) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one panel, in inches."""
    with plt.rc_context(STYLE):
        yield plt.subplots(figsize=(width, height), layout="constrained")


def save_png(fig: Figure, path: Path) -> None:
    """Write and close a figure. Raises MetaVoxelError where it cannot be written."""
    with atomic_write(path) as temporary:
        fig.savefig(temporary, format="png", dpi=_DPI)
    plt.close(fig)


def svg(fig: Figure) -> bytes:
    """The figure as SVG; it is closed."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="svg")
    plt.close(fig)
    return buffer.getvalue()


def palette(first: str, others: Iterable[str]) -> dict[str, str]:
    """A colour for every system, the same in all figures."""
    names = dict.fromkeys([first, *others])
    return dict(zip(names, itertools.cycle(COLOURS), strict=False))


def legend(ax: Axes, loc: Any = "best") -> None:
    """Of what has a name, if anything has."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc=loc)


def diagonal(ax: Axes, low: float = 0, high: float = 1) -> None:
    """Where both axes say the same."""
    ax.plot([low, high], [low, high], color="0.6", lw=1, zorder=0)


def regression_line(
    ax: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str | None = None
) -> None:
    """The least-squares line of y on x, over the range of x; `label` may have a {slope:.2f}."""
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    said = None if label is None else label.format(slope=slope)
    ax.plot(ends, slope * ends + intercept, color=colour, lw=1.6, label=said)


def variable_text(schema: Schema, name: str) -> str:
    """A variable's name with its unit, for an axis."""
    return with_unit(name, getattr(schema[name], "unit", None))


def with_unit(name: str, unit: str | None) -> str:
    """Such as "ventricle volume (mL)"."""
    return name.replace("_", " ") + (f" ({unit_text(unit)})" if unit else "")


def unit_text(unit: str) -> str:
    """A unit with its powers set as such."""
    return unit.replace("^2", "²").replace("^3", "³")
