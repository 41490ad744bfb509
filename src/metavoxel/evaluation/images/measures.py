"""Distances between a generated and a real set of images, from the features of their slices.

Features are (n, s, d): n images, s slices of a plane, d numbers. The unit is the image: its slices
are alike, so every interval resamples or leaves out whole images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import t as student

from metavoxel.evaluation.scores import Bootstrap, Score

Features = Mapping[str, np.ndarray]  # (n, s, d) by plane
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]

_GROUPS = 10  # of images, left out in turn
_RESAMPLES = 500
_NEIGHBOURS = 3  # Kynkaanniemi et al. (2019)
_MEDIAN_OF = 2000  # slices whose distances give the bandwidth


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to x (n, d) and y (m, d) (Heusel et al., 2017).

    tr (S_x S_y)^1/2 is the sum of the singular values of S_x^1/2 S_y^1/2, and of X Y^T for centred
    X, Y: real also where the covariances are singular, where MONAI's FIDMetric takes the root of a
    matrix that has none and adds 1e-6 to it, or is complex.
    """
    xc, yc = x - x.mean(0), y - y.mean(0)
    a, b = _root(xc), _root(yc)
    trace = np.linalg.norm(xc) ** 2 / (len(x) - 1) + np.linalg.norm(yc) ** 2 / (len(y) - 1)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + trace - 2 * overlap)


def _root(centred: np.ndarray) -> np.ndarray:
    """A with A^T A the covariance of the centred rows, in as few rows as there can be."""
    n, d = centred.shape
    if n <= d:
        return centred / np.sqrt(n - 1)
    values, vectors = np.linalg.eigh(centred.T @ centred / (n - 1))
    return np.sqrt(values.clip(0))[:, None] * vectors.T


def frechet_distance(generated: Features, real: Features) -> tuple[Score, dict[str, float]]:
    """Frechet distance of each plane's slices and its mean over the planes.

    It is called FID of the features of an Inception network alone. Few images raise it: compare
    figures of equal n and m only, and with the floor. The interval is of a jackknife over groups of
    images; a bootstrap's repeated images would raise it once more.
    """
    planes = {p: frechet(_rows(generated[p]), _rows(real[p])) for p in real}

    def mean(g: np.ndarray | None, r: np.ndarray | None) -> float:
        sides = ((generated[p] if g is None else generated[p][g], real[p]) for p in real)
        if r is not None:
            sides = ((generated[p], real[p][r]) for p in real)
        return float(np.mean([frechet(_rows(x), _rows(y)) for x, y in sides]))

    n, m = (len(next(iter(f.values()))) for f in (generated, real))
    variance = _jackknife(lambda kept: mean(kept, None), n)
    variance += _jackknife(lambda kept: mean(None, kept), m)
    value = float(np.mean(list(planes.values())))
    half = float(student.ppf(0.975, _GROUPS - 1)) * np.sqrt(variance)
    return Score(value, max(0.0, value - half), value + half, n), planes


def _jackknife(statistic: Callable[[np.ndarray], float], n: int) -> float:
    """Variance of a statistic of n images, from leaving a group of them out in turn."""
    groups = min(_GROUPS, n)
    label = np.arange(n) % groups
    values = np.array([statistic(np.flatnonzero(label != g)) for g in range(groups)])
    return float((groups - 1) * values.var())


