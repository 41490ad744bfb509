"""How alike the images of a set are: MS-SSIM between pairs (Wang et al., 2003)."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics.regression import MultiScaleSSIMMetric

from metavoxel.evaluation.scores import Score

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al., finest scale first
_KERNEL = 4  # voxels, as in MONAI's examples: its default of 11 leaves 40 voxels only two scales
_PAIRS = 100
_VOXELS = 1e8  # of all pairs together: about a minute
_FEWEST = 20  # pairs, however large the images are
_RESAMPLES = 500


def scales(shape: tuple[int, ...]) -> int:
    """How many of the five scales MONAI takes for a grid: four at 40 voxels, five from 64."""
    side = min(shape)
    fitting = [k for k in range(1, 6) if side // max(1, k - 1) ** 2 > _KERNEL - 1]
    return max(fitting, default=1)


def ms_ssim(images: np.ndarray, seed: int) -> Score:
    """Mean MS-SSIM between images of one set (n, C, *grid) in [0, 1]: 1 if all are the same.

    The pairs are neighbours on a ring of all images in random order, at most 100, fewer of large
    volumes. The interval is a bootstrap over the images; `n` counts those in the pairs.
    """
    n, shape = len(images), images.shape[2:]
    rng = np.random.default_rng(seed)
    limit = int(np.clip(_VOXELS / np.prod(shape), _FEWEST, _PAIRS))
    order = rng.permutation(n)[:limit]
    ring = images[order]
    values = pair_ms_ssim(ring, np.roll(ring, -1, axis=0))
    k = len(ring)
    w = rng.multinomial(k, np.full(k, 1 / k), size=_RESAMPLES).astype(float)
    weight = w * np.roll(w, -1, axis=1)  # both of a pair must be drawn
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile((weight @ values) / weight.sum(1), [0.025, 0.975])
    return Score(float(values.mean()), float(low), float(high), k)


def pair_ms_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """MS-SSIM (n,) of images (n, C, *grid) in [0, 1], pair by pair."""
    shape = a.shape[2:]
    weights = np.array(_WEIGHTS[: scales(shape)])
    metric = MultiScaleSSIMMetric(
        len(shape), kernel_size=_KERNEL, weights=tuple((weights / weights.sum()).tolist())
    )
    with torch.no_grad():
        values = [
            metric._compute_metric(torch.from_numpy(x[None]), torch.from_numpy(y[None])).item()
            for x, y in zip(a, b, strict=True)
        ]
    return np.array(values)
