"""DICOM to NIfTI by dcm2niix: a folder or a .zip of one series becomes one scan."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from metavoxel.errors import MetaVoxelError


def is_dicom(path: Path) -> bool:
    """Whether a path is taken for DICOM: a folder, a .zip or a .dcm file."""
    return path.is_dir() or path.suffix.lower() in (".zip", ".dcm")


def from_dicom(path: Path, folder: Path) -> Path:
    """Convert a DICOM folder, .zip or file to one NIfTI file in `folder`.

    Raises MetaVoxelError if there is no image in it, or more than one.
    """
    source = path
    if path.suffix.lower() == ".zip":
        source = folder / "dicom"
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(source)
        except (OSError, zipfile.BadZipFile) as error:
            raise MetaVoxelError(f"{path}: this .zip cannot be opened ({error}).") from None
    elif path.is_file():
        source = path.parent
    if not any(p.is_file() for p in source.rglob("*")):
        raise MetaVoxelError(f"{path}: there is no file in it. Give a folder of DICOM files.")
    out = folder / "nifti"
    out.mkdir()
    said = _dcm2niix(source, out)
    found = sorted(out.glob("*.nii.gz"))
    if not found:
        raise MetaVoxelError(f"{path}: dcm2niix finds no image in it ({said}).")
    if len(found) > 1:
        names = ", ".join(p.name.removesuffix(".nii.gz") for p in found[:4])
        raise MetaVoxelError(
            f"{path}: it holds {len(found)} series ({names}). Give a folder with the one meant."
        )
    return found[0]


def _dcm2niix(source: Path, out: Path) -> str:
    """Run dcm2niix; what it said last."""
    try:
        from dcm2niix import bin as program
    except ImportError:
        raise MetaVoxelError(
            "Reading DICOM needs dcm2niix. Install it with: pip install 'metavoxel[prep]'"
        ) from None
    command = [program, "-z", "y", "-b", "n", "-f", "%s_%d", "-o", str(out), str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    lines = (run.stdout + run.stderr).strip().splitlines()
    return lines[-1] if lines else "it said nothing"
