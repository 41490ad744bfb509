"""Does the model give its training images away? Copies among what it generates, and membership.

Generated images are smoother than real ones, which brings them nearer to everybody: a distance to
the nearest training image says little by itself. So all real images are first encoded and decoded,
as generated ones have been decoded, and three measures are taken that need no scale:

- the distance to the nearest training image over the mean distance to the K nearest (Carlini et
  al., 2023): a copy is far nearer to one than to the next. An image is flagged if this is below
  what any held-out subject shows. If it were one more held-out subject, that would happen with
  probability 1 / (m + 1), m being their number: the false-alarm rate.
- whose the nearest image is, among training and held-out subjects together. A generator that
  memorises no subject picks a training subject with probability n / (n + m).
- membership inference (`metavoxel.evaluation.membership`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.figures.images import montage
from metavoxel.evaluation.membership import (
    Progress,
    encoded,
    image_membership,
    reconstructed,
    reconstruction_membership,
)
from metavoxel.evaluation.scores import Score
from metavoxel.model import MetaVoxel

LATENT, VOXELS = "latent", "voxels"
_NEAREST = 50  # Carlini et al. (2023); half of the training images where there are fewer than 100
_PERMUTATIONS = 9999


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of every image (g,): which training image is nearest, how far, and that relative to others.

    Distances are root mean squares per element; `relative` is the nearest over the mean of the K
    nearest, below 1, and near 0 for a copy.
    """

    index: np.ndarray
    distance: np.ndarray
    relative: np.ndarray


@dataclass(frozen=True)
class Pair:
    """A generated image and its nearest training image, by index."""

    generated: int
    training: int
    distance: float
    relative: float


