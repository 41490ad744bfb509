"""One scan through the real tools, from where it was put back to the template's place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from folders import read_nifti, write_nifti
from metavoxel.data.images import Grid, read_volume, resample
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.itk import read_rigid
from metavoxel.preprocess.pipeline import Prepared, prepare
from metavoxel.preprocess.recipe import Recipe
from metavoxel.preprocess.template import template_brain, template_grid, template_mask
from raw_scans import moved, write_brain, write_sphere

STRIPPED = Recipe(skull_strip="none")
MOVE = moved((6, -4, 8), (5, -8, 3))
CORNERS = np.array([[60, 0, 0, 1], [-60, -60, 0, 1], [0, 50, 60, 1], [0, 0, -30, 1.0]]).T


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brain(tmp_path_factory.mktemp("raw") / "scan.nii.gz", MOVE)


@pytest.fixture(scope="module")
def prepared(scan: Path) -> Prepared:
    return prepare(scan, STRIPPED, scan.parent / "rigid.txt")


def test_a_moved_brain_comes_back_to_its_place(scan: Path, prepared: Prepared) -> None:
    """Within half a millimetre everywhere, turned by up to 8 degrees and shifted by 10 mm."""
    found = read_rigid(scan.parent / "rigid.txt")  # template to scan
    astray = (found @ np.linalg.inv(MOVE) - np.eye(4)) @ CORNERS
    assert np.abs(astray[:3]).max() < 0.5
    there = template_mask(2.0)
    likeness = np.corrcoef(prepared.brain[there], template_brain(2.0)[there])[0, 1]
    assert likeness > 0.8  # it was drawn at 4 mm and with noise


def test_what_is_written_is_what_was_applied(scan: Path, prepared: Prepared) -> None:
    """The saved transform alone takes the scan to where the prepared one lies."""
    voxels, grid = read_volume(scan)
    there = np.linalg.inv(read_rigid(scan.parent / "rigid.txt"))
    placed = resample(voxels, Grid(grid.shape, there @ grid.affine), template_grid(2.0))
    inside = prepared.mask
    assert np.corrcoef(placed[inside], prepared.brain[inside])[0, 1] > 0.95  # but for N4


def test_brain_and_mask_are_as_declared(prepared: Prepared) -> None:
    assert prepared.grid.shape == prepared.brain.shape == prepared.mask.shape == (96, 112, 96)
    np.testing.assert_array_equal(np.diag(prepared.grid.affine), [2, 2, 2, 1])
    assert prepared.brain.min() == 0
    assert prepared.brain.max() == 1
    assert (prepared.brain[prepared.mask] == 1).mean() < 0.01  # the 99.5th percentile becomes 1
    assert prepared.mask.dtype == bool


def test_neither_storage_nor_a_superfluous_stripper_changes_a_brain(
    scan: Path, prepared: Prepared, tmp_path: Path
) -> None:
    """Stored in another order of axes, and with deepbet asked for: it is seen that there is no
    skull to strip, and said."""
    image = nib.Nifti1Image.from_filename(scan)
    psr = nib.orientations.axcodes2ornt(("P", "S", "R"))
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), psr)
    turned = image.as_reoriented(turn)  # type: ignore[arg-type]  # nibabel indexes it as an array
    nib.save(turned, tmp_path / "psr.nii")
    again = prepare(tmp_path / "psr.nii", Recipe(skull_strip="deepbet"), tmp_path / "rigid.txt")
    assert again.notes == ("already stripped: what is not 0 is taken for the brain",)
    np.testing.assert_array_equal(again.brain, prepared.brain)
    np.testing.assert_array_equal(again.mask, prepared.mask)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register at 4 mm, eight times as fast, where a test does not ask how well."""
    monkeypatch.setattr("metavoxel.preprocess.pipeline.REGISTERED_MM", 4.0)


@pytest.mark.usefixtures("coarse")
def test_where_the_origin_lies_changes_no_voxel(scan: Path, tmp_path: Path) -> None:
    """Not one bit; the saved transform leads to where the header puts the scan."""
    first = prepare(scan, STRIPPED, tmp_path / "here.txt")
    here = read_rigid(tmp_path / "here.txt") @ CORNERS
    voxels, grid = read_volume(scan)
    for shift in ((300, -500, 900), (12.345, 0.001, -7.7)):
        away = moved((0, 0, 0), shift)
        path = write_nifti(tmp_path / "away.nii.gz", voxels, away @ grid.affine)
        again = prepare(path, STRIPPED, tmp_path / "there.txt")
        np.testing.assert_array_equal(again.brain, first.brain)
        np.testing.assert_array_equal(again.mask, first.mask)
        there = read_rigid(tmp_path / "there.txt") @ CORNERS
        np.testing.assert_allclose(there, away @ here, atol=1e-3)


