"""Which images are variables, what their entities are, and the grid that they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from folders import noise, schema, write_bids, write_nifti
from metavoxel.data.bids import read_cohort
from metavoxel.data.grids import infer_images
from metavoxel.data.infer import infer_schema
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Schema

SCAN = ["sub-1_T1w"]


def test_the_grid_covers_the_scans_in_multiples_of_eight(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ["participant_id", "sub-1", "sub-2"], [])
    affine = np.array([[0.0, 0, 2, 0], [-1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]])  # PSR
    write_nifti(root / "sub-1" / "anat" / "sub-1_T1w.nii.gz", noise(20, 10, 9), affine)
    write_nifti(root / "sub-2" / "anat" / "sub-2_T1w.nii.gz", noise(30, 10, 9), affine)
    native = infer_schema(root).images["image"]
    assert (native.shape, native.spacing) == ((16, 32, 16), (2, 1, 3))
    coarse = infer_schema(root, 4).images["image"]
    assert (coarse.shape, coarse.spacing) == ((8, 8, 8), (4, 4, 4))


def test_several_suffixes_share_one_grid(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ["participant_id", "sub-1"], SCAN)
    flair = noise(16, 8, 8)
    write_nifti(root / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz", flair, np.diag([1.0, 1, 3, 1]))
    images = infer_schema(root).images
    assert set(images) == {"t1w", "flair"}
    assert {(i.shape, i.spacing) for i in images.values()} == {((16, 16, 16), (1, 1, 2))}


def test_derivatives_keep_their_entities(tmp_path: Path) -> None:
    root = write_bids(
        tmp_path, ["participant_id", "sub-1"], ["sub-1_space-MNI152_res-2_desc-brain_T1w"]
    )
    assert infer_schema(root).images["image"].entities == {"space": "MNI152", "desc": "brain"}


def _images(root: Path, scans: list[str]) -> tuple[dict[str, dict[str, str | None]], str]:
    """The entities of each image variable of scans, and what is said; each must be readable."""
    write_bids(root, ["participant_id", "sub-1", "sub-2"], scans)
    images, notes = infer_images(root, None)
    read_cohort(root, Schema(variables={**images}))
    return {v: image.entities for v, image in images.items()}, " ".join(notes)


def test_images_of_one_visit_are_told_apart_by_what_one_of_them_lacks(tmp_path: Path) -> None:
    scans = [f"sub-{i}_{name}T1w" for i in (1, 2) for name in ("", "ce-gd_")]
    images, _ = _images(tmp_path, scans)
    assert images == {"t1w": {"ce": None}, "t1w_ce_gd": {"ce": "gd"}}


def test_an_entity_in_which_no_visit_differs_does_not_count(tmp_path: Path) -> None:
    """Two sites with a protocol each have one image; runs are never variables."""
    scans = ["sub-1_acq-a_T1w", "sub-2_acq-b_run-1_T1w", "sub-2_acq-b_run-2_T1w"]
    assert _images(tmp_path, scans)[0] == {"t1w": {}}


def test_of_reconstructions_of_one_scan_one_is_taken_and_said(tmp_path: Path) -> None:
    scans = [f"sub-{i}_{name}T1w" for i in (1, 2) for name in ("", "rec-norm_")]
    images, said = _images(tmp_path, scans)
    assert images == {"t1w": {"rec": None}}
    assert "T1w: 2 files are left out beside others of their visits: rec-norm." in said


def test_raw_scans_go_before_derived_ones_and_those_of_a_template_space_first(
    tmp_path: Path,
) -> None:
    derived = [f"sub-{i}_{name}desc-preproc_T1w" for i in (1, 2) for name in ("", "space-MNI152_")]
    mni = {"space": "MNI152", "desc": "preproc"}
    assert _images(tmp_path / "derived", derived)[0] == {"t1w": mni}
    raw = ["sub-1_T1w", "sub-2_T1w"]
    assert _images(tmp_path / "both", [*derived, *raw])[0] == {"t1w": {}}


def test_files_that_show_no_anatomy_are_left_out_and_said(tmp_path: Path) -> None:
    masks = ["sub-1_desc-brain_mask", "sub-1_label-GM_probseg", "sub-1_dseg"]
    root = write_bids(tmp_path, ["participant_id", "sub-1"], [*SCAN, *masks])
    for folder, name in (("func", "task-rest_bold"), ("dwi", "dwi"), ("fmap", "epi")):
        write_nifti(root / "sub-1" / folder / f"sub-1_{name}.nii.gz", noise(4, 4, 4, 3))
    write_nifti(root / "sub-1" / "pet" / "sub-1_pet.nii.gz", noise(4, 4, 4, 3))
    images, notes = infer_images(root, None)
    assert set(images) == {"t1w"}
    said = " ".join(notes)
    assert "bold (1), dseg (1), dwi (1), epi (1), mask (1), probseg (1)" in said
    assert "pet is left out: its files are series of images" in said


def test_of_2d_and_3d_images_most_are_taken(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ["participant_id", "sub-1"], [*SCAN, "sub-2_T1w"])
    write_nifti(root / "sub-1" / "anat" / "sub-1_T2w.nii.gz", noise(8, 8))
    images, notes = infer_images(root, None)
    assert set(images) == {"t1w"}
    assert any("T2w is left out: 2D and 3D" in note for note in notes)


def test_a_grid_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ["participant_id", "sub-1"], SCAN)
    with pytest.raises(MetaVoxelError, match=r"voxels at 0\.001 mm is too large"):
        infer_images(root, 0.001)


def test_channels_of_an_anatomical_file_are_channels(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ["participant_id", "sub-1"], [])
    write_nifti(root / "sub-1" / "anat" / "sub-1_T1w.nii.gz", noise(8, 8, 8, 2))
    assert infer_images(root, None)[0]["t1w"].channels == 2
    assert schema().images["image"].channels == 1