@dataclass(frozen=True)
class Preference:
    """The share of generated images that are nearest to a training subject, among everybody.

    `expected` is that of a generator without memorisation; `p` the chance that it shows this share
    or a larger one, over all ways to say who of these subjects trained it.
    """

    share: float
    expected: float
    p: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Generated images beside held-out subjects, in one space."""

    generated: Neighbours
    held_out: Neighbours
    preference: Preference

    @property
    def threshold(self) -> float:
        """The least relative distance of a held-out subject."""
        return float(self.held_out.relative.min())

    @property
    def false_alarm(self) -> float:
        """The chance that one more held-out subject would be flagged."""
        return 1 / (len(self.held_out.relative) + 1)

    @property
    def copies(self) -> list[Pair]:
        """The generated images that are flagged, the closest first."""
        return [p for p in self.closest() if p.relative < self.threshold]

    def closest(self, count: int | None = None) -> list[Pair]:
        """The pairs with the least relative distance, the closest first."""
        g = self.generated
        order = np.argsort(g.relative, kind="stable")[:count]
        return [
            Pair(int(i), int(g.index[i]), float(g.distance[i]), float(g.relative[i])) for i in order
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "false_alarm": self.false_alarm,
            "expected_flagged": self.false_alarm * len(self.generated.index),
            "flagged": len(self.copies),
            "copies": [vars(pair) for pair in self.copies],
            "median_distance": _medians(self.generated.distance, self.held_out.distance),
            "median_relative": _medians(self.generated.relative, self.held_out.relative),
            "nearest_is_training": vars(self.preference),
        }


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What a model gives away of one image variable's training images.

    `spaces` compares in the latent and in voxels; `membership` has the AUC of every attack.
    """

    image: str
    training: int  # how many subjects trained it
    held_out: int
    spaces: Mapping[str, Comparison]
    membership: Mapping[str, Score]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers: what is flagged, the distances in short, the AUCs."""
        return {
            "image": self.image,
            "training": self.training,
            "held_out": self.held_out,
            "spaces": {name: space.to_json() for name, space in self.spaces.items()},
            "membership_auc": {name: score.to_json() for name, score in self.membership.items()},
        }


def memorisation(
    model: MetaVoxel,
    image: str,
    training: np.ndarray,
    held_out: np.ndarray,
    generated: np.ndarray,
    seed: int,
    progress: Progress | None = None,
    mirror: int | None = None,
) -> Memorisation:
    """Look for training images (n, C, *grid) in generated ones (g, C, *grid).

    Held-out images (m, C, *grid), one a subject, show what is no copy; they must not have chosen
    the epoch. `mirror` is the spatial axis from left to right if the training flipped images: a
    mirrored copy is a copy, and every distance is then to the nearer of an image and its mirror.
    Raises MetaVoxelError if there are too few images, or if their grids differ.
    """
    _check(training, held_out, generated)
    seen = [reconstructed(model, image, x) for x in (training, held_out)]
    spaces = {}
    for name in (LATENT, VOXELS):
        of_training, of_held_out, of_generated = (
            _variants(model, image, x, name, mirror) for x in (*seen, generated)
        )
        spaces[name] = compare(of_training, of_held_out, of_generated[0], seed)
    attacks = {
        "denoiser": image_membership(model, image, training, held_out, seed, progress),
        "autoencoder": reconstruction_membership(model, image, training, held_out),
    }
    return Memorisation(image, len(training), len(held_out), spaces, attacks)


def compare(
    training: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    generated: np.ndarray,
    seed: int,
) -> Comparison:
    """Generated (g, d) beside held-out subjects, each subject given in every variant, (m, d)."""
    to_training = distances(generated, training)
    to_held_out = distances(generated, held_out)
    return Comparison(
        neighbours(to_training),
        neighbours(distances(held_out[0], training)),
        preference(to_training, to_held_out, seed),
    )


def distances(images: np.ndarray, people: Sequence[np.ndarray]) -> np.ndarray:
    """From images (g, d) to subjects, who may be shown in several variants (n, d) each: (g, n)."""
    nearest = np.minimum.reduce([cdist(images, variant) for variant in people])
    return nearest / np.sqrt(images.shape[1])


def neighbours(to_training: np.ndarray) -> Neighbours:
    """From distances (g, n)."""
    count = min(_NEAREST, max(2, to_training.shape[1] // 2))
    mean = np.partition(to_training, count - 1, axis=1)[:, :count].mean(1)
    index = to_training.argmin(1)
    distance = to_training.min(1)
    relative = np.divide(distance, mean, out=np.ones_like(mean), where=mean > 0)
    return Neighbours(index, distance, relative)


def preference(to_training: np.ndarray, to_held_out: np.ndarray, seed: int) -> Preference:
    """From distances (g, n) and (g, m), by permutation of the subjects.

    Who is generated often counts often, and the subjects are few: the labels are permuted, not the
    images, which are not independent of each other.
    """
    n, people = to_training.shape[1], to_training.shape[1] + to_held_out.shape[1]
    nearest = np.concatenate([to_training, to_held_out], axis=1).argmin(1)
    count = np.bincount(nearest, minlength=people)
    rng, share = np.random.default_rng(seed), float(count[:n].sum() / len(nearest))
    shuffled = rng.permuted(np.tile(count, (_PERMUTATIONS, 1)), axis=1)[:, :n].sum(1)
    as_large = int((shuffled >= count[:n].sum()).sum())
    return Preference(share, n / people, (as_large + 1) / (_PERMUTATIONS + 1))


def pairs_figure(
    comparison: Comparison,
    training: np.ndarray,
    generated: np.ndarray,
    count: int = 5,
    mirror: int | None = None,
) -> Figure:
    """The closest few generated images (g, C, *grid), their nearest training images (n, C, *grid)
    and the size of the difference. Under each pair is its relative distance."""
    pairs = comparison.closest(count)
    made = [generated[p.generated].mean(0) for p in pairs]
    real = [training[p.training].mean(0) for p in pairs]
    if mirror is not None:
        real = [
            min(x, np.flip(x, mirror), key=lambda y, image=image: float(np.square(y - image).sum()))
            for x, image in zip(real, made, strict=True)
        ]
    rows = {
        "generated": made,
        "nearest in training": real,
        "difference": [np.abs(a - b) for a, b in zip(made, real, strict=True)],
    }
    least = comparison.threshold
    captions = [
        f"relative {p.relative:.2f}{' (flagged)' if p.relative < least else ''}" for p in pairs
    ]
    return montage(rows, {"difference": captions})


def _variants(
    model: MetaVoxel, image: str, images: np.ndarray, space: str, mirror: int | None
) -> list[np.ndarray]:
    """The images, and their mirror images if those count as the same, in a space, (n, d) each."""
    flips = [images] if mirror is None else [images, np.flip(images, 2 + mirror).copy()]
    if space == LATENT:
        flips = [encoded(model, image, x).numpy() for x in flips]
    return [x.reshape(len(x), -1) for x in flips]


def _medians(generated: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    return {"generated": float(np.median(generated)), "held_out": float(np.median(held_out))}


def _check(training: np.ndarray, held_out: np.ndarray, generated: np.ndarray) -> None:
    least = {"training": (training, 2), "held-out": (held_out, 1), "generated": (generated, 1)}
    for name, (images, count) in least.items():
        if len(images) < count:
            raise MetaVoxelError(
                f"Memorisation needs {count} {name} image{'s' if count > 1 else ''} or more; "
                f"there are {len(images)}."
            )
        if images.shape[1:] != training.shape[1:]:
            raise MetaVoxelError(
                f"The {name} images are {images.shape[1:]}, the training images "
                f"{training.shape[1:]}. Bring them to the model's grid."
            )
