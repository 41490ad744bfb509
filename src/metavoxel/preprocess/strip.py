"""Skull stripping: different tools behind one small protocol.

A stripper finds the brain in a whole-head volume. To add one, write a class with these two methods
and give it a name in STRIPPERS.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
import torch

from metavoxel.data.images import Grid, read_volume
from metavoxel.errors import MetaVoxelError

# Of 149 people of IXI the smallest head has 4,300 mL above 0, the largest brain 2,000 mL.
_LARGEST_BRAIN_ML = 2200.0


class Stripper(Protocol):
    """Finds the brain."""

    def tools(self) -> dict[str, str]:
        """Name and version of what does the work."""
        ...

    def brain(self, head: np.ndarray, grid: Grid) -> np.ndarray:
        """Which voxels are brain; head (x, y, z) in canonical orientation, bool of that shape."""
        ...


class DeepBet:
    """deepbet (Fisch et al. 2024): a 3D network whose weights ship with the package. MIT."""

    threshold = 0.5

    def tools(self) -> dict[str, str]:
        return {"deepbet": version("deepbet")}

    def brain(self, head: np.ndarray, grid: Grid) -> np.ndarray:
        from deepbet import BrainExtraction

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the same voxels whatever runs beside
        try:
            network = BrainExtraction(no_gpu=True)
            mask = network.run_model(head.astype(np.float32)) > self.threshold
            return np.asarray(network.postprocess(mask), dtype=bool)
        except (AssertionError, ValueError):  # what it raises when it sees no foreground
            raise MetaVoxelError("deepbet finds no brain in the scan. Look at it.") from None
        finally:
            torch.set_num_threads(threads)


class Command:
    """A program that reads a NIfTI file and writes a mask."""

    def __init__(self, program: str, arguments: Callable[[Path, Path], list[str]], mask: str):
        self.program, self.arguments, self.mask = program, arguments, mask

    def tools(self) -> dict[str, str]:
        said = subprocess.run([self._path(), "--version"], capture_output=True, text=True)
        return {self.program: (said.stdout or said.stderr).strip().splitlines()[-1:][0][:80]}

    def brain(self, head: np.ndarray, grid: Grid) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "head.nii.gz"), Path(folder, "brain.nii.gz")
            nib.save(nib.Nifti1Image(head.astype(np.float32), grid.affine), source)
            run = subprocess.run(
                [self._path(), *self.arguments(source, target)], capture_output=True, text=True
            )
            mask = Path(folder, self.mask)
            if run.returncode or not mask.is_file():
                reason = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["no reason given"]
                raise MetaVoxelError(f"{self.program} failed: {reason[0]}")
            return np.asarray(nib.load(mask).dataobj) > 0.5  # type: ignore[union-attr]

    def _path(self) -> str:
        path = shutil.which(self.program)
        if path is None:
            raise MetaVoxelError(
                f"{self.program} is not installed. Install it, or strip with deepbet."
            )
        return path


class AlreadyStripped:
    """The brain is what is not 0."""

    def tools(self) -> dict[str, str]:
        return {}

    def brain(self, head: np.ndarray, grid: Grid) -> np.ndarray:
        return head > 0


def _hd_bet() -> Stripper:
    return Command(
        "hd-bet",
        lambda source, target: ["-i", str(source), "-o", str(target), "--save_bet_mask"],
        "brain_bet.nii.gz",
    )


def _synthstrip() -> Stripper:
    return Command(
        "mri_synthstrip",
        lambda source, target: ["-i", str(source), "-m", str(target)],
        "brain.nii.gz",
    )


STRIPPERS: Mapping[str, Callable[[], Stripper]] = {
    "deepbet": DeepBet,
    "hd-bet": _hd_bet,
    "synthstrip": _synthstrip,
    "mask": AlreadyStripped,  # the given mask has been applied before
    "none": AlreadyStripped,
}


def is_stripped(head: np.ndarray, grid: Grid) -> bool:
    """Whether a volume is a brain alone: air is exactly 0 and what is not is no larger than one."""
    foreground = head > 0
    millilitres = foreground.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1000
    return bool(foreground.mean() < 0.5 and millilitres < _LARGEST_BRAIN_ML)


def apply_mask(head: np.ndarray, grid: Grid, path: Path) -> np.ndarray:
    """The volume with everything outside a given mask set to 0. Raises MetaVoxelError."""
    mask, there = read_volume(path)
    if mask.shape != head.shape or not np.allclose(there.affine, grid.affine, atol=1e-3):
        raise MetaVoxelError(
            f"{path}: the mask does not lie on the scan's grid. Resample it to the scan."
        )
    return np.where(mask > 0, head, 0)
