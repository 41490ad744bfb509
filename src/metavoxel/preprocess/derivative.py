"""The BIDS derivative that preparation writes: names, sidecars, and whether a scan is done."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from metavoxel.data.description import DESCRIPTION, generated_by
from metavoxel.data.images import Grid, read_volume
from metavoxel.data.scans import ScanFile
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object
from metavoxel.files.writing import atomic_write
from metavoxel.preprocess.logs import (
    LOGS,
    Files,
    check_ours,
    digests,
    is_ours,
    listed,
    read_status,
    write_json,
)
from metavoxel.preprocess.measures import measures
from metavoxel.preprocess.pipeline import Prepared
from metavoxel.preprocess.recipe import Recipe
from metavoxel.version import __version__

NAME = "metavoxel preprocess"  # in GeneratedBy
# What BIDS has no names for: our own logs and reports, and transforms (a proposal, BEP 14, whose
# names these are; fMRIPrep keeps its own out of the validator's sight in the same way).
_NOT_BIDS = (f"{LOGS}/", "qc.tsv*", "group_*", "report*", "*_xfm.txt")
_LEVELS = 255  # brains are stored as 8 bit: finer than their noise, and a quarter of the size


@dataclass(frozen=True)
class Outputs:
    """Where one prepared scan stands. The sidecar is written last: where it is, all of it is."""

    out: Path
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
        name = "_".join(visit + entities)
        return cls(out, folder, name, scan.suffix, recipe.template, recipe.resolution)

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
        return mask_of(self.brain, self.suffix)

    @property
    def transform(self) -> Path:
        ways = f"from-{self.suffix}_to-{self.template}_mode-image_xfm.txt"
        return self.folder / f"{self.name}_{ways}"

    @property
    def _placed(self) -> str:
        resolution = f"{self.resolution:g}".replace(".", "p")
        return f"{self.name}_space-{self.template}_res-{resolution}"

    @property
    def files(self) -> tuple[Path, ...]:
        return self.sidecar, self.brain, self.mask, self._mask_sidecar, self.transform

    def ours(self) -> Files:
        """Which of the files we wrote. Raises MetaVoxelError if the log cannot be read.

        Before logs listed them, all that stood beside a log, or a sidecar of ours, was ours.
        """
        log = read_status(self.out, self.record)
        files = listed(log)
        if files is not None:
            return files
        return self.unwritten() if log is not None or self._facts() is not None else {}

    def unwritten(self) -> Files:
        """What to list of the files before they are written."""
        return {path.relative_to(self.out).as_posix(): None for path in self.files}

    def written(self) -> Files:
        """What to list of the files once they are written. Raises MetaVoxelError."""
        return digests(self.files, self.out)

    def check_ours(self) -> None:
        """Raise StrangerError if a file stands in the way that is not ours; else MetaVoxelError as
        `ours`."""
        check_ours(self.files, self.out, self.ours())

    def remove(self) -> None:
        """Take away what is ours: it is of another scan, or of another recipe."""
        ours = self.ours()
        for path in self.files:
            if is_ours(path, self.out, ours):
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
        return self._facts()

    def _facts(self) -> dict[str, Any] | None:
        """What a sidecar of ours says of the preparation; None if there is none, or another's."""
        with contextlib.suppress(MetaVoxelError):
            facts = read_object(self.sidecar).get("MetaVoxel")
            return facts if isinstance(facts, dict) else None
        return None


def mask_of(brain: Path, suffix: str) -> Path:
    """The mask beside a brain. BIDS has no place for the suffix of the scan in its name: as
    fMRIPrep has it, the plain one is T1w's."""
    kind = "" if suffix == "T1w" else suffix
    start, _, end = brain.name.rpartition(f"_desc-brain_{suffix}.")
    return brain.with_name(f"{start}_desc-brain{kind}_mask.{end}")


def _save(voxels: np.ndarray, affine: np.ndarray, path: Path, slope: float) -> None:
    image = nib.Nifti1Image(np.round(voxels / slope).astype(np.uint8), affine)
    image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=4)  # 4: in MNI152 space
    image.set_qform(affine, code=4)
    with atomic_write(path) as temporary:
        nib.save(image, temporary)


def describe_dataset(out: Path, bids: Path, recipe: Recipe) -> None:
    """Write dataset_description.json and .bidsignore.

    Raises MetaVoxelError if `out` holds what another recipe made, or what is not ours: one folder,
    one preparation.
    """
    declared = recipe.declaration()
    # Listed before it is asked for: another process may be writing it now, before all else.
    there = sorted(out.iterdir()) if out.is_dir() else []
    if os.path.lexists(out / DESCRIPTION):
        check_recipe(out, declared)
        return
    ignored = "\n".join(_NOT_BIDS) + "\n"
    strange = next((p for p in there if not _is_harmless(p, ignored)), None)
    if strange is not None:
        raise MetaVoxelError(
            f"{out}: this folder holds something else ({strange.name}). Choose an empty folder, "
            "or a new one."
        )
    settings, tools = declared["settings"], declared["tools"]
    told = ", ".join(f"{k} {v}" for k, v in {**settings, **tools}.items())
    with atomic_write(out / ".bidsignore") as temporary:
        temporary.write_text(ignored)
    write_json(
        out / DESCRIPTION,
        {
            "Name": "Brains prepared for MetaVoxel",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": NAME,
                    "Version": __version__,
                    "Description": f"N4, skull stripping and registration: {told}",
                    "Recipe": declared,
                }
            ],
            "DatasetLinks": {"raw": bids.resolve().as_uri()},
        },
    )


def _is_harmless(path: Path, ignored: str) -> bool:
    """Whether a file may stand in an empty folder: hidden, and not where ours is to stand."""
    if path.name == ".bidsignore":
        return path.is_file() and path.read_bytes() == ignored.encode()
    return path.name.startswith(".")


def check_recipe(out: Path, declared: Mapping[str, Any]) -> None:
    """Raise MetaVoxelError unless a derivative is ours, and declares this recipe."""
    before = declared_recipe(out)
    for part in ("settings", "tools"):
        for name in {**before[part], **declared[part]}:
            was, now = before[part].get(name), declared[part].get(name)
            if was != now:
                raise MetaVoxelError(
                    f"{out / DESCRIPTION}: this folder was made with {name} {was}, not {now}. One "
                    "folder holds one preparation: choose another folder, or remove this one."
                )


def declared_recipe(out: Path) -> dict[str, dict[str, Any]]:
    """The settings and tools that a derivative of ours declares.

    Raises MetaVoxelError if it is not ours, or other pipelines had a part in it.
    """
    pipelines = generated_by(out)
    alone = len(pipelines) == 1 and pipelines[0]["Name"] == NAME
    recipe = pipelines[0].get("Recipe") if alone else None
    if isinstance(recipe, dict) and all(
        isinstance(recipe.get(part), dict) for part in ("settings", "tools")
    ):
        return recipe
    raise MetaVoxelError(
        f"{out / DESCRIPTION}: this derivative was not made by metavoxel preprocess. Choose "
        "another folder."
    )
