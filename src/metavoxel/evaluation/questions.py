"""A question put to many records at once: "age | image, sex" of every subject of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.systems import SystemAnswers, answer
from metavoxel.inference.query import Question
from metavoxel.model import MetaVoxel


def records_with(question: Question, table: Table) -> np.ndarray:
    """The rows (n,) of a table in which the truth of something that is asked is known."""
    asked = [~np.isnan(table.scalars[v]) for v in question.asked if v in table.scalars]
    return np.flatnonzero(np.any(asked, axis=0))


def rows_of(table: Table, rows: np.ndarray) -> Table:
    """Some records of a table."""
    return Table(
        {v: x[rows] for v, x in table.images.items()},
        {v: x[rows] for v, x in table.scalars.items()},
        tuple(table.records[i] for i in rows),
        tuple(table.subjects[i] for i in rows),
    )


def answer_question(
    model: MetaVoxel,
    question: Question,
    table: Table,
    count: int,
    seed: int,
    settings: SamplingConfig | None = None,
) -> SystemAnswers:
    """Ask a question for scalars of every record of a table, from `count` samples, or 0 for one
    evaluation. A value that should be known and is missing is marginalised in that record."""
    parts: list[tuple[np.ndarray, SystemAnswers]] = []
    for rows, known in _by_what_is_known(question, table):
        values = {v: (table.images | table.scalars)[v][rows] for v in known}
        parts.append(
            (rows, answer(model, question.asked, values, len(rows), count, seed, settings))
        )
    return _in_order([rows for rows, _ in parts], [said for _, said in parts])


def _by_what_is_known(
    question: Question, table: Table
) -> Iterator[tuple[np.ndarray, Sequence[str]]]:
    """Rows that know the same of what is given, and what that is."""
    scalars = [v for v in question.given if v in table.scalars]
    gaps = np.array([np.isnan(table.scalars[v]) for v in scalars])
    gaps = gaps.reshape(len(scalars), len(table)).T
    for pattern in np.unique(gaps, axis=0):
        missing = {v for v, gap in zip(scalars, pattern, strict=True) if gap}
        rows = np.flatnonzero((gaps == pattern).all(1))
        yield rows, [v for v in question.given if v not in missing]


def _in_order(rows: Sequence[np.ndarray], parts: Sequence[SystemAnswers]) -> SystemAnswers:
    """The answers to parts of the records, put where these stand."""
    order = np.argsort(np.concatenate(rows))

    def joined(kind: str) -> Mapping[str, Any]:
        names = getattr(parts[0], kind)
        return {v: np.concatenate([getattr(p, kind)[v] for p in parts])[order] for v in names}

    kinds = ("points", "samples", "probabilities", "spreads")
    return SystemAnswers(*map(joined, kinds), seconds=sum(p.seconds for p in parts))
