"""Pictures: 2D images as PNG, JPEG or TIFF."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from metavoxel.errors import MetaVoxelError
from metavoxel.files.limits import check_voxels
from metavoxel.files.wall import reading

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "TIFF")
_KEPT = ("L", "I", "I;16", "F", "RGB")


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def picture_shape(path: Path) -> tuple[int, int]:
    """Rows and columns, from the header alone. Raises MetaVoxelError."""
    with _opened(path) as picture:
        return picture.height, picture.width


def read_picture(path: Path) -> np.ndarray:
    """Pixels (rows, columns) or (rows, columns, 3), float32. Raises MetaVoxelError.

    What shows through is black, as air is.
    """
    with _opened(path) as picture:
        picture.verify()  # the checksums, which reading the pixels does not look at
    with _opened(path) as picture:
        if "A" in picture.getbands() or "transparency" in picture.info:
            whole = picture.convert("RGBA")
            picture = Picture.alpha_composite(Picture.new("RGBA", whole.size, "black"), whole)
        kept = picture if picture.mode in _KEPT else picture.convert("RGB")
        return np.asarray(kept, dtype=np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with reading(path, "a picture that can be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, and of what our own bound is for
        try:
            with Picture.open(path, formats=_FORMATS) as picture:
                check_voxels(path, (picture.height, picture.width, len(picture.getbands())))
                yield picture
        except Picture.DecompressionBombError:
            raise MetaVoxelError(f"{path}: its header claims too many pixels to be read.") from None
