"""Measurements along a variable: real subjects, generated images, the known truth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metavoxel.evaluation.anatomy import Cell, Condition, People
from metavoxel.evaluation.figures.style import (
    COLOURS,
    STYLE,
    WIDTH,
    axes,
    regression_line,
    variable_text,
    with_unit,
)
from metavoxel.schema import Schema

Row = Mapping[str, Any]

_APART = 0.02  # between two choices, as a share of the asked range


def ageing_figure(
    schema: Schema,
    along: str,
    measurement: str,
    cells: Sequence[Cell],
    people: People,
    truth: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    unit: str | None = None,
) -> Figure:
    """A measurement against `along`, a colour for every choice of the other conditions.

    Points are real subjects, squares means of generated images with their 95 % intervals. `truth`
    has lines (x, y) by the name of the choice, as in the legend. `unit` is by default the schema's.
    """
    if unit is None and measurement in schema.numbers:
        unit = schema.numbers[measurement].unit
    with axes(4.6, 3.7) as (fig, ax):
        choices = _choices(schema, along, cells)
        # A little apart, so that no interval hides another.
        step = _APART * float(np.ptp([cell.condition[along] for cell in cells]))
        aside = step * (np.arange(len(choices)) - (len(choices) - 1) / 2)
        for (name, group), colour, shift in zip(choices.items(), itertools.cycle(COLOURS), aside):
            real = _of_choice(people, _rest(group[0].condition, along))
            ax.plot(
                people.scalars[along][real], people.measured[real], "o", color=colour, ms=3.5,
                mew=0, alpha=0.4,
            )  # fmt: skip
            x = shift + np.array([cell.condition[along] for cell in group])
            mean, low, high = (
                np.array([getattr(cell.generated, end) for cell in group])
                for end in ("value", "low", "high")
            )
            ax.vlines(x, low, high, color=colour, lw=1.8)
            ax.plot(x, mean, "s-", color=colour, ms=6, mec="white", lw=1.2, label=name)
            if truth and name in truth:
                ax.plot(*truth[name], "--", color=colour, lw=1.3)
        ax.set(xlabel=variable_text(schema, along), ylabel=with_unit(measurement, unit))
        ax.set_title("points: real subjects; squares: generated", fontsize=9)
        ax.legend()
    return fig


def _choices(schema: Schema, along: str, cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells by what was asked beside `along`, in words."""
    out: dict[str, list[Cell]] = {}
    for cell in cells:
        rest = Cell(_rest(cell.condition, along), cell.generated, {})
        out.setdefault(rest.named(schema) or "generated", []).append(cell)
    return out


def _rest(condition: Condition, along: str) -> Condition:
    return {v: x for v, x in condition.items() if v != along}


def _of_choice(people: People, rest: Condition) -> np.ndarray:
    """Who has just these other values; a continuous one is rarely met, and shows none."""
    alike = ~np.isnan(people.measured)
    for v, x in rest.items():
        alike &= people.scalars[v] == x
    return alike


def anatomy_figure(schema: Schema, rows: Sequence[Row], groups: Sequence[str]) -> Figure:
    """A panel for each model and measurement, with a line for each of two groups of its "values":
    the first as points (subjects), the second as squares (generated images)."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    measures = list(dict.fromkeys(row["measurement"] for row in rows))
    with plt.rc_context(STYLE):
        size = (WIDTH, 0.4 + 2.0 * len(models))
        fig, panels = plt.subplots(
            len(models), len(measures), figsize=size, layout="constrained", squeeze=False,
            sharex=True, sharey="col",
        )  # fmt: skip
        for row in rows:
            at = models.index(row["model"]), measures.index(row["measurement"])
            _panel(panels[at], row, groups)
            panels[0, at[1]].set_title(with_unit(row["measurement"], row["unit"]), fontsize=9)
            panels[at[0], 0].set_ylabel(row["model"])
            panels[-1, at[1]].set_xlabel(variable_text(schema, row["along"]))
        panels[0, 0].legend(fontsize=7, markerscale=2)
    return fig


def _panel(ax: Axes, row: Row, groups: Sequence[str]) -> None:
    for group, marker, colour in zip(groups, "os", COLOURS, strict=False):
        x, y = (np.array(values, dtype=float) for values in row["values"][group])
        ax.plot(x, y, marker, color=colour, ms=2.6, mew=0, alpha=0.5, label=group)
        known = ~np.isnan(x) & ~np.isnan(y)
        regression_line(ax, x[known], y[known], colour)
