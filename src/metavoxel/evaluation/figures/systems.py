"""Systems and splits compared: the cohort (C.4), groups (D.5), calibration, ablations.

Systems and splits differ in colour and, for print in grey, in marker, dash or hatching.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.experiment.tables import image_title
from metavoxel.evaluation.figures.style import (
    COLOURS,
    STYLE,
    WIDTH,
    diagonal,
    palette,
    variable_text,
)
from metavoxel.evaluation.measures import MEASURES
from metavoxel.evaluation.scores import Score
from metavoxel.inference.calibration import LEVELS
from metavoxel.schema import Schema

_MARKERS, _DASHES, _HATCHES = "osD^v", ("-", "--", ":", "-.", (0, (5, 1, 1, 1))), ("", "///", "...")
_CALIBRATED = (0.9, 1.1)  # variance over squared error that may be called calibrated
_BINS = 14
_PANELS = 4  # side by side in an ablation
_TITLE = 18  # letters of a panel's title in a line
_SHARE = "share (%)"

Row = Mapping[str, Any]


def demographics(tables: Mapping[str, Table], schema: Schema) -> Figure:
    """Who the subjects are: every scalar by split, numbers also by the first categorical variable,
    and what is missing. Shares are of those whose value is known.

    The first panel of a kind has the legend of all, with the number of records of every split.
    """
    tables = {f"{split} (n = {len(table)})": table for split, table in tables.items()}
    panels = [*_demographic_panels(tables, schema)]
    columns = 2 if len(panels) <= 4 else 4
    rows, legends = math.ceil(len(panels) / columns), set()
    with plt.rc_context({**STYLE, "axes.labelsize": 7}):
        size = (WIDTH, (1.9 if columns == 2 else 1.55) * rows)
        fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for ax, draw in zip(axes.flat, panels, strict=False):
            draw(ax)
            ax.tick_params(labelsize=7)
            key = (*ax.get_legend_handles_labels()[1], ax.get_ylabel() == _SHARE)
            if key not in legends:
                low, high = ax.get_ylim()
                ax.set_ylim(low, high + (0.1 + 0.2 * (len(key) - 1)) * (high - low))
                ax.legend(loc="upper right", fontsize=6.5, handlelength=2, labelspacing=0.15,
                          borderpad=0, borderaxespad=0)  # fmt: skip
            legends.add(key)
        for ax in axes.flat[len(panels) :]:
            ax.remove()
    return fig


def _demographic_panels(
    tables: Mapping[str, Table], schema: Schema
) -> Iterator[Callable[[Axes], None]]:
    groups = next(iter(schema.categorical), None)
    whole = {v: np.concatenate([t.scalars[v] for t in tables.values()]) for v in schema.scalars}
    for v in schema.numbers:
        edges = np.histogram_bin_edges(whole[v][~np.isnan(whole[v])], _BINS)
        by_split = {split: table.scalars[v] for split, table in tables.items()}
        yield _bound(_histograms, by_split, edges, variable_text(schema, v))
        if groups is not None:
            labels = schema.categorical[groups].labels
            by_label = {label: whole[v][whole[groups] == k] for k, label in enumerate(labels)}
            yield _bound(_histograms, by_label, edges, variable_text(schema, v))
    for v, kind in schema.categorical.items():
        counts = {
            split: [int((table.scalars[v] == k).sum()) for k in range(len(kind.labels))]
            for split, table in tables.items()
        }
        yield _bound(_bars, counts, kind.labels, variable_text(schema, v), "records")
    missing = {
        split: [100 * float(np.isnan(table.scalars[v]).mean()) for v in schema.scalars]
        for split, table in tables.items()
    }
    names = [v.replace("_", " ") for v in schema.scalars]
    yield _bound(_bars, missing, names, "", "missing (%)")


def _bound(draw: Callable[..., None], *arguments: Any) -> Callable[[Axes], None]:
    return lambda ax: draw(ax, *arguments)


def _histograms(ax: Axes, values: Mapping[str, np.ndarray], edges: np.ndarray, label: str) -> None:
    """Percent of each group's known values by bin."""
    for i, (name, x) in enumerate(values.items()):
        known = x[~np.isnan(x)]
        share = 100 * np.histogram(known, edges)[0] / max(1, len(known))
        dashes, colour = _DASHES[i % len(_DASHES)], COLOURS[i % len(COLOURS)]
        ax.stairs(share, edges, color=colour, lw=1.4, ls=dashes, label=name)
    ax.set(xlabel=label, ylabel=_SHARE)