@pytest.mark.usefixtures("coarse")
def test_a_given_mask_is_the_brain(scan: Path, prepared: Prepared, tmp_path: Path) -> None:
    voxels, affine = read_nifti(scan)
    head = np.where(voxels > 0, voxels, 300).astype(np.int16)  # in a bright box
    write_nifti(tmp_path / "head.nii.gz", head, affine)
    mask = write_nifti(tmp_path / "mask.nii.gz", (voxels > 0).astype(np.uint8), affine)
    recipe = Recipe(skull_strip="mask", bias_correction="none")
    again = prepare(tmp_path / "head.nii.gz", recipe, tmp_path / "rigid.txt", mask=mask)
    overlap = 2 * (again.mask & prepared.mask).sum() / (again.mask.sum() + prepared.mask.sum())
    assert overlap > 0.99


@pytest.mark.usefixtures("coarse")
def test_another_contrast_is_no_reason_to_refuse(scan: Path, tmp_path: Path) -> None:
    """Fluid bright and white matter dark, as in T2w: mutual information registers that, too."""
    voxels, grid = read_volume(scan)
    path = write_nifti(tmp_path / "t2w.nii.gz", np.where(voxels > 0, 900 - voxels, 0), grid.affine)
    prepare(path, STRIPPED, tmp_path / "rigid.txt")
    found = read_rigid(tmp_path / "rigid.txt")
    astray = (found @ np.linalg.inv(MOVE) - np.eye(4)) @ CORNERS
    assert np.abs(astray[:3]).max() < 1


def refused(path: Path, recipe: Recipe, message: str, mask: Path | None = None) -> None:
    with pytest.raises(MetaVoxelError, match=message) as error:
        prepare(path, recipe, path.parent / "rigid.txt", mask=mask)
    assert str(path) in str(error.value)


@pytest.mark.usefixtures("coarse")
def test_a_sphere_is_no_brain(tmp_path: Path) -> None:
    path = write_sphere(tmp_path / "bottle.nii.gz")
    refused(path, STRIPPED, "does not look like the template .*Is it a brain")


def test_what_is_too_small_or_too_large_for_a_brain(scan: Path, tmp_path: Path) -> None:
    voxels, grid = read_volume(scan)
    for factor in (0.5, 1.3):  # a voxel size that is wrong in the header
        affine = grid.affine @ np.diag([factor] * 3 + [1])
        path = write_nifti(tmp_path / "wrong.nii.gz", voxels, affine)
        refused(path, STRIPPED, r"has \d+ mL; a brain has 600 to 2400.*voxel size")


def test_a_mask_that_lies_elsewhere(scan: Path, tmp_path: Path) -> None:
    voxels, _ = read_volume(scan)
    mask = write_nifti(tmp_path / "mask.nii.gz", (voxels > 0).astype(np.uint8), np.eye(4))
    refused(
        scan, Recipe(skull_strip="mask"), "mask.nii.gz: .*not lie on the scan's grid", mask=mask
    )


def test_an_affine_that_shears(scan: Path, tmp_path: Path) -> None:
    voxels, grid = read_volume(scan)
    shear = np.eye(4)
    shear[0, 1] = 0.2
    path = write_nifti(tmp_path / "sheared.nii.gz", voxels, shear @ grid.affine)
    refused(path, STRIPPED, "shears the scan")


def test_a_scan_too_large_for_memory(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAVOXEL_MOST_VOXELS", "1000")
    refused(scan, STRIPPED, "at most 1,000 are read.*METAVOXEL_MOST_VOXELS")


@pytest.mark.parametrize("outside", [np.nan, -1, 0.2])
def test_a_mask_that_is_none_is_refused(outside: float, scan: Path, tmp_path: Path) -> None:
    voxels, grid = read_volume(scan)
    mask = np.where(voxels > 0, 1, outside).astype(np.float32)
    path = write_nifti(tmp_path / "mask.nii.gz", mask, grid.affine)
    recipe = Recipe(skull_strip="mask", bias_correction="none")
    refused(scan, recipe, r"mask\.nii\.gz: .*(NaN|holds -1|holds 0\.2)", mask=path)
