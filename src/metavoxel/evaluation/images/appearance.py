"""Does a generated image look like a subject's: dark outside, tissue told apart, not patchy.

Three plain measures of every image, which need no features of a network. Each is compared between
generated images and subjects who were not trained on; the training images say where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.scores import Score, over_subjects

_VISIBLE = 0.05  # intensity above which a voxel shows something
_SHARED = 0.95  # of the training images, which show something wherever tissue is compared
_PERIODS = (16.0, 8.0, 4.0)  # voxels; the bounds of the octaves of `texture`


@dataclass(frozen=True, eq=False)
class Places:
    """Where images of a training set are bright, dark and empty. All arrays are (*grid)."""

    mean: np.ndarray
    inside: np.ndarray
    outside: np.ndarray

    @classmethod
    def of(cls, training: np.ndarray, margin: int = 1) -> Places:
        """From images (n, C, *grid) in [0, 1], of several channels their mean.

        `outside` is what lies more than `margin` voxels from all that any of them shows, `inside`
        what nearly all of them show, less its rim. Raises MetaVoxelError if there is no inside.
        """
        images = training.mean(1)
        shown = (images > _VISIBLE).mean(0)
        # In voxels, in every direction: the distance of the empty ones to what anyone shows.
        outside = np.asarray(ndimage.distance_transform_cdt(shown == 0, "chessboard")) > margin
        inside = ndimage.binary_erosion(shown >= _SHARED)
        if np.count_nonzero(inside) < 3:
            raise MetaVoxelError(
                "The training images show nothing at the same place. Align them to one space, and "
                "scale them to [0, 1]."
            )
        return cls(images.mean(0), inside, outside)

    def outside_intensity(self, images: np.ndarray) -> np.ndarray:
        """Mean intensity (n,) outside, of images (n, C, *grid); NaN if there is no outside."""
        if not self.outside.any():
            return np.full(len(images), np.nan)
        return images.mean(1)[:, self.outside].mean(1)

    def contrast(self, images: np.ndarray) -> np.ndarray:
        """How far bright tissue (white matter of a T1w scan) stands from dark (grey), (n,).

        Difference of the means over the root of the mean variance, of the third of the inside that
        is brightest in the mean training image, and of the darkest third. Places are fixed: a
        threshold found in each image would call patches tissue, and call patchy images rich in
        contrast.
        """
        images, mean = images.mean(1)[:, self.inside], self.mean[self.inside]
        dark, bright = np.quantile(mean, [1 / 3, 2 / 3])
        low, high = images[:, mean <= dark], images[:, mean >= bright]
        spread = np.sqrt((low.var(1) + high.var(1)) / 2)
        return (high.mean(1) - low.mean(1)) / np.maximum(spread, 1e-6)

    def texture(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Mean square (n,) of what deviates from the mean training image inside, by its period.

        The periods are octaves of voxels; together they make up all of the mean square.
        """
        left = np.where(self.inside, images.mean(1) - self.mean, 0)
        axes = tuple(range(1, left.ndim))
        power = np.abs(np.fft.fftn(left, axes=axes, norm="ortho")) ** 2 / self.inside.sum()
        steps = np.meshgrid(*map(np.fft.fftfreq, self.mean.shape), indexing="ij")
        frequency = np.sqrt(sum(np.square(step) for step in steps))
        octave = np.digitize(frequency, [1 / period for period in _PERIODS])
        names = [f"texture_above_{_PERIODS[0]:g}"]
        names += [f"texture_{b:g}_to_{a:g}" for a, b in pairwise(_PERIODS)]
        names += [f"texture_below_{_PERIODS[-1]:g}"]
        return {name: power[:, octave == k].sum(1) for k, name in enumerate(names)}

    def measured(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """All of it of images (n, C, *grid) in [0, 1], (n,) each."""
        return {
            "outside": self.outside_intensity(images),
            "contrast": self.contrast(images),
            **self.texture(images),
        }


def appearance(
    training: np.ndarray, groups: Mapping[str, np.ndarray], margin: int = 1
) -> dict[str, dict[str, Score]]:
    """By group of images (n, C, *grid), such as generated, reconstructed and held out: the mean of
    every measure with its interval over the images. Raises MetaVoxelError."""
    places = Places.of(training, margin)
    return {
        group: {name: over_subjects(x) for name, x in places.measured(images).items()}
        for group, images in groups.items()
    }
