"""The figure of a measurement along a variable: real subjects, generated ones, the known truth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from metavoxel.evaluation.anatomy import Cell, Condition, People
from metavoxel.evaluation.plots import COLOURS
from metavoxel.schema import Schema

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
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        fig, ax = plt.subplots(figsize=(4.6, 3.7), layout="constrained")
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
        ax.set(xlabel=_labelled(along, schema.numbers[along].unit))
        ax.set(ylabel=_labelled(measurement, unit))
        ax.set_title("points: real subjects; squares: generated", fontsize=9)
        ax.legend(fontsize=8, frameon=False)
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


def _labelled(name: str, unit: str | None) -> str:
    return f"{name} ({unit})" if unit else name
