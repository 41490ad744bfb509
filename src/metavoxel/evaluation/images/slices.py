"""Which slices of a set of images are compared, and their features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.images.extractors import Extractor

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis of RAS that a plane stands across
FLAT = "slice"  # the one plane of a 2D image
MOST = 16  # slices of a plane; neighbours of one brain say nearly the same
_VISIBLE = 0.05  # intensity above which a pixel shows something
_FULL = 0.25  # of the fullest slice's area: what is emptier is the edge of the brain


def checked(images: np.ndarray, which: str, grid: tuple[int, ...] | None = None) -> np.ndarray:
    """Images (n, C, *grid) as float32. Raises MetaVoxelError for what cannot be measured.

    `grid` (C, *grid) is what they must lie on.
    """
    if images.ndim not in (4, 5):
        raise MetaVoxelError(
            f"The {which} images have {images.ndim} axes. Give (n, channels, *grid), in 2D or 3D."
        )
    if len(images) < 4:
        raise MetaVoxelError(f"There are {len(images)} {which} images. Give at least 4.")
    if grid is not None and images.shape[1:] != grid:
        raise MetaVoxelError(
            f"The {which} images are {list(images.shape[1:])}, the real ones {list(grid)}. "
            "Resample them to one grid."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # false for NaN too
        raise MetaVoxelError(
            f"The {which} images lie in [{low:.3g}, {high:.3g}]. Scale them to [0, 1]."
        )
    return images.astype(np.float32, copy=False).clip(0, 1)


def shown_slices(real: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of the slices compared in each plane, chosen on the real images (m, C, *grid) alone.

    Those whose mean visible area is at least a quarter of the fullest slice's; of more than 16,
    16 evenly spaced. Raises MetaVoxelError if the images are empty.
    """
    visible = (real > _VISIBLE).any(1).mean(0)
    if not visible.any():
        raise MetaVoxelError("The real images show nothing above 0.05. Scale them to [0, 1].")
    if visible.ndim == 2:
        return {FLAT: np.zeros(1, int)}
    chosen = {}
    for plane, axis in PLANES.items():
        area = visible.mean(tuple(a for a in range(3) if a != axis))
        kept = np.flatnonzero(area >= _FULL * area.max())
        picks = np.linspace(0, len(kept) - 1, min(MOST, len(kept))).round().astype(int)
        chosen[plane] = kept[picks]
    return chosen


def described(
    images: np.ndarray, chosen: Mapping[str, np.ndarray], extractor: Extractor
) -> dict[str, np.ndarray]:
    """Features (n, slices, d) float64 of every plane's chosen slices; channels stand side by
    side."""
    return {plane: _of_plane(images, plane, picks, extractor) for plane, picks in chosen.items()}


def _of_plane(
    images: np.ndarray, plane: str, picks: np.ndarray, extractor: Extractor
) -> np.ndarray:
    """Image by image: the slices of a large cohort need not fit into memory at once."""
    features = []
    for image in images:
        stack = image[None] if plane == FLAT else np.moveaxis(image, PLANES[plane] + 1, 0)[picks]
        flat = np.ascontiguousarray(stack).reshape(-1, 1, *stack.shape[2:])
        features.append(extractor(torch.from_numpy(flat)).reshape(len(stack), -1))
    return np.stack(features)
