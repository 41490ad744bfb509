"""Images keep their place in the world on the way in and out; bad ones get a sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from folders import blob, centroid, noise, read_nifti, real, write_nifti, write_png
from metavoxel.data.images import (
    Grid,
    as_scan,
    marked,
    read_mask,
    read_scan,
    read_volume_mask,
    to_file,
    write_image,
)
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image

MODEL = Image(shape=(24, 24, 24), spacing=(3, 3, 3))
SMALL = Image(shape=(16, 16, 16), spacing=(2, 2, 2))
FLAT = Image(suffix="FLAIR", shape=(16, 24), spacing=(2, 2))


def _oblique() -> np.ndarray:
    a = np.deg2rad(15)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    return turn @ tilt @ np.diag([1.5, 1.5, 2.0])


ORIENTATIONS = {
    "RAS": ((30, 32, 28), np.diag([2.0, 2, 2])),
    "LAS": ((30, 32, 28), np.diag([-2.0, 2, 2])),
    "PSR": ((32, 28, 30), np.array([[0.0, 0, 2], [-2, 0, 0], [0, 2, 0]])),
    "oblique": ((40, 40, 30), _oblique()),
    "anisotropic": ((60, 60, 12), np.diag([1.0, 1, 5])),
    "finer by far": ((64, 64, 64), np.diag([0.9, 0.9, 0.9])),
}


def _affine(linear: np.ndarray, shape: tuple[int, ...], centre: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = centre - linear @ ((np.array(shape) - 1) / 2)
    return affine


@pytest.fixture(params=ORIENTATIONS)
def placed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A file with a blob off its centre; the blob's world position; the file's affine."""
    shape, linear = ORIENTATIONS[request.param]
    centre = np.array([7.0, -11.0, 5.0])
    affine, at = _affine(linear, shape, centre), centre + np.array([6.0, -5.0, 7.0])
    return write_nifti(tmp_path / "x.nii.gz", blob(shape, affine, at, 4.0), affine), at, affine


