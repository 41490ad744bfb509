"""Raw scans for tests: moved copies of the template's brain, and what is no brain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from folders import read_nifti, write_nifti
from metavoxel.preprocess.template import template_brain, template_grid

MM = 4.0


def moved(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    """A rigid transform (4, 4) of world coordinates: degrees about x, y, z, then millimetres."""
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    out[:3, 3] = shift
    return out


def write_brain(path: Path, move: np.ndarray, seed: int = 0) -> Path:
    """The template's brain at 4 mm, with a little noise of its own, where `move` takes it.

    It is stripped, so that no network needs to find it: a second or two of work in place of ten.
    """
    brain = template_brain(MM)
    noise = np.random.default_rng(seed).normal(0, 0.02, brain.shape)
    brain = np.where(brain > 0.1, brain + noise, 0).clip(0)
    return write_nifti(path, (brain * 800).astype(np.int16), move @ template_grid(MM).affine)


def write_sphere(path: Path, radius: float = 60.0) -> Path:
    """A phantom bottle: bright, round, with the volume of a brain."""
    grid = template_grid(MM)
    away = np.moveaxis(np.indices(grid.shape), 0, -1) * MM - (np.array(grid.shape) - 1) / 2 * MM
    inside = np.linalg.norm(away, axis=-1) < radius
    return write_nifti(path, (inside * 500).astype(np.int16), grid.affine)


def metavoxel(place: Path, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start `metavoxel ARGUMENTS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "metavoxel", *map(str, arguments)],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(place: Path, *arguments: str | Path, **options: Any) -> tuple[int, str]:
    """Run `metavoxel ARGUMENTS`; its status and what it said on stderr."""
    process = metavoxel(place, *arguments, **options)
    _, said = process.communicate()
    return process.returncode, said


def brain_of(out: Path, record: str, suffix: str = "T1w") -> Path:
    """The prepared brain of a record, such as sub-01 or sub-01_ses-1."""
    (path,) = out.glob(f"sub-*/**/{record}_space-*_desc-brain_{suffix}.nii.gz")
    return path


def sidecar_of(out: Path, record: str) -> dict[str, Any]:
    """What the sidecar of a record's brain says."""
    brain = brain_of(out, record)
    return json.loads(brain.with_name(brain.name.replace(".nii.gz", ".json")).read_text())


def voxels(path: Path) -> np.ndarray:
    return read_nifti(path)[0]


def write_series(
    folder: Path, array: np.ndarray, affine: np.ndarray, number: int = 1, name: str = "T1w"
) -> Path:
    """A DICOM series of axial slices, as a scanner would store it, of an RAS volume (x, y, z)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"series{number}-{k:04d}.dcm"
        slice_ = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID = meta.MediaStorageSOPClassUID
        slice_.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        slice_.Modality, slice_.Manufacturer = "MR", "Philips"
        slice_.PatientID, slice_.PatientName, slice_.StudyID = "1", "Nobody", "1"
        slice_.StudyDate, slice_.StudyTime = "20260101", "120000"
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID = study, series
        slice_.FrameOfReferenceUID = frame
        slice_.SeriesNumber, slice_.InstanceNumber, slice_.AcquisitionNumber = number, k + 1, 1
        slice_.SeriesDescription, slice_.ProtocolName = name, name
        slice_.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
        slice_.Rows, slice_.Columns = array.shape[1], array.shape[0]
        slice_.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        slice_.SliceThickness = slice_.SpacingBetweenSlices = float(spacing[2])
        slice_.ImageOrientationPatient = [float(x) for x in (*axes[:, 0], *axes[:, 1])]
        slice_.ImagePositionPatient = [float(x) for x in (lps @ [0, 0, k, 1])[:3]]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 0
        slice_.PixelData = array[:, :, k].T.astype(np.uint16).tobytes()
        slice_.save_as(path, enforce_file_format=True)
    return folder
