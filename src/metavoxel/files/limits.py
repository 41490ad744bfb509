"""How large an image may be that is read: refused by its header, before anything is allocated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

from metavoxel.errors import MetaVoxelError

MOST_VOXELS = 2**27  # 512 x 512 x 512: 0.5 GB as float32, and several times that at work
VARIABLE = "METAVOXEL_MOST_VOXELS"


def most_voxels() -> int:
    """The bound, from the environment where it is set there. Raises MetaVoxelError."""
    told = os.environ.get(VARIABLE, "").strip()
    if not told:
        return MOST_VOXELS
    if not told.isascii() or not told.isdecimal() or len(told) > 15 or int(told) < 1:
        raise MetaVoxelError(f'{VARIABLE} is "{told}". Set it to a number of voxels, as 268435456.')
    return int(told)


def check_voxels(path: Path, shape: Sequence[int]) -> None:
    """Raise MetaVoxelError if an image of a shape, as its header has it, is too large to read."""
    count, most = prod(int(n) for n in shape), most_voxels()
    if count > most:
        raise MetaVoxelError(
            f"{path}: its header claims {count:,} voxels ({'x'.join(map(str, shape))}); at most "
            f"{most:,} are read. If that is right, set the environment variable {VARIABLE}."
        )
