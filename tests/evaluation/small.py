"""An untrained model and cohorts of tiny scans, for the tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from folders import AGE, SEX, noise, schema, write_bids, write_nifti
from metavoxel.data.splits import Split, write_split
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_files import write_checksums
from metavoxel.model_folder import save_model

SETTINGS = {
    "encoding": {"kind": "identity"},
    "denoiser": {"channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8},
    "sampling": {"steps": 2},
}
HEADER = "participant_id age sex"
SUBJECTS = [f"sub-{i:02d}" for i in range(12)]  # 6 train, 2 validate, 4 test the model


def write_cohort(root: Path, rows: Sequence[str], header: str = HEADER) -> Path:
    """A BIDS folder with these rows of participants.tsv and a scan for each."""
    bids = write_bids(root, [header, *rows], [])
    for i, name in enumerate(row.split()[0] for row in rows):
        write_nifti(bids / name / "anat" / f"{name}_T1w.nii.gz", noise(8, 8, 8) ** (1 + i / 12))
    return bids


def write_own_cohort(root: Path) -> Path:
    """The model's own twelve; the last has no age."""
    ages = [*range(30, 85, 5), "n/a"]
    rows = zip(SUBJECTS, ages, "FM" * 6, strict=True)
    return write_cohort(root, [" ".join(map(str, row)) for row in rows])


def write_model_folder(folder: Path, scalars: str = "posterior", **sampling: object) -> Path:
    """Of ages with two humps. With `scalars` "diffusion" they diffuse, and so does sex."""
    settings = {
        **SETTINGS,
        "diffusion": {"scalars": scalars},
        "sampling": {"steps": 2, **sampling},
    }
    config = ModelConfig.model_validate(settings)
    humps = NormalScores(0, 100, ((0.5, 30, 5), (0.5, 70, 5)))
    age = humps if scalars == "posterior" else LinearScaling(0, 100, 0.5)
    save_model(MetaVoxel(schema(age=AGE, sex=SEX), config, {"age": age}), folder)
    names = SUBJECTS
    split = Split(tuple(names[:6]), tuple(names[6:8]), tuple(names[8:]), "by hand")
    write_split(split, folder / "split.json")
    write_checksums(folder)
    return folder