def test_a_blob_stays_at_its_world_position(placed: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, at, _ = placed
    scan = read_scan(path, MODEL)
    assert scan.array.shape == (1, *MODEL.shape)
    assert scan.array.dtype == np.float32
    assert np.abs(centroid(scan.array[0], scan.grid.affine) - at).max() < 1.5  # half a voxel


def test_a_blob_returns_to_its_place_in_the_file(
    placed: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    """Back on the file's own shape, orientation and affine, at the voxels where it was."""
    path, at, affine = placed
    scan = read_scan(path, MODEL)
    back = to_file(scan.array, scan)[0]
    original, _ = read_nifti(path)
    assert back.shape == original.shape
    assert np.allclose(scan.source.affine, affine, atol=1e-4)
    voxel = np.abs(affine[:3, :3]).sum(axis=1) / 2
    assert (np.abs(centroid(back, affine) - at) < np.maximum(voxel, 0.5)).all()
    assert np.corrcoef(back.ravel(), original.ravel())[0, 1] > 0.97


def test_the_grid_is_axis_aligned_about_the_field_of_view(
    placed: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    grid = read_scan(placed[0], MODEL).grid
    assert np.array_equal(grid.affine[:3, :3], np.diag(MODEL.spacing))
    assert np.allclose(grid.centre, [7, -11, 5], atol=1e-4)


def test_a_template_centre_fixes_the_grid(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", noise(16, 16, 16))
    grid = read_scan(path, SMALL.model_copy(update={"centre": (10.0, 12.0, 14.0)})).grid
    assert np.allclose(grid.centre, [10, 12, 14])


@pytest.mark.parametrize("spacing", [0.3, 0.7, 0.9, 1.1])
def test_padding_keeps_every_voxel(tmp_path: Path, spacing: float) -> None:
    """Rounding in the affine must not drop an edge plane."""
    affine = np.diag([spacing, spacing, spacing, 1])
    affine[:3, 3] = [-11.3, 4.7, 0.1]
    voxels = noise(16, 16, 16) + 1
    path = write_nifti(tmp_path / "x.nii.gz", voxels, affine)
    variable = Image(shape=(20, 20, 20), spacing=(spacing,) * 3)
    read = read_scan(path, variable).array[0]
    expected = np.pad(voxels / np.percentile(voxels, 99.5), 2).clip(0, 1)
    assert np.allclose(read, expected, atol=1e-4)


def test_a_coarser_grid_does_not_alias(tmp_path: Path) -> None:
    """A pattern finer than the new voxels turns grey; sampled alone, it would stay stripes."""
    stripes = np.zeros((33, 33, 33), np.float32)
    stripes[::2] = 1
    path = write_nifti(tmp_path / "x.nii.gz", stripes, np.diag([1.0, 1, 1, 1]))
    inner = read_scan(path, Image(shape=(9, 9, 9), spacing=(3, 3, 3))).array[0, 1:-1, 1:-1, 1:-1]
    assert inner.std() / inner.mean() < 0.05


def test_intensities_run_from_zero_to_one(tmp_path: Path) -> None:
    """0 stays 0, the 99.5th percentile of the positive voxels becomes 1, the rest is clipped."""
    voxels = noise(16, 16, 16) * 1000
    voxels[:8] = 0
    voxels[12, 8, 8] = 1e6
    array = read_scan(write_nifti(tmp_path / "x.nii.gz", voxels), SMALL).array[0]
    top = np.percentile(voxels[voxels > 0], 99.5)
    assert np.allclose(array, np.clip(voxels / top, 0, 1), atol=1e-5)


def test_a_picture_is_read_by_rows_and_columns(tmp_path: Path) -> None:
    """Pixels are 1 mm; at 2 mm a bright corner stays the top left one."""
    pixels = np.full((32, 48), 20, np.uint8)
    pixels[:8, :8] = 250
    scan = read_scan(write_png(tmp_path / "x.png", pixels), FLAT)
    assert scan.array.shape == (1, 16, 24)
    assert scan.source.shape == (32, 48)
    assert scan.array[0, :3, :3].min() > 0.8
    assert scan.array[0, 5:-1, 5:-1].max() < 0.2
    assert to_file(scan.array, scan).shape == (1, 32, 48)


def test_a_picture_is_filled_in_its_own_greys(tmp_path: Path) -> None:
    pixels = (noise(32, 48) * 180).astype(np.uint8)
    scan = read_scan(write_png(tmp_path / "x.png", pixels), FLAT)
    marks = np.zeros((32, 48), bool)
    marks[:8] = True
    write_image(to_file(np.ones_like(scan.array), scan, marks), scan.source, tmp_path / "y.png")
    filled = np.asarray(Picture.open(tmp_path / "y.png"))
    np.testing.assert_array_equal(filled[~marks], pixels[~marks])
    assert (filled[2:7, 2:-2] == np.round(scan.unit * 255)).all()
    assert 100 < scan.unit * 255 <= 179  # the brightest on the coarser grid, in the file's greys


def test_colours_are_channels_or_grey(tmp_path: Path) -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[..., 1] = (noise(32, 48) * 255).astype(np.uint8)
    path = write_png(tmp_path / "x.png", pixels)
    assert read_scan(path, FLAT).array.shape == (1, 16, 24)
    colours = read_scan(path, FLAT.model_copy(update={"channels": 3})).array
    assert colours[1].max() > 0
    assert not colours[0].any()


def test_channels_are_the_fourth_axis(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", noise(16, 16, 16, 2))
    assert read_scan(path, SMALL.model_copy(update={"channels": 2})).array.shape[0] == 2


def _with_nan() -> np.ndarray:
    voxels = noise(16, 16, 16)
    voxels[1, 2, 3] = np.nan
    return voxels


BAD_VOXELS = {
    "4D": (noise(16, 16, 16, 5), "last of length 5.*one volume"),
    "2D": (noise(16, 16), "2D image"),
    "one slice": (noise(16, 16, 1), "2D image"),
    "zero": (np.zeros((16, 16, 16), np.float32), "every voxel is 0"),
    "constant": (np.full((16, 16, 16), 3, np.float32), "every voxel is 3"),
    "negative": (-1 - noise(16, 16, 16), "no voxel is above 0"),
    "NaN": (_with_nan(), "1 voxels are NaN"),
    "complex": (noise(16, 16, 16).astype(np.complex64), "not numbers"),
}


@pytest.mark.parametrize("case", BAD_VOXELS)
def test_bad_voxels_get_a_sentence_with_the_file(case: str, tmp_path: Path) -> None:
    voxels, message = BAD_VOXELS[case]
    path = write_nifti(tmp_path / "scan.nii.gz", voxels)
    with pytest.raises(MetaVoxelError, match=rf"scan\.nii\.gz: .*{message}"):
        read_scan(path, SMALL)


def test_bad_files_get_a_sentence_with_the_file(tmp_path: Path) -> None:
    whole = write_nifti(tmp_path / "whole.nii.gz", noise(16, 16, 16)).read_bytes()
    header = bytearray(gzip.decompress(whole))
    header[40:80] = b"\xff" * 40
    picture = write_png(tmp_path / "p.png", (noise(64, 64) * 255).astype(np.uint8)).read_bytes()
    contents = {
        "truncated.nii.gz": (whole[: len(whole) // 2], "damaged, or not an image"),
        "truncated.nii": (gzip.decompress(whole)[:2000], "damaged, or not an image"),
        "cut-header.nii.gz": (whole[:100], "not an image"),
        "empty.nii.gz": (b"", "not an image"),
        "header.nii": (bytes(header), "not an image"),
        "text.nii": (b"hello" * 200, "not an image"),
        "notes.txt": (b"hello", "images are read from NIfTI"),
        "cut.png": (picture[: len(picture) // 2], "damaged, or not a picture"),
        "text.png": (b"hello", "damaged, or not a picture"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MetaVoxelError, match=f"{name}: .*{message}"):
            read_scan(tmp_path / name, FLAT if name.endswith("png") else SMALL)


def test_a_missing_file_a_folder_and_a_picture_for_a_volume_are_named(tmp_path: Path) -> None:
    colour = write_png(tmp_path / "colour.png", (noise(16, 16, 3) * 255).astype(np.uint8))
    cases = {tmp_path / "no.nii.gz": "no such file", tmp_path: "folder", colour: "2D image"}
    for path, message in cases.items():
        with pytest.raises(MetaVoxelError, match=message):
            read_scan(path, SMALL)


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii"])
def test_a_written_volume_reads_back(name: str, tmp_path: Path) -> None:
    affine = np.diag([2.0, 2, 2, 1])
    voxels = noise(1, 16, 16, 16)
    write_image(voxels, Grid((16, 16, 16), affine), tmp_path / name)
    read, where = read_nifti(tmp_path / name)
    assert np.allclose(where, affine)
    assert np.allclose(read, voxels[0], atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing temporary is left


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, grid = tmp_path / "out.nii.gz", Grid((16, 16, 16), np.eye(4))
    write_image(noise(1, 16, 16, 16), grid, path)
    before = path.read_bytes()

    def full(image: object, to: Path) -> None:
        Path(to).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metavoxel.data.images.nib.save", full)
    with pytest.raises(MetaVoxelError, match=r"out\.nii\.gz cannot be written \(No space"):
        write_image(noise(1, 16, 16, 16) * 2, grid, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]


def test_a_name_of_no_known_kind_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match="Rename it"):
        write_image(noise(1, 16, 16, 16), Grid((16, 16, 16), np.eye(4)), tmp_path / "out.mha")


@pytest.mark.real
def test_a_raw_scan_and_its_registered_brain_both_read() -> None:
    raw = next(iter(sorted(real("ixi").glob("sub-*/anat/*_T1w.nii.gz"))))
    scan = read_scan(raw, Image(shape=(48, 60, 60), spacing=(4, 4, 4)))
    assert scan.source.shape == (120, 120, 90)  # stored as PSR, and kept so
    assert to_file(scan.array, scan).shape == (1, 120, 120, 90)
    brain = next(iter(sorted(real("ixi/derivatives/brain").glob("sub-*/anat/*.nii.gz"))))
    array = read_scan(brain, Image(shape=(40, 48, 40), spacing=(4, 4, 4))).array
    assert 0.2 < (array > 0.1).mean() < 0.5


@pytest.mark.real
def test_a_stroke_slice_fits_its_grid() -> None:
    path = next(iter(sorted(real("stroke").glob("sub-*/anat/*_FLAIR.png"))))
    array = read_scan(path, Image(suffix="FLAIR", shape=(96, 80), spacing=(2, 2))).array[0]
    assert (array > 0.1).mean() > 0.3
    assert array[0].max() < 0.1 > array[-1].max()  # head and chin are not cut off


def test_what_shows_through_a_picture_is_air(tmp_path: Path) -> None:
    """The colours that a file keeps under transparent pixels are not part of the picture."""
    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[:, 8:, 3] = 0
    Picture.fromarray(pixels).save(tmp_path / "a.png")
    array = read_scan(tmp_path / "a.png", Image(shape=(16, 16), spacing=(1, 1))).array[0]
    assert (array[:, :8] == 1).all() and (array[:, 8:] == 0).all()


LESION = np.zeros((16, 16, 16), np.float32)
LESION[4:8, 5:9, 6:10] = 1


@pytest.fixture
def scanned(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "scan.nii.gz", noise(16, 16, 16))


@pytest.mark.parametrize(
    "mask",
    [LESION, LESION * 3, np.where(LESION > 0, 5, 2 * np.roll(LESION, 5)), LESION.astype(bool)],
)
def test_a_mask_marks_what_has_a_label(mask: np.ndarray, scanned: Path, tmp_path: Path) -> None:
    scan = read_scan(scanned, SMALL)
    path = write_nifti(tmp_path / "mask.nii.gz", mask.astype(np.uint8))
    np.testing.assert_array_equal(read_mask(path, SMALL, scan), mask > 0)
    np.testing.assert_array_equal(read_volume_mask(path, scan.source), mask > 0)
    np.testing.assert_array_equal(marked(mask.astype(np.float32), "mask"), mask > 0)


NO_MASKS = {
    "NaN outside": (np.where(LESION > 0, 1, np.nan), "4032 voxels are NaN"),
    "infinite": (np.where(LESION > 0, np.inf, 0), "64 voxels are NaN or infinite"),
    "negative outside": (np.where(LESION > 0, 1, -1), "the mask holds -1,"),
    "probabilities": (LESION * 0.3, "the mask holds 0.3, which is no label"),
    "all zero": (LESION * 0, "every voxel is 0"),
    "complex": (LESION.astype(np.complex64), "not numbers"),
    "another grid": (LESION[:15], "not lie on the scan's grid"),
    "four axes": (np.stack([LESION, LESION], -1), "4 axes"),
}


@pytest.mark.parametrize("case", NO_MASKS)
def test_what_is_no_mask_is_one_to_nobody(case: str, scanned: Path, tmp_path: Path) -> None:
    """The same refusal of a mask to fill and of a mask of the brain."""
    mask, message = NO_MASKS[case]
    mask = mask if np.iscomplexobj(mask) else mask.astype(np.float32)
    path = write_nifti(tmp_path / "mask.nii.gz", mask)
    scan = read_scan(scanned, SMALL)
    for read in (lambda: read_mask(path, SMALL, scan), lambda: read_volume_mask(path, scan.source)):
        with pytest.raises(MetaVoxelError, match=rf"mask\.nii\.gz: .*{message}"):
            read()


@pytest.mark.parametrize("variable", [SMALL, FLAT])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
@pytest.mark.parametrize("sides", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_a_grid_is_the_same_whichever_way_its_axes_run(
    variable: Image, order: tuple[int, ...], sides: tuple[int, ...], tmp_path: Path
) -> None:
    """Oblique, exchanged, mirrored, and shifted by what rounding does."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = _affine(turn * 2, (16, 17, 1), np.array([3.0, 4, 5]))
    labels = np.zeros((16, 17, 18 if variable is SMALL else 1), np.uint8)
    labels[4:8, 5:9] = 1
    scan = read_scan(write_nifti(tmp_path / "x.nii.gz", noise(*labels.shape), affine), variable)
    orientation = [*zip(order, sides, strict=True)]
    turned = nib.Nifti1Image(labels, affine).as_reoriented(orientation)
    moved = np.asarray(turned.affine) + 0.1 * np.eye(4, k=3)
    there = write_nifti(tmp_path / "there.nii.gz", np.asarray(turned.dataobj), moved)
    here = write_nifti(tmp_path / "here.nii.gz", labels, affine)
    found = read_mask(there, variable, scan)
    np.testing.assert_array_equal(found, read_mask(here, variable, scan))
    if variable is SMALL:
        np.testing.assert_array_equal(read_volume_mask(there, scan.source), labels > 0)


@pytest.mark.parametrize(
    ("length", "moved", "told"),
    [
        (15, 0, "along the scan's axes it has 15x16x16 voxels, the scan 16x16x16"),
        (16, 1, "their corners lie up to 1 mm apart"),
        (16, 5, "their corners lie up to 5 mm apart"),
    ],
)
def test_what_tells_two_grids_apart_is_said(
    length: int, moved: float, told: str, scanned: Path, tmp_path: Path
) -> None:
    affine = np.diag([2.0, 2, 2, 1]) + moved * np.eye(4, k=3)
    path = write_nifti(tmp_path / "mask.nii.gz", LESION[:length].astype(np.uint8), affine)
    with pytest.raises(MetaVoxelError, match=told):
        read_mask(path, SMALL, read_scan(scanned, SMALL))


def test_a_mask_that_leaves_nothing_or_marks_nothing_is_refused(
    scanned: Path, tmp_path: Path
) -> None:
    scan = read_scan(scanned, SMALL)
    path = write_nifti(tmp_path / "mask.nii.gz", np.ones((16, 16, 16), np.uint8))
    with pytest.raises(MetaVoxelError, match="every voxel is marked"):
        read_mask(path, SMALL, scan)
    away = SMALL.model_copy(update={"shape": (8, 8, 8)})  # the middle alone
    corner = np.zeros((16, 16, 16), np.uint8)
    corner[0, 0, 0] = 1
    write_nifti(path, corner)
    with pytest.raises(MetaVoxelError, match="nothing of what it marks lies on the model's grid"):
        read_mask(path, away, read_scan(scanned, away))


def test_a_picture_s_mask_has_sharp_edges(tmp_path: Path) -> None:
    pixels = (noise(32, 48) * 255).astype(np.uint8)
    scan = read_scan(write_png(tmp_path / "x.png", pixels), FLAT)
    mask = np.zeros((32, 48), np.uint8)
    mask[8:16, 10:20] = 255
    assert read_mask(write_png(tmp_path / "m.png", mask), FLAT, scan)[4:8, 5:10].all()
    with pytest.raises(MetaVoxelError, match="JPEG blurs the edges"):
        read_mask(write_png(tmp_path / "m.jpg", mask), FLAT, scan)


def test_micrometres_are_no_other_place(tmp_path: Path) -> None:
    """Read once more for its place, and written: still in millimetres."""
    affine = np.array([[2.0, 0, 0, -3], [0, 2, 0, 4], [0, 0, 2, 5], [0, 0, 0, 1]])
    plain = write_nifti(tmp_path / "mm.nii.gz", noise(16, 16, 16), affine)
    image = nib.Nifti1Image(noise(16, 16, 16), np.diag([1000, 1000, 1000, 1]) @ affine)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "um.nii.gz")
    one, other = (read_scan(p, SMALL) for p in (plain, tmp_path / "um.nii.gz"))
    np.testing.assert_allclose(other.array, one.array, atol=1e-5)
    again = as_scan(other.array, tmp_path / "um.nii.gz", SMALL)
    for grid in (other.source, again.source):
        np.testing.assert_allclose(grid.affine, affine, rtol=1e-6)
    write_image(other.array, other.source, tmp_path / "out.nii.gz")
    written = nib.Nifti1Image.from_filename(tmp_path / "out.nii.gz")
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.affine is not None
    np.testing.assert_allclose(written.affine, affine, rtol=1e-6)


def test_what_is_of_the_wrong_axes_is_refused_before_its_voxels_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = write_nifti(tmp_path / "bold.nii.gz", noise(8, 8, 8, 30))
    picture = write_png(tmp_path / "x.png", (noise(16, 16) * 255).astype(np.uint8))
    monkeypatch.setattr("metavoxel.data.images.read_voxels", None)
    monkeypatch.setattr("metavoxel.data.images.read_picture", None)
    with pytest.raises(MetaVoxelError, match="the last of length 30"):
        read_scan(series, SMALL)
    with pytest.raises(MetaVoxelError, match="2D image"):
        read_scan(picture, SMALL)
    with pytest.raises(MetaVoxelError, match=r"wanted is 2D with 3 channel"):
        read_scan(picture, FLAT.model_copy(update={"channels": 3}))


def test_a_slice_that_is_not_axial_has_no_place_in_2d(tmp_path: Path) -> None:
    sagittal = np.array([[0, 0, 2.0, 0], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "x.nii.gz", noise(16, 24, 1), sagittal)
    with pytest.raises(MetaVoxelError, match="the slice is not axial"):
        read_scan(path, FLAT)
