"""How much is read: an image by its header, before anything is allocated; files by their number."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

from metavoxel.errors import MetaVoxelError

MOST_VOXELS = 2**27  # 512 x 512 x 512: 0.5 GB as float32, and several times that at work
VARIABLE = "METAVOXEL_MOST_VOXELS"
# Of a DICOM series in a folder or a .zip: a scan has some hundred files and some hundred MB.
MOST_FILES, MOST_BYTES = 50_000, 2**32
_FILES, _BYTES = "METAVOXEL_MOST_FILES", "METAVOXEL_MOST_BYTES"


def most_voxels() -> int:
    """The bound, from the environment where it is set there. Raises MetaVoxelError."""
    return _told(VARIABLE, MOST_VOXELS)


def _told(variable: str, default: int) -> int:
    told = os.environ.get(variable, "").strip()
    if not told:
        return default
    if not told.isascii() or not told.isdecimal() or len(told) > 15 or int(told) < 1:
        raise MetaVoxelError(
            f'{variable} is "{told}". Set it to a whole number above 0, as {default}.'
        )
    return int(told)


def check_files(path: Path, sizes: Iterable[int]) -> None:
    """Raise MetaVoxelError if the files that a folder or archive holds are too many or too large.

    `sizes` are theirs in bytes, of which no more are asked for than the bounds allow.
    """
    most_files, most_bytes, held = _told(_FILES, MOST_FILES), _told(_BYTES, MOST_BYTES), 0
    for count, size in enumerate(sizes, start=1):
        held += size
        if count > most_files:
            raise MetaVoxelError(
                f"{path}: it holds more than {most_files:,} files, the most that are read. Give "
                f"one series alone; if that is right, set the environment variable {_FILES}."
            )
        if held > most_bytes:
            raise MetaVoxelError(
                f"{path}: it holds more than {most_bytes:,} bytes, the most that are read. Give "
                f"one series alone; if that is right, set the environment variable {_BYTES}."
            )


def check_voxels(path: Path, shape: Sequence[int]) -> None:
    """Raise MetaVoxelError if an image of a shape, as its header has it, is too large to read."""
    count, most = prod(int(n) for n in shape), most_voxels()
    if count > most:
        raise MetaVoxelError(
            f"{path}: its header claims {count:,} voxels ({'x'.join(map(str, shape))}); at most "
            f"{most:,} are read. If that is right, set the environment variable {VARIABLE}."
        )
