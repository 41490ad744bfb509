"""How much may be asked for at once: what is beyond is refused before anything is computed."""

from __future__ import annotations

import operator
import os
from math import prod

from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image

MOST_SAMPLES = 100_000
MOST_RESAMPLINGS = 1000
_SEEDS = 2**63
_COPIES = 2  # of the images in memory: as they are drawn, and put together


def check_samples(samples: object, least: int = 0) -> int:
    """A number of samples. Raises MetaVoxelError if it is none, or too many."""
    count = _whole("samples", samples)
    if count < least:
        raise MetaVoxelError(f"samples is {count}; ask for {least} or more.")
    if count > MOST_SAMPLES:
        raise MetaVoxelError(
            f"samples is {count:,}; at most {MOST_SAMPLES:,} are drawn at once. Ask for fewer, and "
            "again with another seed."
        )
    return count


def check_seed(seed: object) -> int:
    """A seed. Raises MetaVoxelError."""
    number = _whole("seed", seed)
    if not 0 <= number < _SEEDS:
        raise MetaVoxelError("A seed is a whole number from 0 to 2^63 - 1. Choose such a one.")
    return number


def check_memory(samples: int, kind: Image, images: int = 1) -> None:
    """Raise MetaVoxelError if so many samples of `images` images do not fit into memory."""
    needed = 4 * _COPIES * samples * images * kind.channels * prod(kind.shape)
    there = memory()
    if there is not None and needed > there:
        shape = "x".join(map(str, kind.shape))
        raise MetaVoxelError(
            f"{samples:,} samples of {shape} voxels take {needed / 1e9:,.0f} GB of memory; this "
            f"machine has {there / 1e9:,.0f} GB. Ask for fewer, and again with another seed."
        )


def memory() -> int | None:
    """The bytes of memory that the machine has, where the system says so."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return None


def _whole(name: str, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]  # its TypeError is the answer
    except TypeError:
        raise MetaVoxelError(f'{name} is "{value}". Give a whole number.') from None
