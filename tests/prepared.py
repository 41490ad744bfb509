"""A small derivative, written by the real writer: brains made from the template, at 4 mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metavoxel.data.scans import ScanFile
from metavoxel.preprocess.derivative import Outputs, describe_dataset
from metavoxel.preprocess.logs import write_status
from metavoxel.preprocess.pipeline import Prepared
from metavoxel.preprocess.recipe import Recipe
from metavoxel.preprocess.template import template_brain, template_grid, template_mask

RECIPE = Recipe(resolution=4)


def write_derivative(out: Path, count: int, failed: dict[str, str] | None = None) -> Path:
    """`count` prepared scans of sub-01, sub-02, ..., the last of them cut off at the temples and so
    the oddest; and scans that failed, with their reasons."""
    describe_dataset(out, out.parent / "raw", RECIPE)
    for number in range(1, count + 1):
        write_scan(out, f"sub-{number:02d}", odd=number == count, seed=number)
    for name, reason in (failed or {}).items():
        write_status(out, name, status="failed", reason=reason, traceback="Traceback: no")
    return out


def write_scan(out: Path, subject: str, odd: bool = False, seed: int = 0) -> Outputs:
    file = ScanFile(Path(f"{subject}_T1w.nii.gz"), subject, None, {}, "T1w")
    outputs = Outputs.of(file, out, RECIPE)
    transform = out.parent / "rigid.txt"
    transform.write_bytes(b"")
    inputs = {"scan": subject}
    prepared = brain(odd, seed)
    outputs.write(prepared, transform, f"{subject}/anat/{file.path}", inputs, RECIPE)
    write_status(out, outputs.record, status="ok", seconds=20.0 + seed, peak_memory_mb=1300)
    return outputs


def brain(odd: bool, seed: int) -> Prepared:
    grid = template_grid(RECIPE.resolution)
    mask = _stretched(template_mask(RECIPE.resolution), seed)
    if odd:
        mask[: mask.shape[0] // 3] = False
    noise = np.random.default_rng(seed).normal(0, 0.02, grid.shape)
    voxels = np.where(mask, template_brain(RECIPE.resolution) + noise, 0).clip(0, 1)
    return Prepared(voxels.astype(np.float32), mask, grid, ("already stripped",) if odd else ())


def _stretched(mask: np.ndarray, seed: int) -> np.ndarray:
    """A mask that loses a few voxels of its rim, so that no two are of one volume."""
    rim = mask & ~np.roll(mask, 1, axis=2)
    lost = np.random.default_rng(seed).random(mask.shape) < 0.05 * (seed % 7)
    return mask & ~(rim & lost)
