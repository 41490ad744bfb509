"""What a slice is described by before two sets of images are compared.

A distance between sets of images says as much as its features do, so each extractor has a name and
a version, and both go into every output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import Tensor

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.images.gist import Gist
from metavoxel.evaluation.images.pretrained import imagenet, radimagenet


class Extractor(Protocol):
    """Features of slices. `version` changes whenever the same slice would get other features."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def __call__(self, slices: Tensor) -> np.ndarray:
        """Features (n, d) float64 of slices (n, 1, H, W) in [0, 1]."""
        ...


EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    "gist": Gist,
    "imagenet": imagenet,
    "radimagenet": radimagenet,
}


def as_extractor(extractor: Extractor | str) -> Extractor:
    """The extractor of that name, or the one given.

    Raises MetaVoxelError for an unknown name, or weights that cannot be had.
    """
    if not isinstance(extractor, str):
        return extractor
    if extractor not in EXTRACTORS:
        raise MetaVoxelError(
            f"There is no feature extractor {extractor!r}. Choose one of: {', '.join(EXTRACTORS)}."
        )
    return EXTRACTORS[extractor]()
