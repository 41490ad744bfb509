"""The whole head of a prepared scan on the template's grid: what the mask has cut off."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

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
    found = sorted(folder.glob(f"{name}_from-{scan.suffix}_to-*_xfm.*"))
    if len(found) != 1:
        raise MetaVoxelError(f"{folder}: there is no transform of {scan.name}. Prepare it again.")
    try:
        to_raw = read_rigid(found[0])
    except (RuntimeError, ValueError):  # ITK's, which says it in paragraphs
        raise MetaVoxelError(
            f"{found[0]}: the transform cannot be read. Prepare the scan again."
        ) from None
    voxels, there = read_volume(raw)
    moved = Grid(there.shape, np.linalg.inv(to_raw) @ there.affine)
    head = resample(voxels.clip(0), moved, grid)
    bright = head[head > head.mean()]
    return (head / np.percentile(bright, _BRIGHTEST)).clip(0, 1) if bright.size else head


def _raw_file(out: Path, scan: ScanSummary) -> Path:
    """The raw scan, from DatasetLinks and Sources."""
    try:
        links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
        link = urlsplit(links["raw"])
    except (OSError, ValueError, LookupError, TypeError):
        raise MetaVoxelError(
            f"{out / 'dataset_description.json'}: it does not say where the raw dataset is."
        ) from None
    if link.scheme != "file" or not scan.source.startswith("bids:raw:"):
        raise MetaVoxelError(f"{scan.name}: where its raw scan lies is not written down.")
    root = Path(unquote(link.path))
    return root / scan.source.removeprefix("bids:raw:")
