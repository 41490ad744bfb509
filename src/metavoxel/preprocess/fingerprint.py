"""Whether a scan looks as if it was prepared like a model's training scans.

The second line of defence, behind what is declared (metavoxel.preprocess.declaration): a few
statistics of the image on the model's grid, each against its spread over the training scans.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from metavoxel.data.images import Grid, Scan, resample

_FOREGROUND = 0.1  # of the brightest: above the rim that interpolation leaves
_COARSE_MM = 8.0  # the mean image is kept this coarse: it shows a cohort, nobody in it
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# How many standard deviations are too far, of one statistic and of all together. Of 149 scans of
# IXI, each looked at with four fifths of the others, one lay farther (benchmarks/fingerprint.py).
TOO_FAR, TOO_FAR_TOGETHER = 5.0, 4.0
_SURE = 100.0  # odds at which left and right are said to be swapped
_LEAST_SPREAD = 0.02  # of the mean: what differs by less than this share is alike
_LEFT_TO_RIGHT = {2: 1, 3: 0}  # the axis: in a picture the columns
_APART = ("left_right", "voxel_size")  # not among those taken together; the file's is all one
_SCANS_PER_STATISTIC = 5  # at least, to say how statistics go together
_FOLDS = 5
_RIDGE = 0.1  # of the mean square of a voxel, per scan: from 0.01 to 10 all do


@dataclass(frozen=True)
class Fingerprint:
    """How the training scans of one image look: per statistic its mean and standard deviation.

    `mean_image` and `left_right` (a linear discriminant of images from their mirror images) are
    coarse images, flattened. `precision` is the inverse covariance of the statistics in units of
    their standard deviations, in the order of `statistics` without those apart, flattened: a
    large brain is wide and long and high, and one that is wide and low is odd though neither is.
    It gives the Mahalanobis distance, "together"; it is empty where the scans were too few.
    """

    mean: Mapping[str, float]
    spread: Mapping[str, float]
    mean_image: tuple[float, ...]
    left_right: tuple[float, ...]
    precision: tuple[float, ...] = ()

    def oddity(self, scan: Scan) -> str | None:
        """A sentence if the scan looks unlike the training scans, else None."""
        seen, distances = self.statistics(scan), self.distances(scan)
        worst = farthest(distances)
        far = distances[worst] >= too_far(worst)
        named = far and worst != "together"
        if not named and self._odds_of_swap(seen["left_right"]) > _SURE:
            return "left and right seem to be swapped"
        if not far:
            return None
        away = f"{distances[worst]:.0f} standard deviations away"
        if not named:
            return (
                "each of its measures is like those of the training scans, but not all of them "
                f"together ({away})"
            )
        return (
            f"its {worst.replace('_', ' ')} is {seen[worst]:.3g}, that of the training scans "
            f"{self.mean[worst]:.3g} ± {self.spread[worst]:.2g} ({away})"
        )

    def distances(self, scan: Scan) -> dict[str, float]:
        """How far every statistic of a scan lies from the mean, in standard deviations."""
        seen = self.statistics(scan)
        away = {k: (x - self.mean[k]) / self.spread[k] for k, x in seen.items()}
        out = {k: abs(x) for k, x in away.items() if k != "left_right"}
        if self.precision:
            standard = np.array([[away[k] for k in seen if k not in _APART]])
            precision = np.array(self.precision).reshape(2 * standard.shape[1:])
            distance = _mahalanobis(standard, precision)[0]
            out["together"] = float(distance - self.mean["together"]) / self.spread["together"]
        return out

    def _odds_of_swap(self, left_right: float) -> float:
        """Mirror image to image, of two normal distributions of which one mirrors the other."""
        slope = 2 * self.mean["left_right"] / self.spread["left_right"] ** 2
        return float(np.exp(np.clip(-slope * left_right, -50, 50)))

    def statistics(self, scan: Scan) -> dict[str, float]:
        picture = coarse(scan)
        return {
            **shape_and_tone(scan),
            "likeness": _likeness(picture.ravel(), np.array(self.mean_image)),
            "left_right": float(_halves_apart(picture) @ np.array(self.left_right)),
        }


def fit_fingerprint(scans: Iterable[Scan]) -> Fingerprint:
    """The fingerprint of a model's training scans, each of which is looked at once."""
    seen = [(coarse(scan), shape_and_tone(scan)) for scan in scans]
    pictures, rows = [x for x, _ in seen], [row for _, row in seen]
    apart = np.array([_halves_apart(picture) for picture in pictures])
    mean_image = np.mean(pictures, axis=0).ravel()
    ones = np.ones(len(seen))  # an image's own side is +1; its mirror image would be -1
    sides = Ridge(alpha=_RIDGE * len(seen) * max(apart.var(), 1e-9), fit_intercept=False)
    values = {k: np.array([row[k] for row in rows]) for k in rows[0]}
    values["likeness"] = np.array([_likeness(x.ravel(), mean_image) for x in pictures])
    standard = np.stack(
        [(x - x.mean()) / _spread(x) for k, x in values.items() if k not in _APART], axis=1
    )
    folds = min(_FOLDS, len(seen))
    # On the scans that it was fitted on the discriminant is too sure, and no distance is large.
    if folds > 1:
        values["left_right"] = np.asarray(cross_val_predict(sides, apart, ones, cv=folds))
    else:
        values["left_right"] = ones
    precision = np.empty(0)
    if len(seen) >= _SCANS_PER_STATISTIC * standard.shape[1]:
        precision = _precision(standard)
        values["together"] = np.empty(len(seen))
        for fitted, others in KFold(folds).split(standard):
            values["together"][others] = _mahalanobis(
                standard[others], _precision(standard[fitted])
            )
    return Fingerprint(
        {k: float(x.mean()) for k, x in values.items()},
        {k: _spread(x) for k, x in values.items()},
        tuple(float(f"{x:.4g}") for x in mean_image),
        tuple(float(f"{x:.4g}") for x in sides.fit(apart, ones).coef_),
        tuple(precision.ravel().tolist()),
    )


