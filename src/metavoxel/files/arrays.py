"""Arrays of our own making as .npy and .npz: numbers alone, no pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metavoxel.files.wall import reading


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz, by name. Raises MetaVoxelError."""
    with reading(path, "arrays (.npz)"), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def map_array(path: Path) -> np.memmap:
    """An .npy, mapped from disk; writes change memory alone. Raises MetaVoxelError."""
    with reading(path, "an array (.npy)"):
        return np.load(path, mmap_mode="c", allow_pickle=False)
