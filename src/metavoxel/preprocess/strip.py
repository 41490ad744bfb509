"""Skull stripping: different tools behind one small protocol.

A stripper finds the brain in a whole-head volume. To add one, write a class with these two methods
and give it a name in STRIPPERS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
import torch

from metavoxel.data.images import Grid, read_volume_mask
from metavoxel.errors import MetaVoxelError
from metavoxel.files.text import read_text
from metavoxel.preprocess.tools import missing, tool_version

# Of 149 subjects of IXI the smallest head has 4,300 mL above 0, the largest brain 2,000 mL.
_LARGEST_BRAIN_ML = 2200.0
_UNKNOWN = "unknown version"


class Stripper(Protocol):
    """Finds the brain."""

    def tools(self) -> dict[str, str]:
        """Name and version of what does the work. Raises MetaVoxelError if it is not installed."""
        ...

    def brain(self, head: np.ndarray, grid: Grid) -> np.ndarray:
        """Which voxels are brain; head (x, y, z) in canonical orientation, bool of that shape."""
        ...


class DeepBet:
    """deepbet (Fisch et al. 2024): a 3D network whose weights ship with the package. MIT."""

    threshold = 0.5

    def tools(self) -> dict[str, str]:
        return {"deepbet": tool_version("deepbet", "Skull stripping needs deepbet.")}

    def brain(self, head: np.ndarray, grid: Grid) -> np.ndarray:
        try:
            from deepbet import BrainExtraction
        except ImportError:
            raise missing("Skull stripping needs deepbet.") from None
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
    """A program that reads a NIfTI file and writes a mask beside others, `mask`."""

    def __init__(
        self,
        program: str,
        known_version: Callable[[], str],
        arguments: Callable[[Path, Path], list[str]],
        mask: str,
    ):
        self.program, self.known_version = program, known_version
        self.arguments, self.mask = arguments, mask

    def tools(self) -> dict[str, str]:
        self._path()
        return {self.program: self.known_version()}

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
            try:
                return read_volume_mask(mask, grid)
            except MetaVoxelError as error:
                raise MetaVoxelError(f"{self.program} gave no mask. {error}") from None

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


class GivenMask:
    """A mask that somebody has made before, on the grid of the scan's file, `there`."""

    def __init__(self, path: Path | None = None, there: Grid | None = None):
        self.path, self.there = path, there

    def tools(self) -> dict[str, str]:
        return {}

    def brain(self, head: np.ndarray, grid: Grid) -> np.ndarray:
        if self.path is None:
            raise MetaVoxelError("no mask was given. Name the folder of the masks with --masks.")
        return read_volume_mask(self.path, self.there or grid)


def _hd_bet() -> Stripper:
    """HD-BET 2 (Isensee et al. 2019). Has no --version, and wants a GPU unless told."""

    def arguments(source: Path, target: Path) -> list[str]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return ["-i", str(source), "-o", str(target), "-device", device, "--save_bet_mask"]

    return Command("hd-bet", _version_of_hd_bet, arguments, "brain_bet.nii.gz")


def _version_of_hd_bet() -> str:
    try:
        return version("hd-bet")
    except PackageNotFoundError:  # it lives in an environment of its own
        return _UNKNOWN


def _synthstrip() -> Stripper:
    """SynthStrip (Hoopes et al. 2022), of FreeSurfer 7.3 or later. On the CPU."""

    def arguments(source: Path, target: Path) -> list[str]:
        return ["-i", str(source), "-m", str(target)]

    return Command("mri_synthstrip", _version_of_freesurfer, arguments, "brain.nii.gz")


def _version_of_freesurfer() -> str:
    stamp = Path(os.environ.get("FREESURFER_HOME", ""), "build-stamp.txt")
    return read_text(stamp).strip()[:80] if stamp.is_file() else _UNKNOWN


STRIPPERS: Mapping[str, Callable[[], Stripper]] = {
    "deepbet": DeepBet,
    "hd-bet": _hd_bet,
    "synthstrip": _synthstrip,
    "mask": GivenMask,
    "none": AlreadyStripped,
}


def is_stripped(head: np.ndarray, grid: Grid) -> bool:
    """Whether a volume is a brain alone: air is exactly 0 and what is not is no larger than one."""
    foreground = head > 0
    millilitres = foreground.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1000
    return bool(foreground.mean() < 0.5 and millilitres < _LARGEST_BRAIN_ML)
