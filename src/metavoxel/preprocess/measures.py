"""Automatic measures of a prepared scan, for quality control. None decides; they order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.mixture import GaussianMixture

from metavoxel.data.images import Grid, resample
from metavoxel.preprocess.template import template_brain, template_mask

_SMOOTH_MM = 4.0  # two halves of a brain are alike at this scale, not voxel by voxel
_VOXELS = 20_000  # enough to see three tissues in


def measures(brain: np.ndarray, mask: np.ndarray, grid: Grid) -> dict[str, float]:
    """What can be measured on a brain (x, y, z) in [0, 1] on the template's grid.

    `brain_volume` (mL), `template_overlap` (Dice of the masks), `template_correlation` (inside the
    template's brain), `tissue_contrast` (white minus grey matter, in units of their spread),
    `symmetry` (correlation with the mirror image at 4 mm), `edge_fraction` (share of the mask on
    the edge of the field of view).
    """
    spacing = float(grid.affine[0, 0])
    there = template_mask(spacing)
    inside = [brain[there], template_brain(spacing)[there]]
    smooth = gaussian_filter(brain, _SMOOTH_MM / spacing)
    mirror = Grid(grid.shape, np.diag([-1.0, 1.0, 1.0, 1.0]) @ grid.affine)
    other = resample(smooth, mirror, grid)
    whole = mask | (other > 0.1)
    edge = mask.copy()
    edge[1:-1, 1:-1, 1:-1] = False
    return {
        "brain_volume": float(mask.sum() * spacing**3 / 1000),
        "template_overlap": float(2 * (mask & there).sum() / (mask.sum() + there.sum())),
        "template_correlation": float(np.corrcoef(inside[0], inside[1])[0, 1]),
        "tissue_contrast": tissue_contrast(brain[mask]),
        "symmetry": float(np.corrcoef(smooth[whole], other[whole])[0, 1]),
        "edge_fraction": float(edge.sum() / mask.sum()),
    }


def tissue_contrast(voxels: np.ndarray) -> float:
    """How far white matter stands from grey: difference of means over root mean variance.

    Fluid, grey and white matter are three Gaussians in order of brightness, as in T1w.
    """
    chosen = voxels[:: max(1, len(voxels) // _VOXELS)][:, None]
    start = np.quantile(chosen, (0.1, 0.4, 0.8))[:, None]
    fit = GaussianMixture(3, means_init=start, random_state=0).fit(chosen)
    means, variances = fit.means_[:, 0], fit.covariances_[:, 0, 0]  # type: ignore[index]  # None before the fit
    _, grey, white = np.argsort(means)
    spread = np.sqrt((variances[grey] + variances[white]) / 2)
    return float((means[white] - means[grey]) / spread)


def outlier_scores(table: Sequence[Mapping[str, float]]) -> list[tuple[float, str]]:
    """Per scan, how far its oddest measure lies from the cohort's median, and which one it is.

    In robust standard deviations (1.4826 times the median absolute deviation); in plain ones for a
    measure on which most of the cohort agrees, such as the share of the mask on the edge, 0.
    """
    if not table:
        return []
    names = [*table[0]]
    values = np.array([[row[name] for name in names] for row in table], dtype=float)
    distance = np.abs(values - np.median(values, axis=0))
    spread = 1.4826 * np.median(distance, axis=0)
    spread = np.where(spread > 0, spread, values.std(axis=0))
    scores = distance / np.where(spread > 0, spread, np.inf)
    return [(float(row.max()), names[int(row.argmax())]) for row in scores]