@dataclass(frozen=True, eq=False)
class Similarity:
    """Mean kernel between the slices of every two images: within the generated (n, n), within the
    real (m, m), and across (n, m)."""

    generated: np.ndarray
    real: np.ndarray
    across: np.ndarray

    @classmethod
    def of(cls, generated: np.ndarray, real: np.ndarray, kernel: Kernel) -> Similarity:
        """Of one plane's features (n, s, d) and (m, s, d)."""
        return cls(*(_blocks(x, y, kernel) for x, y in _sides(generated, real)))

    def discrepancy(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Unbiased squared MMD (Gretton et al., 2012, Lemma 6) of images counted w (b, n) and
        v (b, m) times, shape (b,). An image is never compared with itself: its slices are not
        independent, and with them in, equal sets would not be at 0."""
        across = ((w @ self.across) * v).sum(1) / (w.sum(1) * v.sum(1))
        return _apart(self.generated, w) + _apart(self.real, v) - 2 * across

    @cached_property
    def value(self) -> float:
        n, m = self.across.shape
        return float(self.discrepancy(np.ones((1, n)), np.ones((1, m)))[0])


def _sides(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x, x), (y, y), (x, y)]


def _apart(kernel: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean kernel between different images (n, n) under counts w (b, n)."""
    off = kernel - np.diag(np.diag(kernel))
    return ((w @ off) * w).sum(1) / (w.sum(1) ** 2 - (w**2).sum(1))


def _blocks(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Mean kernel between the slices of each image of x (n, s, d) and of y (m, r, d): (n, m)."""
    columns, r = _rows(y), y.shape[1]
    return np.stack([kernel(a, columns).mean(0).reshape(-1, r).mean(1) for a in x])


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (Binkowski et al., 2018): (x . y / d + 1)^3."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(bandwidth: float) -> Kernel:
    """exp(-|x - y|^2 / (2 bandwidth^2)).

    MONAI's MMDMetric has the kernel x . y alone, which sees means only, and wants n = m.
    """
    return lambda x, y: np.exp(-cdist(x, y, "sqeuclidean") / (2 * bandwidth**2))


def median_distance(real: np.ndarray) -> float:
    """The median heuristic: median distance of two different slices of the real (m, s, d)."""
    rows = _rows(real)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MEDIAN_OF)).astype(int)]
    return float(np.median(cdist(rows, rows)[np.triu_indices(len(rows), 1)])) or 1.0


def mmd(generated: Features, real: Features, seed: int) -> tuple[Score, dict[str, float]]:
    """Unbiased squared MMD of a Gaussian kernel as wide as the real slices are apart."""
    return _discrepancy(generated, real, lambda y: gaussian(median_distance(y)), seed)


def kid(generated: Features, real: Features, seed: int) -> tuple[Score, dict[str, float]]:
    """KID: unbiased squared MMD of the cubic kernel. It may fall below 0 where sets are alike."""
    return _discrepancy(generated, real, lambda _: cubic, seed)


def _discrepancy(
    generated: Features, real: Features, kernel_for: Callable[[np.ndarray], Kernel], seed: int
) -> tuple[Score, dict[str, float]]:
    """Mean over the planes, with a bootstrap over the images of both sets, and every plane's."""
    planes = {p: Similarity.of(generated[p], y, kernel_for(y)) for p, y in real.items()}
    n, m = next(iter(planes.values())).across.shape
    rng = np.random.default_rng(seed)
    w, v = (rng.multinomial(k, np.full(k, 1 / k), size=_RESAMPLES).astype(float) for k in (n, m))
    with np.errstate(invalid="ignore"):  # a resample of one image alone has no pairs
        drawn = np.mean([s.discrepancy(w, v) for s in planes.values()], axis=0)
    values = {p: s.value for p, s in planes.items()}
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Score(float(np.mean(list(values.values()))), float(low), float(high), n), values


def precision_recall(generated: Features, real: Features, seed: int) -> tuple[Score, Score]:
    """Improved precision and recall (Kynkaanniemi et al., 2019) of whole images.

    An image is its slices' features side by side: in registered brains a slice index is a place,
    and the mean over slices would forget which place was wrong. Intervals are over the images that
    are counted, the other set as it is.
    """
    x, y = _wholes(generated), _wholes(real)
    across = cdist(x, y)
    precision = (across <= _radii(y)).any(1).astype(float)
    recall = (across <= _radii(x)[:, None]).any(0).astype(float)
    return _share(precision, seed), _share(recall, seed)


def _radii(x: np.ndarray) -> np.ndarray:
    """Distance of every row to its third nearest other."""
    k = min(_NEIGHBOURS, len(x) - 1)
    return np.partition(cdist(x, x), k, axis=1)[:, k]


def _share(hits: np.ndarray, seed: int) -> Score:
    return Bootstrap([str(i) for i in range(len(hits))], seed).share(hits)


def _wholes(features: Features) -> np.ndarray:
    return np.concatenate([f.reshape(len(f), -1) for f in features.values()], axis=1)


def _rows(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])
