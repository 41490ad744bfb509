"""Scalars between their own units and the space they diffuse in (section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LinearScaling:
    """A continuous variable, mapped linearly so that [low, high] becomes [-1, 1].

    `std` is the standard deviation of the encoded values over the training split.
    """

    low: float
    high: float
    std: float = 1.0

    @property
    def scale(self) -> float:
        """Units of the variable per unit of z."""
        return (self.high - self.low) / 2

    def encode(self, values: Tensor) -> Tensor:
        """Values (B,) in the variable's unit -> z (B, 1)."""
        return ((values - self.low) / self.scale - 1).float()[:, None]

    def decode(self, z: Tensor) -> Tensor:
        """z (B, 1) -> values (B,) in the variable's unit."""
        return (z[:, 0].double() + 1) * self.scale + self.low


@dataclass(frozen=True)
class OneHot:
    """A categorical variable with its labels, as one-hot rows."""

    labels: tuple[str, ...]

    def encode(self, values: Tensor) -> Tensor:
        """Label indices (B,) -> z (B, K)."""
        return F.one_hot(values.long(), len(self.labels)).float()

    def decode(self, z: Tensor) -> Tensor:
        """z or probabilities (B, K) -> label indices (B,), the most probable one."""
        return z.argmax(-1)


def fit_scaling(values: Tensor, bounds: tuple[float, float] | None) -> LinearScaling:
    """The scaling of a continuous variable: bounds from the schema, or from the observed values.

    `values` (n,) are the observed values of the training split.
    """
    low, high = bounds if bounds is not None else (float(values.min()), float(values.max()))
    if high <= low:
        high = low + 1.0
    unscaled = LinearScaling(low, high)
    z = unscaled.encode(values)[:, 0]
    std = float(z.std()) if len(values) > 1 else 1.0
    return LinearScaling(low, high, max(std, 1e-3))


def label_indices(labels: tuple[str, ...], values: list[str]) -> Tensor:
    """Indices of `values` among `labels`, shape (len(values),)."""
    return torch.tensor([labels.index(v) for v in values], dtype=torch.long)
