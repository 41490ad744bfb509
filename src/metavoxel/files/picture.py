"""Pictures: 2D images as PNG, JPEG or TIFF."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from metavoxel.errors import MetaVoxelError
from metavoxel.files.limits import check_voxels
from metavoxel.files.wall import reading

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_ORIENTATION = 0x0112  # the tag of EXIF and TIFF
_FORMATS = ("PNG", "JPEG", "TIFF")
_GREY = ("L", "I", "I;16", "I;16B", "I;16L", "F")  # read as they are; the rest becomes RGB


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


@dataclass(frozen=True)
class PictureHeader:
    """What a picture's header says: `shape` (rows, columns), and channels: 1 if grey, else 3."""

    shape: tuple[int, int]
    channels: int


def read_picture_header(path: Path) -> PictureHeader:
    """Shape and channels of a picture, without its pixels. Raises MetaVoxelError."""
    with _opened(path) as picture:
        return PictureHeader((picture.height, picture.width), 1 if _is_grey(picture) else 3)


def picture_shape(path: Path) -> tuple[int, int]:
    """Rows and columns, from the header alone. Raises MetaVoxelError."""
    return read_picture_header(path).shape


def read_picture(path: Path) -> np.ndarray:
    """Pixels (rows, columns) or (rows, columns, 3), float32. Raises MetaVoxelError.

    What shows through is black, as air is.
    """
    with _opened(path) as picture:
        picture.verify()  # the checksums, which reading the pixels does not look at
    with _opened(path) as picture:
        _check_upright(picture, path)
        if _shows_through(picture):
            whole = picture.convert("RGBA")
            picture = Picture.alpha_composite(Picture.new("RGBA", whole.size, "black"), whole)
        kept = picture if picture.mode in (*_GREY, "RGB") else picture.convert("RGB")
        return np.asarray(kept, dtype=np.float32)


def _is_grey(picture: Any) -> bool:
    return picture.mode in _GREY and not _shows_through(picture)


def _shows_through(picture: Any) -> bool:
    return "A" in picture.getbands() or "transparency" in picture.info


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with reading(path, "a picture that can be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, and of what our own bound is for
        try:
            with Picture.open(path, formats=_FORMATS) as picture:
                channels = () if picture.mode in _GREY else (len("RGBA"),)
                check_voxels(path, (picture.height, picture.width, *channels))
                _check_alone(picture, path)
                yield picture
        except Picture.DecompressionBombError:
            raise MetaVoxelError(
                f"{path}: its header claims more than {2 * (Picture.MAX_IMAGE_PIXELS or 0):,} "
                "pixels, the most that are read. Save it smaller."
            ) from None


def _check_alone(picture: Any, path: Path) -> None:
    """Raise MetaVoxelError if a file holds several pictures, of which the first would be read."""
    count = getattr(picture, "n_frames", 1) if picture.format in ("PNG", "TIFF") else 1
    if count > 1:
        raise MetaVoxelError(
            f"{path}: it holds {count} pictures; one image is wanted. Save the one that is meant "
            "alone."
        )


def _check_upright(picture: Any, path: Path) -> None:
    """Raise MetaVoxelError if a note in the file turns or mirrors its pixels: some programs heed
    it, others do not."""
    if picture.getexif().get(_ORIENTATION, 1) not in (0, 1):
        raise MetaVoxelError(
            f"{path}: its EXIF orientation turns or mirrors it, so that which side is left is not "
            "certain. Save it upright, without the orientation."
        )