def _bars(
    ax: Axes,
    heights: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    title: str,
    ylabel: str,
) -> None:
    """Bars in a cluster for each label, a split a colour."""
    for i, (name, values) in enumerate(heights.items()):
        _clustered(ax, np.arange(len(labels)), values, i, len(heights), name)
    highest = max(map(max, heights.values()))
    ax.set(xlabel=title, ylabel=ylabel, ylim=(0, max(1, 1.05 * highest)))
    if sum(map(len, labels)) > 18:
        ax.set_xticks(range(len(labels)), labels, rotation=50, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(range(len(labels)), labels)


def _clustered(
    ax: Axes, at: Any, heights: Any, i: int, count: int, label: str | None = None
) -> Any:
    """The bars of the i-th of `count` groups in clusters around `at`; where they stand."""
    wide = 0.8 / count
    x = at + (i - (count - 1) / 2) * wide
    ax.bar(x, heights, 0.92 * wide, label=label, **_fill(i))
    return x


def _fill(i: int) -> dict[str, Any]:
    return {
        "facecolor": COLOURS[i % len(COLOURS)],
        "hatch": _HATCHES[i % len(_HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
    }


def by_group(rows: Sequence[Row], measures: Sequence[str] = ("frechet", "mmd")) -> Figure:
    """Measures of generated images by group of subjects, lower is nearer to real ones.

    A row is {"system", "group", "n", measure: Score as JSON or None}; `n` counts real images.
    """
    systems, groups = _names(rows, "system"), _names(rows, "group")
    sizes = {row["group"]: row["n"] for row in rows}
    with plt.rc_context(STYLE):
        size = (WIDTH, 0.35 + 1.75 * len(measures))
        fig, axes = plt.subplots(
            len(measures), 1, figsize=size, layout="constrained", squeeze=False, sharex=True
        )
        for ax, measure in zip(axes[:, 0], measures, strict=True):
            for row in rows:
                score, i = _score(row.get(measure)), systems.index(row["system"])
                x = _clustered(ax, groups.index(row["group"]), score.value, i, len(systems))
                if not math.isnan(score.low):
                    ax.vlines(x, score.low, score.high, color="k", lw=1)
            ylim = min(0, ax.get_ylim()[0]), ax.get_ylim()[1]
            ax.set(ylabel=image_title(measure, rows), ylim=ylim)
        ticks = [f"{group}\nn = {sizes[group]}" for group in groups]
        axes[-1, 0].set_xticks(range(len(groups)), ticks, fontsize=7.5 if len(groups) < 9 else 6.5)
        handles = [plt.Rectangle((0, 0), 1, 1, **_fill(i)) for i in range(len(systems))]
        fig.legend(handles, systems, loc="outside upper center", ncols=len(systems))
    return fig


def dispersion(rows: Sequence[Row]) -> Figure:
    """How well stated variances and intervals fit the errors, by variable, question and system.

    Rows as those of `results.scored`; one without a "dispersion" is not drawn. Left of each pair is
    the variance over the squared error, where grey is 0.9 to 1.1; right, which share of truths the
    intervals of every level hold.
    """
    found = [row for row in rows if "dispersion" in row["scores"]]
    asked = list(dict.fromkeys((row["variable"], row["question"]) for row in found))
    systems = _names(found, "system")
    colours = palette(systems[0], systems)
    panels = [[r for r in found if (r["variable"], r["question"]) == which] for which in asked]
    with plt.rc_context(STYLE):
        heights = [max(1.5, 0.5 + 0.21 * len(own)) for own in panels]
        fig, axes = plt.subplots(
            len(asked), 2, figsize=(WIDTH, sum(heights) + 0.3), layout="constrained",
            squeeze=False, sharex="col", width_ratios=(3, 2), height_ratios=heights,
        )  # fmt: skip
        for (dots, curves), (variable, question), own in zip(axes, asked, panels, strict=True):
            dots.axvspan(*_CALIBRATED, color="0.9", lw=0, zorder=0)
            dots.axvline(1, color="0.6", lw=1, zorder=0)
            scores = {r["system"]: _score(r["scores"]["dispersion"]) for r in own}
            _dots(dots, scores, systems, [*scores])
            alone = question.split("|")[0].strip() == variable
            title = question if alone else f"{variable}, of {question}"
            dots.set_title(title, loc="left", fontsize=8.5)
            _coverage(curves, own, systems, colours)
        axes[-1, 0].set_xlabel(MEASURES["dispersion"].title)
        axes[-1, 1].set_xlabel("stated")
    return fig


def _coverage(
    ax: Axes, rows: Sequence[Row], systems: Sequence[str], colours: Mapping[str, str]
) -> None:
    diagonal(ax)
    for row in rows:
        i = systems.index(row["system"])
        held = [
            (level, _score(row["scores"][key]))
            for level in LEVELS
            if (key := f"coverage_{100 * level:g}") in row["scores"]
        ]
        if held:
            levels, scores = zip(*held, strict=True)
            ax.plot(
                levels, [s.value for s in scores], color=colours[row["system"]], lw=1.4,
                marker=_MARKERS[i % len(_MARKERS)], ms=4, ls=_DASHES[i % len(_DASHES)],
            )  # fmt: skip
    ax.set(xlim=(min(LEVELS) - 0.1, 1.02), ylim=(0, 1.04), ylabel="held")


def ablation(rows: Sequence[Row], reference: str | None = None) -> Figure:
    """Systems in rows, a panel for each measure; the line is the reference (default: the first),
    if it has been measured.

    A row is {"system", measure's title: Score as JSON or None, ...}.
    """
    systems = _names(rows, "system")
    reference = systems[0] if reference is None else reference
    titles = list(dict.fromkeys(key for row in rows for key in row if key != "system"))
    lines = math.ceil(len(titles) / _PANELS)
    columns = math.ceil(len(titles) / lines)
    with plt.rc_context(STYLE):
        size = (WIDTH, (0.7 + 0.24 * len(systems)) * lines)
        fig, axes = plt.subplots(
            lines, columns, figsize=size, layout="constrained", squeeze=False, sharey=True
        )
        for ax in axes.flat[len(titles) :]:
            ax.remove()
        for ax, title in zip(axes.flat, titles, strict=False):
            scores = {row["system"]: _score(row.get(title)) for row in rows}
            if reference in scores:
                ax.axvline(scores[reference].value, color="0.6", lw=1, zorder=0)
            _dots(ax, scores, systems)
            ax.set_title(textwrap.fill(title.replace("_", " "), _TITLE), fontsize=9)
            ax.locator_params(axis="x", nbins=3)
    return fig


def _dots(
    ax: Axes,
    scores: Mapping[str, Score],
    systems: Sequence[str],
    rows: Sequence[str] | None = None,
) -> None:
    """A dot with its interval in the row of every system of `rows` (default: all), the first on
    top. What a system looks like follows from its place among all `systems`."""
    colours, rows = palette(systems[0], systems), systems if rows is None else rows
    for y, system in enumerate(rows):
        score = scores.get(system)
        if score is None or math.isnan(score.value):
            continue
        if not math.isnan(score.low):
            ax.hlines(y, score.low, score.high, color=colours[system], lw=1.5)
        marker = _MARKERS[systems.index(system) % len(_MARKERS)]
        ax.plot(score.value, y, marker, color=colours[system], ms=5)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)


def _names(rows: Sequence[Row], key: str) -> list[str]:
    """Every value once, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def _score(data: dict[str, Any] | None) -> Score:
    """NaN where nothing was measured."""
    return Score(math.nan, math.nan, math.nan, 0) if data is None else Score.from_json(data)
