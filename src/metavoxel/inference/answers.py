"""What a question gives back: a distribution per asked variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metavoxel.data.images import Grid, Scan, to_file
from metavoxel.errors import MetaVoxelError
from metavoxel.posterior.marginal import Marginal


def central_interval(samples: np.ndarray, level: float) -> np.ndarray:
    """The ends (2, ...) of the central interval that a further draw falls into at this rate.

    `samples` (..., m). The k-th smallest of m draws has k / (m + 1) of the distribution below it on
    average, whatever the distribution. Numpy's default, (k - 1) / (m - 1), puts the ends too far
    inside: of 32 draws it makes a 90 % interval that holds 85 %. With fewer than 19 draws, a 90 %
    interval is that from the smallest to the largest and holds less than it should.
    """
    ends = [(1 - level) / 2, (1 + level) / 2]
    return np.quantile(samples, ends, axis=-1, method="weibull")


@dataclass(frozen=True, eq=False)
class ContinuousAnswer:
    """A continuous variable's conditional distribution, in the variable's unit.

    `distribution` is p(variable | known) as one network evaluation states it, or None where the
    model can only be sampled; `point` is then an expectation that one evaluation gives, or None.
    `samples` (n,) are draws, joint with those of the other variables, perhaps none. `range` is that
    of the schema, or of the training data where the schema has none. A distribution with tails may
    leave it; a mean beyond it says that the model cannot answer.
    """

    unit: str | None
    samples: np.ndarray
    point: float | None = None
    range: tuple[float, float] | None = None
    distribution: Marginal | None = None

    @property
    def mean(self) -> float:
        """The expectation: from one evaluation where the model allows it, else of the samples."""
        if self.distribution is not None:
            return float(self.distribution.mean[0])
        return self.point if self.point is not None else float(self._drawn(1).mean())

    @property
    def outside(self) -> bool:
        """Whether the mean lies outside the range."""
        return bool(self._beyond(np.array([self.mean]))[0])

    @property
    def samples_outside(self) -> np.ndarray:
        """Which samples (n,) lie outside the range."""
        return self._beyond(self.samples)

    def _beyond(self, values: np.ndarray) -> np.ndarray:
        low, high = self.range or (-np.inf, np.inf)
        rounding = 1e-6 * (high - low) if self.range else 0.0
        return (values < low - rounding) | (values > high + rounding)

    @property
    def std(self) -> float:
        """The standard deviation: of the distribution, else of the samples."""
        if self.distribution is not None:
            return float(self.distribution.std[0])
        return float(self._drawn(2).std(ddof=1))

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """The central interval that holds the variable with probability `level`."""
        if not 0 < level < 1:
            raise MetaVoxelError(f"An interval's level lies between 0 and 1; {level} does not.")
        if self.distribution is not None:
            low, high = self.distribution.interval(level)
            return float(low[0]), float(high[0])
        low, high = central_interval(self._drawn(2), level)
        return float(low), float(high)

    def cdf(self, value: float) -> float:
        """P(variable <= value | known): the centile of a value among subjects of whom as much is
        known, from 0 to 1."""
        if self.distribution is not None:
            return float(self.distribution.cdf(np.array([value]))[0])
        return float((self._drawn(2) <= value).mean())

    def _drawn(self, least: int) -> np.ndarray:
        if len(self.samples) < least:
            raise MetaVoxelError(
                f"The answer holds {len(self.samples)} samples; ask with samples={max(least, 32)}."
            )
        return self.samples

    def summary(self) -> dict[str, Any]:
        out: dict[str, Any] = {"mean": self.mean, "unit": self.unit}
        if self.range is not None:
            out |= {"range": list(self.range), "outside_range": self.outside}
        if self.distribution is not None or len(self.samples) > 1:
            out |= {"std": self.std, "interval_90": list(self.interval(0.9))}
        if len(self.samples) and self.range is not None:
            out["samples"] = len(self.samples)
            out["samples_outside_range"] = int(self.samples_outside.sum())
        return out


@dataclass(frozen=True, eq=False)
class CategoricalAnswer:
    """A categorical variable's conditional distribution.

    `probabilities` come from one evaluation where the model allows it, else from the samples.
    `samples` (n,) are drawn labels, perhaps none.
    """

    probabilities: dict[str, float]
    samples: np.ndarray

    @property
    def label(self) -> str:
        """The most probable label."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    def summary(self) -> dict[str, Any]:
        return {"label": self.label, "probabilities": self.probabilities}


@dataclass(frozen=True, eq=False)
class ImageAnswer:
    """Draws of an image: `samples` (n, channels, ...) in [0, 1], and where their grid lies.

    `scan` is the one that the answer is made from, if there was one, and `marks` the voxels of its
    file that were filled, if not all of it was drawn.
    """

    samples: np.ndarray
    grid: Grid
    scan: Scan | None = None
    marks: np.ndarray | None = None

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to millimetres, (4, 4)."""
        return self.grid.affine

    def on_source(self) -> ImageAnswer:
        """The same as the scan's file would hold it: on its grid, no more detailed if finer, in its
        orientation and its intensities. What was not filled is the file's own, to the voxel."""
        if self.scan is None:
            return self
        samples = np.stack([to_file(x, self.scan, self.marks) for x in self.samples])
        return ImageAnswer(samples, self.scan.source)

    @property
    def mean(self) -> np.ndarray:
        """Voxelwise mean of the samples, (channels, ...)."""
        return self.samples.mean(0)

    @property
    def std(self) -> np.ndarray:
        """Voxelwise standard deviation of the samples, (channels, ...)."""
        return self.samples.std(0, ddof=1)

    def summary(self) -> dict[str, Any]:
        return {"samples": len(self.samples), "shape": list(self.samples.shape[1:])}


Answer = ContinuousAnswer | CategoricalAnswer | ImageAnswer


@dataclass(frozen=True, eq=False)
class Answers(Mapping[str, Answer]):
    """The answers to one question, by variable. Samples are joint: row i is one record."""

    variables: dict[str, Answer]

    def __getitem__(self, name: str) -> Any:
        if name not in self.variables:
            raise MetaVoxelError(f'"{name}" was not asked; asked were {", ".join(self.variables)}.')
        return self.variables[name]

    def __iter__(self):
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    def summary(self) -> dict[str, Any]:
        """Plain numbers and text, ready for JSON."""
        return {v: answer.summary() for v, answer in self.variables.items()}
