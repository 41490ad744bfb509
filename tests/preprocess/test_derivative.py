"""The derivative is BIDS: names, sidecars, and what the validator says of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from folders import read_nifti
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.derivative import check_recipe, describe_dataset
from metavoxel.preprocess.logs import write_json
from metavoxel.preprocess.recipe import Recipe
from raw_cohort import Cohort
from raw_scans import brain_of, sidecar_of

VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")
def test_the_bids_validator_finds_no_error(cohort: Cohort) -> None:
    """The official validator, which needs no network."""
    run = subprocess.run(
        [str(VALIDATOR), "--json", cohort.out], capture_output=True, text=True, timeout=120
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    errors = [i for i in issues if i["severity"] == "error"]
    assert errors == []
    assert run.returncode == 0


@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")
def test_the_validator_would_find_one(cohort: Cohort, tmp_path: Path) -> None:
    """That it found none above is not because it looked at nothing."""
    here = cohort.copy(tmp_path)
    brain = brain_of(here.out, "sub-02")
    brain.rename(brain.with_name("sub-02_brain-of-mine_T1w.nii.gz"))
    run = subprocess.run([str(VALIDATOR), "--json", here.out], capture_output=True, text=True)
    assert run.returncode != 0


def test_names_follow_bids(cohort: Cohort) -> None:
    stem = "sub-01_ses-2_space-MNI152NLin2009aSym_res-2_desc-brain"
    names = {p.name for p in (cohort.out / "sub-01" / "ses-2" / "anat").iterdir()}
    assert names == {
        f"{stem}_T1w.nii.gz",
        f"{stem}_T1w.json",
        f"{stem}_mask.nii.gz",
        f"{stem}_mask.json",
        "sub-01_ses-2_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.txt",
    }


def test_the_sidecar_says_how_it_was_made(cohort: Cohort) -> None:
    told = sidecar_of(cohort.out, "sub-02")
    assert told["SkullStripped"] is True
    assert told["Sources"] == ["bids:raw:sub-02/anat/sub-02_T1w.nii.gz"]
    assert told["MetaVoxel"]["Recipe"] == Recipe(skull_strip="none").declaration()
    assert set(told["MetaVoxel"]["Recipe"]["tools"]) == {"antspyx", "nilearn"}
    assert told["MetaVoxel"]["Measures"]["template_overlap"] > 0.9


def test_the_images_say_where_they_lie(cohort: Cohort) -> None:
    image = nib.Nifti1Image.from_filename(brain_of(cohort.out, "sub-02"))
    assert image.get_data_dtype() == np.uint8
    assert np.asarray(image.dataobj).max() == pytest.approx(1)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4  # MNI152
    mask = brain_of(cohort.out, "sub-02")
    mask = mask.with_name(mask.name.replace("_T1w", "_mask"))
    voxels, affine = read_nifti(mask)
    assert set(np.unique(voxels)) == {0, 1}
    np.testing.assert_array_equal(affine, image.affine)


def test_the_dataset_declares_the_recipe(cohort: Cohort) -> None:
    told = json.loads((cohort.out / "dataset_description.json").read_text())
    assert told["DatasetType"] == "derivative"
    assert told["GeneratedBy"][0]["Recipe"] == Recipe(skull_strip="none").declaration()
    assert told["DatasetLinks"]["raw"] == cohort.bids.resolve().as_uri()
    check_recipe(cohort.out, Recipe(skull_strip="none").declaration())


def test_another_recipe_or_another_version_is_refused(cohort: Cohort) -> None:
    with pytest.raises(MetaVoxelError, match=r"skull_strip none, not deepbet.*another folder"):
        check_recipe(cohort.out, Recipe().declaration())
    newer = Recipe(skull_strip="none").declaration()
    newer["tools"]["antspyx"] = "99.0"
    with pytest.raises(MetaVoxelError, match=r"with antspyx .*, not 99\.0"):
        check_recipe(cohort.out, newer)


def test_somebody_elses_derivative_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "dataset_description.json", {"GeneratedBy": [{"Name": "fMRIPrep"}]})
    with pytest.raises(MetaVoxelError, match="not made by metavoxel preprocess"):
        describe_dataset(tmp_path, tmp_path, Recipe())


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), np.float64(1.5)], "b": np.inf})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": None}
