"""A GIST of a slice (Oliva & Torralba, 2001): how much there is of each orientation, where.

Fixed filters and no weights, so it needs no download and is the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_SIZE = 7  # pixels of a filter: two periods of its wave
_PERIOD = 3.5  # pixels; an octave lower at each level of the pyramid
_SIGMA = 1.4  # pixels; a bandwidth of about an octave and a half
# Makes a brain's features about 1 in root mean square, as KID's kernel takes them to be: far below,
# (x . y / d + 1)^3 is all but linear and compares means only. Simulated brains have 0.115 without.
GAIN = 8.0
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt & Adelson (1983)


@dataclass(frozen=True)
class Gist:
    """Root-mean-square response of oriented filters at several scales, and the mean intensity, each
    in every cell of a coarse grid of places.

    The scales are a pyramid from the slice's own pixels: nothing fine is lost by resizing. The
    defaults were chosen on simulated brains (docs/howto/image-measures.md).
    """

    levels: int = 4
    orientations: int = 4
    places: int = 3
    name: str = "gist"

    @property
    def version(self) -> str:
        return f"1 ({self.levels} levels, {self.orientations} orientations, {self.places} places)"

    def __call__(self, slices: Tensor) -> np.ndarray:
        """Features (n, d) float64 of slices (n, 1, H, W) in [0, 1]; d is
        (levels * orientations + 1) * places ** 2."""
        with torch.no_grad():
            parts = [self._described(part) for part in slices.float().split(256)]
        return torch.cat(parts).double().numpy()

    def _described(self, x: Tensor) -> Tensor:
        features = [F.adaptive_avg_pool2d(x, self.places).flatten(1)]
        waves = quadrature_filters(self.orientations)
        for level in range(self.levels):
            response = F.conv2d(_padded(x, _SIZE // 2), waves)
            energy = response.square().unflatten(1, (self.orientations, 2)).sum(2)
            features.append(F.adaptive_avg_pool2d(energy, self.places).sqrt().flatten(1))
            if level + 1 < self.levels:
                x = _halved(x)
        return GAIN * torch.cat(features, dim=1)


def quadrature_filters(orientations: int) -> Tensor:
    """Pairs of Gabor filters, even and odd, (2 * orientations, 1, 7, 7): blind to a constant, with
    a response of about 1 to a wave of amplitude 1 of their own."""
    axis = torch.arange(_SIZE, dtype=torch.float64) - _SIZE // 2
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    window = torch.exp(-(rows**2 + columns**2) / (2 * _SIGMA**2))
    window = window / window.sum() * 2
    filters = []
    for k in range(orientations):
        angle = math.pi * k / orientations
        phase = 2 * math.pi / _PERIOD * (columns * math.cos(angle) + rows * math.sin(angle))
        even = window * phase.cos()
        filters += [even - window * even.sum() / window.sum(), window * phase.sin()]
    return torch.stack(filters)[:, None].float()


def _halved(x: Tensor) -> Tensor:
    """The next level of the pyramid: blurred, then every second pixel."""
    kernel = torch.tensor(_BINOMIAL)
    return F.conv2d(_padded(x, 2), torch.outer(kernel, kernel)[None, None], stride=2)


def _padded(x: Tensor, margin: int) -> Tensor:
    # Not reflected: a coarse level may have fewer pixels than the margin.
    return F.pad(x, [margin] * 4, mode="replicate")