def too_far(statistic: str) -> float:
    """From how many standard deviations on a statistic is odd."""
    return TOO_FAR_TOGETHER if statistic == "together" else TOO_FAR


def farthest(distances: Mapping[str, float]) -> str:
    """The statistic that tells most of a scan: if none is odd alone, perhaps all together."""
    alone = [k for k in distances if k != "together"]
    worst = max(alone, key=lambda k: distances[k])
    odd = distances.get("together", 0.0) >= TOO_FAR_TOGETHER and distances[worst] < TOO_FAR
    return "together" if odd else worst


def _spread(values: np.ndarray) -> float:
    return float(max(values.std(), _LEAST_SPREAD * abs(values.mean()), 1e-3))


def _precision(standard: np.ndarray) -> np.ndarray:
    """The inverse covariance (k, k) of standardised statistics (n, k)."""
    covariance, _ = ledoit_wolf(standard, assume_centered=True)
    return np.linalg.pinv(covariance, hermitian=True)  # of equal scans it is 0


def _mahalanobis(standard: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Distances (n,) of standardised statistics (n, k) from their mean."""
    mean = np.zeros((1, standard.shape[1]))
    return cdist(standard, mean, "mahalanobis", VI=precision)[:, 0]


def shape_and_tone(scan: Scan) -> dict[str, float]:
    """What is measured on an image on the model's grid; its first channel counts.

    Volume of the foreground (mL), its centre and edges (mm, world), quantiles of its intensity
    relative to the brightest, its sharpness, and the file's voxel size (mm).
    """
    x, spacing = scan.array[0], _spacing(scan)
    inside = x > _FOREGROUND
    if not inside.any():
        inside = np.ones_like(inside)
    out = {"foreground": float(inside.sum() * np.prod(spacing) / 1000)}
    for axis, name in enumerate("xyz"[: x.ndim]):
        profile = inside.sum(tuple(k for k in range(x.ndim) if k != axis))
        where = scan.grid.affine[axis, 3] + spacing[axis] * np.arange(len(profile))
        share = profile.cumsum() / profile.sum()
        out[f"centre_{name}"] = float((profile * where).sum() / profile.sum())
        for part, at in (("low", 0.02), ("high", 0.98)):  # not a single voxel's doing
            out[f"{part}_{name}"] = float(where[np.searchsorted(share, at)])
    levels = np.quantile(x[inside], _QUANTILES)
    out |= {f"quantile_{q:g}": float(v) for q, v in zip(_QUANTILES, levels, strict=True)}
    out["sharpness"] = float(np.sqrt(((x - gaussian_filter(x, 1.0))[inside] ** 2).mean()))
    sides = np.linalg.norm(scan.source.affine[:3, :3], axis=0)[: x.ndim]
    out["voxel_size"] = float(np.prod(sides) ** (1 / x.ndim))
    return out


def coarse(scan: Scan) -> np.ndarray:
    """The image at 8 mm, on a grid whose middle plane halves the foreground from left to right."""
    x, dims = scan.array[0], scan.array.ndim - 1
    extent = _spacing(scan) * x.shape
    shape = tuple(math.ceil(e / _COARSE_MM) for e in extent)
    affine = np.diag([_COARSE_MM] * dims + [1.0] * (4 - dims))
    middle = scan.grid.centre[:dims]
    axis = _LEFT_TO_RIGHT[dims]
    middle[axis] = shape_and_tone(scan)[f"centre_{'xyz'[axis]}"]
    affine[:dims, 3] = middle - (np.array(shape) - 1) / 2 * _COARSE_MM
    return resample(x, scan.grid, Grid(shape, affine))


def _halves_apart(picture: np.ndarray) -> np.ndarray:
    """How a coarse image differs from its mirror image, flattened."""
    return ((picture - np.flip(picture, _LEFT_TO_RIGHT[picture.ndim])) / 2).ravel()


def _likeness(picture: np.ndarray, mean_image: np.ndarray) -> float:
    """Correlation with the training scans' mean."""
    if picture.std() == 0 or mean_image.std() == 0:
        return 0.0
    return float(np.corrcoef(picture, mean_image)[0, 1])


def _spacing(scan: Scan) -> np.ndarray:
    return np.diag(scan.grid.affine)[: scan.array.ndim - 1]
