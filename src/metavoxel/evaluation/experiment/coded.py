"""Labels that a model knows as numbers: the Continuous-Sex MetaVoxel among systems with labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.schema import Schema


@dataclass(frozen=True, eq=False)
class Coding:
    """Between label indices and the codes (K,) that stand for them in the labels' order."""

    codes: np.ndarray

    def numbers(self, indices: np.ndarray) -> np.ndarray:
        """Label indices (n,), NaN where missing, as numbers."""
        known = ~np.isnan(indices)
        out = np.full(len(indices), np.nan)
        out[known] = self.codes[indices[known].astype(int)]
        return out

    def nearest(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of any shape as the index of the nearest code."""
        return np.abs(numbers[..., None] - self.codes).argmin(-1).astype(float)

    def probabilities(
        self, points: np.ndarray, samples: np.ndarray | None, spread: np.ndarray | None
    ) -> np.ndarray:
        """Of the labels (n, K): how often a sample (n, m) is nearest to each, with one added; or
        the mass that a normal of the stated spread (n,) has nearest to each; or all on the nearest.
        """
        every = np.arange(len(self.codes))
        if samples is not None:
            counts = (self.nearest(samples)[:, :, None] == every).sum(1) + 1.0
            return counts / counts.sum(1, keepdims=True)
        if spread is None:
            return (self.nearest(points)[:, None] == every) * 1.0
        order = np.argsort(self.codes)
        between = (self.codes[order][1:] + self.codes[order][:-1]) / 2
        below = norm.cdf((between - points[:, None]) / spread[:, None])
        mass = np.diff(below, axis=1, prepend=0, append=1)
        return mass[:, np.argsort(order)]


def codings(schema: Schema, own: Schema) -> dict[str, Coding]:
    """By variable: those that have labels in `schema`, and codes for them in the model's `own`."""
    out = {}
    for v, kind in schema.categorical.items():
        codes: Any = getattr(own.variables.get(v), "codes", None)
        if codes is not None:
            out[v] = Coding(np.array([codes[label] for label in kind.labels], dtype=float))
    return out


def as_numbers(table: Table, coded: dict[str, Coding]) -> Table:
    """A table as the model reads it."""
    return replace(
        table, scalars=table.scalars | {v: c.numbers(table.scalars[v]) for v, c in coded.items()}
    )


def as_labels(said: SystemAnswers, coded: dict[str, Coding]) -> SystemAnswers:
    """The model's answers as label indices with probabilities."""
    points, samples = dict(said.points), dict(said.samples)
    probabilities, spreads = dict(said.probabilities), dict(said.spreads)
    for v, coding in coded.items():
        if v not in points:
            continue
        drawn = samples.pop(v, None)
        probabilities[v] = coding.probabilities(points[v], drawn, spreads.pop(v, None))
        points[v] = coding.nearest(points[v])
    return SystemAnswers(points, samples, probabilities, spreads, said.seconds)
