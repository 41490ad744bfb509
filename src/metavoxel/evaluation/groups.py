"""Scores by group: for whom is a model worse?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metavoxel.data.columns import subject_column
from metavoxel.data.tables import cell_number
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.scores import Bootstrap, Score, mean_of
from metavoxel.evaluation.scoring import Evaluation, known_records
from metavoxel.files.html import Html, element, join, table
from metavoxel.schema import Schema

FEWEST = 10  # subjects of a group, below which it is not scored
_BANDS = 3  # of a number, of as many test records each
_MANY = 10  # values of a column of numbers, above which it is cut into bands

Group = tuple[str, np.ndarray]  # what it is called, and which records (n,) are in it


def groupings(
    bids: Path, schema: Schema, records: Table, by: Sequence[str]
) -> dict[str, list[Group]]:
    """Groups of the records by every name: a variable of the schema, or else a column of the
    tables; by the categorical variables if none is named.

    A label or a value is a group each; a number is cut into terciles of these records. A record
    without a value is in no group. Raises MetaVoxelError for a column that is not there.
    """
    found: dict[str, list[Group]] = {}
    for name in by or [*schema.categorical]:
        if name in schema.categorical:
            values = records.scalars.get(name, np.full(len(records), np.nan))
            labels = schema.categorical[name].labels
            found[name] = [(label, values == k) for k, label in enumerate(labels)]
        elif name in schema.scalars and name in records.scalars:
            found[name] = bands(records.scalars[name])
        else:
            found[name] = _of_column(subject_column(bids, name), records.subjects)
    return found


def _of_column(values: Mapping[str, str], subjects: Sequence[str]) -> list[Group]:
    cells = [values.get(subject) for subject in subjects]
    known = sorted({x for x in cells if x is not None})
    numbers = [cell_number(x) for x in known]
    if len(known) > _MANY and all(x is not None for x in numbers):
        number = dict(zip(known, numbers, strict=True))
        each = [np.nan if x is None else number[x] for x in cells]
        return bands(np.array(each, dtype=float))
    return [(value, np.array([x == value for x in cells])) for value in known]


def bands(values: np.ndarray) -> list[Group]:
    """Terciles of numbers (n,), some of them missing; fewer where many are equal."""
    known = values[~np.isnan(values)]
    inner = np.quantile(known, np.arange(1, _BANDS) / _BANDS) if len(known) else np.array([])
    edges = np.unique(inner)
    which = np.searchsorted(edges, values, side="right")
    out: list[Group] = []
    for k in range(len(edges) + 1):
        inside = (which == k) & ~np.isnan(values)
        if inside.any():
            low, high = values[inside].min(), values[inside].max()
            out.append((f"{low:.4g} to {high:.4g}", inside))
    return out


def score_groups(
    evaluation: Evaluation, groups: Mapping[str, Sequence[Group]]
) -> list[dict[str, Any]]:
    """A row per grouping, group and variable: the reference's mean absolute error or accuracy, with
    its bootstrap interval over subjects; None of fewer than ten subjects."""
    answers = evaluation.systems[evaluation.reference]
    rows = []
    for v, known in known_records(evaluation):
        if v not in answers.points:
            continue
        point = answers.points[v][known.rows]
        number = v in evaluation.schema.numbers
        loss = np.abs(point - known.truth) if number else (point == known.truth).astype(float)
        for by, name, inside in _each(groups):
            mine = np.flatnonzero(inside[known.rows])
            subjects = [evaluation.table.subjects[i] for i in known.rows[mine]]
            score = _score(loss[mine], subjects, number) if len({*subjects}) >= FEWEST else None
            rows.append(
                {
                    "by": by,
                    "group": name,
                    "variable": v,
                    "records": len(mine),
                    "subjects": len({*subjects}),
                    "score": None if score is None else score.to_json(),
                }
            )
    return rows


def _score(loss: np.ndarray, subjects: Sequence[str], number: bool) -> Score:
    people = Bootstrap(subjects)
    return people.score(mean_of(loss)) if number else people.share(loss)


def _each(groups: Mapping[str, Sequence[Group]]) -> Iterator[tuple[str, str, np.ndarray]]:
    for by, found in groups.items():
        for name, inside in found:
            yield by, name, inside


def group_lines(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the table: groups down, variables across."""
    variables = list(dict.fromkeys(row["variable"] for row in rows))
    found = {(row["by"], row["group"], row["variable"]): row for row in rows}
    lines = []
    for by, group in dict.fromkeys((row["by"], row["group"]) for row in rows):
        mine = [found[by, group, v] for v in variables]
        most = max(row["subjects"] for row in mine)
        lines.append([by, group, str(most), *(_said(row, most) for row in mine)])
    return ["by", "group", "subjects", *variables], lines


def _said(row: Mapping[str, Any], most: int) -> str:
    if row["score"] is None:
        return f"fewer than {FEWEST}"
    text = str(Score.from_json(row["score"]))
    return text if row["subjects"] == most else f"{text} (of {row['subjects']})"


def groups_markdown(report: Mapping[str, Any]) -> list[str]:
    """The table as Markdown, or nothing where there are no groups."""
    if not report.get("groups"):
        return []
    head, lines = group_lines(report["groups"])
    safe = [[x.replace("|", "\\|") for x in line] for line in [head, *lines]]
    rows = [f"| {' | '.join(line)} |" for line in safe]
    title = f"By group: mean absolute error or accuracy of {report['reference']}."
    return [title, "", rows[0], f"|{'---|' * len(head)}", *rows[1:], ""]


def groups_html(report: Mapping[str, Any]) -> Html:
    """The table as HTML, or nothing where there are no groups."""
    if not report.get("groups"):
        return Html()
    said = (
        f", with 95 % intervals over subjects. Groups of fewer than {FEWEST} subjects are not "
        "scored; with many groups some differ by chance."
    )
    reference = element("b", report["reference"])
    return join(
        element("h2", "By group"),
        element("p", "Mean absolute error or accuracy of ", reference, said),
        table(*group_lines(report["groups"])),
    )
