"""DICOM to NIfTI by dcm2niix: a folder, a .zip or a file of one series becomes one scan."""

from __future__ import annotations

import subprocess
import zipfile
import zlib
from pathlib import Path

from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.tools import missing

_LARGEST_ZIP = 8 * 2**30  # bytes when unpacked; a scan has some hundred MB
_SERIES = "%j"  # dcm2niix's for the series' unique identifier: no two series share a name
_READABLE = "%s_%d"  # number and description
# What dcm2niix says, and converts all the same, where slices are absent or cannot be read.
_GAPS = ("Interslice distance varies", "Missing images")


def is_dicom(path: Path) -> bool:
    """Whether a path is taken for DICOM: a folder, a .zip or a .dcm file."""
    return path.is_dir() or path.suffix.lower() in (".zip", ".dcm")


def from_dicom(path: Path, folder: Path) -> Path:
    """Convert a DICOM folder, .zip or file to one NIfTI file in `folder`.

    A file stands for its series, whose other slices lie beside it. Raises MetaVoxelError if there
    is no image, or more than one series.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        return _series_of(path, folder)
    source = path if path.is_dir() else _unpacked(path, folder / "dicom")
    if not any(p.is_file() for p in source.rglob("*")):
        raise MetaVoxelError(f"{path}: there is no file in it. Give a folder of DICOM files.")
    found, said = _converted(source, folder / "nifti", _READABLE)
    if not found:
        raise MetaVoxelError(
            f"{path}: dcm2niix finds no image in it ({_gist(said)}). Give a folder of DICOM files."
        )
    if len(found) > 1:
        names = ", ".join(p.name.removesuffix(".nii.gz") for p in found[:4])
        raise MetaVoxelError(
            f"{path}: it holds {len(found)} series ({names}). Give a folder with the one meant, or "
            "one .dcm file of it."
        )
    _check_whole(said, path)
    return found[0]


def _series_of(path: Path, folder: Path) -> Path:
    """The whole series that a single file belongs to."""
    alone, said = _converted(path, folder / "alone", _SERIES, "-s", "y")
    if not alone:
        raise MetaVoxelError(
            f"{path}: dcm2niix finds no image in it ({_gist(said)}). Give a DICOM file."
        )
    every, said = _converted(path.parent, folder / "nifti", _SERIES, "-d", "0")
    _check_whole(said, path)
    return next((p for p in every if p.name == alone[0].name), alone[0])


def _unpacked(path: Path, folder: Path) -> Path:
    """What is in a .zip. Names that point elsewhere are kept inside `folder` by zipfile."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_ZIP:
                raise MetaVoxelError(f"{path}: it is too large for a scan. Pack one series alone.")
            archive.extractall(folder)
    # Of a password RuntimeError tells, of an unknown compression NotImplementedError, its child.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise MetaVoxelError(
            f"{path}: this .zip cannot be unpacked ({error}). Copy it again, or unpack it yourself."
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
