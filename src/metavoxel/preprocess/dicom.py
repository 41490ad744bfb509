"""DICOM to NIfTI by dcm2niix: a folder, a .zip or a file of one series becomes one scan."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from metavoxel.errors import MetaVoxelError
from metavoxel.files.limits import check_files
from metavoxel.files.volume import is_dicom_file, read_voxels
from metavoxel.files.wall import one_line
from metavoxel.preprocess.tools import missing

_ENDINGS = (".zip", ".dcm", ".ima")
_DEEPEST = 9  # folders below the one that is given: the most that dcm2niix looks into
_SERIES = "%j"  # dcm2niix's for the series' unique identifier: no two series share a name
_READABLE = "%s_%d"  # number and description
# What dcm2niix says, and converts all the same, where slices are absent or cannot be read.
_APART = 0.1  # voxels that a slice may lie from its place in a volume
_ROUNDING = 1e-3  # of the brightest voxel: slices may be scaled each in its own way
_GAPS = ("Interslice distance varies", "Missing images")


def is_dicom(path: Path) -> bool:
    """Whether a path is taken for DICOM: a folder, a .zip, or a file that is, whatever its name."""
    return path.is_dir() or path.suffix.lower() in _ENDINGS or is_dicom_file(path)


def from_dicom(path: Path, folder: Path) -> Path:
    """Convert a DICOM folder, .zip or file to one NIfTI file in `folder`.

    A file stands for the volume that it is part of, whose other slices lie beside it. Raises
    MetaVoxelError if there is no image, more than one series, or more than the bounds allow.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        return _series_of(path, folder)
    source = path if path.is_dir() else _unpacked(path, folder / "dicom")
    check_files(path, _sizes(source, _DEEPEST))
    found, said = _converted(source, folder / "nifti", _READABLE, "-d", str(_DEEPEST))
    if not found:
        raise MetaVoxelError(
            f"{path}: dcm2niix finds no image in it ({_gist(said)}). Give a folder of DICOM files."
        )
    if len(found) > 1:
        names = ", ".join(p.name.removesuffix(".nii.gz") for p in found[:4])
        raise MetaVoxelError(
            f"{path}: it holds {len(found)} series ({names}). Give a folder with the one meant, or "
            "one file of it."
        )
    _check_whole(said, path)
    return found[0]


def _series_of(path: Path, folder: Path) -> Path:
    """The whole volume that a single file belongs to."""
    alone, said = _converted(path, folder / "alone", _SERIES, "-s", "y")
    if not alone:
        raise MetaVoxelError(
            f"{path}: dcm2niix finds no image in it ({_gist(said)}). Give a DICOM file."
        )
    if len(alone) > 1:
        raise _untold(path, alone)
    check_files(path.parent, _sizes(path.parent, 0))
    every, said = _converted(path.parent, folder / "nifti", _SERIES, "-d", "0")
    _check_whole(said, path)
    series = re.escape(alone[0].name.removesuffix(".nii.gz").split("_")[0])
    own = [p for p in every if re.fullmatch(rf"{series}[a-z]?(_.*)?\.nii\.gz", p.name)]
    # dcm2niix parts what has several echoes, or phases, and of a file alone it does not know.
    holding = own if len(own) == 1 else [p for p in own if _holds(p, alone[0])]
    if len(holding) != 1:
        raise _untold(path, own)
    return holding[0]


def _holds(volume: Path, part: Path) -> bool:
    """Whether a slice is one of a volume's: at the same place, with the same voxels."""
    (whole, there), (slice_, here) = _upright(volume), _upright(part)
    if whole.shape[:3].count(1) or slice_.shape[:3].count(1) != 1:
        return whole.shape == slice_.shape and np.array_equal(whole, slice_)
    axis = slice_.shape.index(1)
    index = (np.linalg.inv(there) @ here)[:3, 3]
    nearest = np.round(index).astype(int)
    outside = not 0 <= nearest[axis] < whole.shape[axis] or np.delete(nearest, axis).any()
    if outside or np.abs(index - nearest).max() > _APART:
        return False
    plane, seen = whole.take(nearest[axis], axis), slice_.take(0, axis)
    if plane.shape[:2] != seen.shape[:2]:
        return False
    volumes = plane.reshape(*plane.shape[:2], -1)
    rounding = _ROUNDING * float(np.abs(seen).max())
    return bool((np.abs(volumes - seen.reshape(*seen.shape[:2], 1)).max((0, 1)) <= rounding).any())


def _upright(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels in canonical orientation, and their affine."""
    voxels, header = read_voxels(path)
    image = nib.as_closest_canonical(nib.Nifti1Image(voxels, header.affine))
    return np.asarray(image.dataobj), np.asarray(image.affine)


def _untold(path: Path, volumes: list[Path]) -> MetaVoxelError:
    names = ", ".join(p.name.removesuffix(".nii.gz") for p in volumes[:4])
    return MetaVoxelError(
        f"{path}: of the {len(volumes)} volumes of its series ({names}) it is not told which one "
        "it belongs to. Convert the series yourself, and give the one that is meant."
    )


def _sizes(folder: Path, depth: int) -> Iterator[int]:
    """The sizes (bytes) of the files in a folder and in those so many below it; of a folder 0.

    Raises MetaVoxelError.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.stat().st_size if entry.is_file() else 0
                if depth and entry.is_dir():
                    yield from _sizes(Path(entry.path), depth - 1)
    except OSError as error:
        raise MetaVoxelError(
            f"{folder}: cannot be read ({error.strerror}). Check that it may be."
        ) from None


def _unpacked(path: Path, folder: Path) -> Path:
    """What is in a .zip. Names that point elsewhere are kept inside `folder` by zipfile."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_files(path, (entry.file_size for entry in archive.infolist()))
            archive.extractall(folder)
    except MetaVoxelError:
        raise
    except Exception as error:  # of a password, an unknown compression, a name that is no name
        raise MetaVoxelError(
            f"{path}: this .zip cannot be unpacked ({one_line(error)}). Copy it again, or unpack "
            "it yourself."
        ) from None
    return folder


def _check_whole(said: str, path: Path) -> None:
    if any(gap in said for gap in _GAPS):
        raise MetaVoxelError(
            f"{path}: slices are absent, damaged or unequally far apart. Export the series again."
        )


def _converted(source: Path, out: Path, names: str, *options: str) -> tuple[list[Path], str]:
    """Run dcm2niix; the volumes it made, and what it said."""
    try:
        from dcm2niix import bin as program
    except ImportError:
        raise missing("Reading DICOM needs dcm2niix.") from None
    out.mkdir(parents=True)
    command = [program, "-z", "y", "-b", "n", "-f", names, *options, "-o", str(out), str(source)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace")
    made = [p for p in sorted(out.glob("*.nii.gz")) if "_Eq" not in p.name]  # a series' second copy
    return made, run.stdout + run.stderr


def _gist(said: str) -> str:
    """The most telling line."""
    lines = said.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if "error" in line.lower()), lines[-1]).strip()
