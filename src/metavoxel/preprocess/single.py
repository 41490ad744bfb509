"""One raw scan, prepared as a model's training scans were."""

from __future__ import annotations

from pathlib import Path

from metavoxel.data.scans import ScanFile
from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import check_is_file
from metavoxel.preprocess.cohort import Job, run_subject
from metavoxel.preprocess.derivative import Outputs, describe_dataset
from metavoxel.preprocess.dicom import from_dicom, is_dicom
from metavoxel.preprocess.recipe import Recipe


def prepare_scan(raw: Path, recipe: Recipe, folder: Path, suffix: str = "T1w") -> Path:
    """Prepare a raw scan (NIfTI, or DICOM as a folder, .zip or file); the brain's file in `folder`.

    The same code as for a cohort, and the same voxels. Raises MetaVoxelError if it fails.
    """
    if not raw.is_dir():
        check_is_file(raw)
    if recipe.skull_strip == "mask":
        raise MetaVoxelError(
            f"{raw}: the model's training scans were stripped by masks that were given, so that a "
            "raw scan cannot be prepared alike here. Prepare it with metavoxel preprocess --masks."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = from_dicom(raw, folder) if is_dicom(raw) else raw
    scan = ScanFile(path, "sub-asked", None, {}, suffix)
    out = folder / "prepared"
    describe_dataset(out, path.parent, recipe)
    (outcome,) = run_subject(Job((scan,), path.parent, out, recipe))
    if outcome.status == "failed":
        raise MetaVoxelError(outcome.reason.replace(str(path), str(raw)))
    return Outputs.of(scan, out, recipe).brain
