"""The BIDS derivative that preparation writes: names, sidecars, and whether a scan is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from metavoxel.data.bids import ScanFile
from metavoxel.data.images import Grid, read_volume
from metavoxel.errors import MetaVoxelError
from metavoxel.files.writing import atomic_write
from metavoxel.preprocess.measures import measures
from metavoxel.preprocess.pipeline import Prepared
from metavoxel.preprocess.recipe import Recipe
from metavoxel.version import __version__

LOGS, DESCRIPTION = "logs", "dataset_description.json"
# What BIDS has no names for: our own logs and reports, and transforms (a proposal, BEP 14, whose
# names these are; fMRIPrep keeps its own out of the validator's sight in the same way).
_NOT_BIDS = (f"{LOGS}/", "qc.tsv", "group_*", "report*", "*_xfm.txt")
_LEVELS = 255  # brains are stored as 8 bit: finer than their noise, and a quarter of the size


@dataclass(frozen=True)
class Outputs:
    """Where one prepared scan stands. The sidecar is written last: where it is, all of it is."""

    folder: Path
    name: str  # entities of the raw scan, as sub-01_ses-a
    suffix: str
    template: str
    resolution: float

    @classmethod
    def of(cls, scan: ScanFile, out: Path, recipe: Recipe) -> Outputs:
        visit = [scan.subject, *([scan.session] if scan.session else [])]
        entities = [f"{k}-{x}" for k, x in scan.entities.items()]
        folder = out.joinpath(*visit, "anat")
        return cls(
            folder, "_".join(visit + entities), scan.suffix, recipe.template, recipe.resolution
        )

    @property
    def record(self) -> str:
        return f"{self.name}_{self.suffix}"

    @property
    def brain(self) -> Path:
        return self.folder / f"{self._placed}_desc-brain_{self.suffix}.nii.gz"

    @property
    def sidecar(self) -> Path:
        return self.folder / f"{self._placed}_desc-brain_{self.suffix}.json"

    @property
    def mask(self) -> Path:
        return self.folder / f"{self._placed}_desc-brain_mask.nii.gz"

    @property
    def transform(self) -> Path:
        ways = f"from-{self.suffix}_to-{self.template}_mode-image_xfm.txt"
        return self.folder / f"{self.name}_{ways}"

    @property
    def _placed(self) -> str:
        return f"{self.name}_space-{self.template}_res-{self.resolution:g}".replace(".", "p")

    def remove(self) -> None:
        """Take away what stands there: it is of another scan, or of another recipe."""
        for path in (self.sidecar, self.brain, self.mask, self._mask_sidecar, self.transform):
            path.unlink(missing_ok=True)

    def write(
        self,
        prepared: Prepared,
        transform: Path,
        source: str,
        inputs: Mapping[str, Any],
        recipe: Recipe,
    ) -> None:
        """Write brain, mask, transform and sidecars. Raises MetaVoxelError."""
        shared = {
            "Sources": [f"bids:raw:{source}"],
            "Resolution": f"{recipe.resolution:g} mm isotropic",
        }
        facts = {
            "Inputs": inputs,
            "Recipe": recipe.declaration(),
            "Notes": prepared.notes,
            "Measures": measures(prepared.brain, prepared.mask, prepared.grid),
        }
        _save(prepared.brain, prepared.grid.affine, self.brain, 1 / _LEVELS)
        _save(prepared.mask.astype(np.float32), prepared.grid.affine, self.mask, 1.0)
        with atomic_write(self.transform) as temporary:
            shutil.copyfile(transform, temporary)
        write_json(self._mask_sidecar, {"Type": "Brain", **shared})
        write_json(self.sidecar, {"SkullStripped": True, **shared, "MetaVoxel": facts})

    def volume(self) -> tuple[np.ndarray, Grid]:
        """The brain that was written, and where it lies."""
        return read_volume(self.brain)

    @property
    def _mask_sidecar(self) -> Path:
        return self.mask.with_name(self.mask.name.replace(".nii.gz", ".json"))

    def read(self) -> dict[str, Any] | None:
        """What the sidecar says; None where the scan is not done, or not whole."""
        if not (self.brain.is_file() and self.mask.is_file() and self.transform.is_file()):
            return None
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.sidecar.read_text())["MetaVoxel"]
        return None


def _save(voxels: np.ndarray, affine: np.ndarray, path: Path, slope: float) -> None:
    image = nib.Nifti1Image(np.round(voxels / slope).astype(np.uint8), affine)
    image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=4)  # 4: in MNI152 space
    image.set_qform(affine, code=4)
    with atomic_write(path) as temporary:
        nib.save(image, temporary)


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises MetaVoxelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MetaVoxelError(f"{path}: cannot be read ({error.strerror}).") from None


def read_status(out: Path, record: str) -> dict[str, Any] | None:
    """What the log says of a scan: status (running, ok or failed), reason, seconds, peak memory."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((out / LOGS / f"{record}.json").read_text())
    return None


def write_status(out: Path, record: str, **facts: Any) -> None:
    write_json(out / LOGS / f"{record}.json", facts)


def describe_dataset(out: Path, bids: Path, recipe: Recipe) -> None:
    """Write dataset_description.json and .bidsignore.

    Raises MetaVoxelError if `out` holds what another recipe made: one folder, one preparation.
    """
    path, declared = out / DESCRIPTION, recipe.declaration()
    # Listed before it is asked for: another process may be writing it now, before all else.
    there = sorted(out.iterdir()) if out.is_dir() else []
    if path.is_file():
        check_recipe(path, declared)
        return
    if any(not p.name.startswith(".") and p.name != LOGS for p in there):
        raise MetaVoxelError(
            f"{out}: this folder holds something else. Choose an empty folder, or a new one."
        )
    settings, tools = declared["settings"], declared["tools"]
    told = ", ".join(f"{k} {v}" for k, v in {**settings, **tools}.items())
    with atomic_write(out / ".bidsignore") as temporary:
        temporary.write_text("\n".join(_NOT_BIDS) + "\n")
    write_json(
        path,
        {
            "Name": "Brains prepared for MetaVoxel",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "metavoxel preprocess",
                    "Version": __version__,
                    "Description": f"N4, skull stripping and registration: {told}",
                    "Recipe": declared,
                }
            ],
            "DatasetLinks": {"raw": bids.resolve().as_uri()},
        },
    )


def check_recipe(path: Path, declared: Mapping[str, Any]) -> None:
    """Raises MetaVoxelError if dataset_description.json declares another recipe."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        before = json.loads(path.read_text())["GeneratedBy"][0]["Recipe"]
        both = {part: {**before[part], **declared[part]} for part in ("settings", "tools")}
        for part, names in both.items():
            for name in names:
                was, now = before[part].get(name), declared[part].get(name)
                if was != now:
                    raise MetaVoxelError(
                        f"{path}: this folder was made with {name} {was}, not {now}. One folder "
                        "holds one preparation: choose another folder, or remove this one."
                    )
        return
    raise MetaVoxelError(
        f"{path}: this derivative was not made by metavoxel preprocess. Choose another folder."
    )


def write_json(path: Path, data: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_plain(data), indent=2) + "\n")


def _plain(data: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(data, Mapping):
        return {k: _plain(x) for k, x in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(x) for x in data]
    if isinstance(data, (float, np.floating)):
        return float(data) if math.isfinite(data) else None
    return data
