"""The whole head of a prepared scan on the template's grid: what the mask has cut off."""

from __future__ import annotations

from glob import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from metavoxel.data.description import DESCRIPTION, read_description
from metavoxel.data.images import Grid, read_volume, resample
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.group import ScanSummary
from metavoxel.preprocess.itk import read_rigid

_BRIGHTEST = 99.5  # percentile of what is not air


def read_head(out: Path, scan: ScanSummary, grid: Grid) -> np.ndarray:
    """The raw scan in [0, 1] on the prepared one's grid, by the transform that preparation saved.

    Raises MetaVoxelError where the raw dataset or the transform is not there.
    """
    raw = _raw_file(out, scan)
    if not raw.is_file():
        raise MetaVoxelError(f"{raw}: the raw scan is not there, so its head cannot be shown.")
    folder = scan.brain.parent if scan.brain else out
    name = scan.name.removesuffix(f"_{scan.suffix}")
    found = sorted(folder.glob(f"{escape(name)}_from-{scan.suffix}_to-*_xfm.*"))
    if len(found) != 1:
        raise MetaVoxelError(f"{folder}: there is no transform of {scan.name}. Prepare it again.")
    to_raw = read_rigid(found[0])
    voxels, there = read_volume(raw)
    moved = Grid(there.shape, np.linalg.inv(to_raw) @ there.affine)
    head = resample(voxels.clip(0), moved, grid)
    bright = head[head > head.mean()]
    return (head / np.percentile(bright, _BRIGHTEST)).clip(0, 1) if bright.size else head


def _raw_file(out: Path, scan: ScanSummary) -> Path:
    """The raw scan, from DatasetLinks and Sources. It lies in the raw dataset, also if it is a
    link: a derivative that somebody has sent may name any file."""
    links = (read_description(out) or {}).get("DatasetLinks")
    link = urlsplit(str(links.get("raw", "")) if isinstance(links, dict) else "")
    if link.scheme != "file":
        raise MetaVoxelError(f"{out / DESCRIPTION}: it does not say where the raw dataset is.")
    name = scan.source.removeprefix("bids:raw:")
    if name == scan.source or not name.startswith("sub-"):
        raise MetaVoxelError(f"{scan.name}: where its raw scan lies is not written down.")
    root = Path(unquote(link.path))
    raw = root / name
    if not raw.resolve().is_relative_to(root.resolve()):
        raise MetaVoxelError(f"{raw}: it does not lie in the raw dataset, so it is not shown.")
    return raw
