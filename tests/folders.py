"""Tiny BIDS folders for tests, and the real cohorts where they are."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.schema import Schema, parse_schema

REAL = Path(__file__).parents[2] / "shared" / "data"


def real(name: str) -> Path:
    """A real cohort; where there is none, skips the test unless METAVOXEL_REAL is set."""
    folder = REAL / name
    if not folder.is_dir() and "METAVOXEL_REAL" not in os.environ:
        pytest.skip(f"{folder} is not here")
    return folder


def heed_interrupts() -> None:
    """For a child before it starts: jobs in a shell's background ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def blob(shape: tuple[int, ...], affine: np.ndarray, at: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian of `width` mm at world position `at` (mm), on the grid of shape and affine."""
    index = np.stack([*np.indices(shape), *[np.zeros(shape)] * (3 - len(shape))], -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return np.exp(-((world - at) ** 2).sum(-1) / (2 * width**2)).astype(np.float32)


def centroid(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World position (mm) of the centre of mass."""
    weights = array / array.sum()
    middle = [(weights * axis).sum() for axis in np.indices(array.shape)]
    return affine[:3, :3] @ np.array([*middle, *[0.0] * (3 - len(middle))]) + affine[:3, 3]


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1]) if affine is None else affine), path)
    return path


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine as nibabel alone reads them."""
    image = nib.Nifti1Image.from_filename(path)
    assert image.affine is not None
    return np.asarray(image.dataobj), image.affine


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(array).save(path)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def write_bids(
    root: Path,
    rows: list[str] | None,
    scans: list[str],
    described: Mapping[str, object] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """A BIDS folder. `rows` are lines of participants.tsv with spaces for tabs; `scans` are names
    such as sub-01_T1w, put where BIDS wants them."""
    root.mkdir(parents=True, exist_ok=True)
    if rows is not None:
        lines = "".join(row.replace(" ", "\t") + "\n" for row in rows)
        (root / "participants.tsv").write_text(lines)
    if described is not None:
        (root / "participants.json").write_text(json.dumps(described))
    for name in scans:
        folders = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
        write_nifti(root.joinpath(*folders, "anat", f"{name}.nii.gz"), noise(8, 8, 8))
    for name, text in (texts or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def schema(**variables: object) -> Schema:
    """A schema with a small T1w image, `image`, and the given variables."""
    image = {"kind": "image", "shape": [8, 8, 8], "spacing": [2, 2, 2]}
    return parse_schema({"variables": {"image": image, **variables}}, "schema")


AGE = {"kind": "continuous", "unit": "years", "range": [0, 100]}
SEX = {"kind": "categorical", "labels": ["F", "M"]}


def scores(low: float, high: float) -> NormalScores:
    """The map of a number that is normal over the cohort, with a quarter of its range as SD."""
    return NormalScores(low, high, ((1.0, (low + high) / 2, (high - low) / 4),))
