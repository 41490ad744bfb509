"""DICOM of a real series, written for the test: what comes out is what went in."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from metavoxel.data.images import Grid, read_volume
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.dicom import from_dicom, is_dicom
from raw_scans import moved, write_series

HEAD = np.random.default_rng(0).integers(0, 1000, (20, 24, 18)).astype(np.uint16)
GRID = Grid(HEAD.shape, moved((3, -5, 8), (-20, 10, 4)) @ np.diag([1.5, 1.25, 2, 1]))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "dicom", HEAD, GRID.affine)


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def nested(folder: Path) -> Path:
    """As it leaves an archive: PATIENT/STUDY/SERIES, names without an ending."""
    deep = folder / "PAT001" / "ST000" / "SE001"
    deep.mkdir(parents=True)
    for k, path in enumerate(sorted(folder.glob("*.dcm"))):
        path.rename(deep / f"IM{k:05d}")
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "a folder": lambda folder: folder,
    "nested folders": nested,
    "a zip": zipped,
    "a zip of nested folders": lambda folder: zipped(nested(folder)),
    "one file": lambda folder: sorted(folder.glob("*.dcm"))[7],
}


@pytest.mark.parametrize("form", FORMS)
def test_voxels_and_affine_survive(form: str, series: Path, tmp_path: Path) -> None:
    given = FORMS[form](series)
    assert is_dicom(given)
    voxels, grid = read_volume(from_dicom(given, tmp_path / "out"))
    np.testing.assert_array_equal(voxels, HEAD)
    np.testing.assert_allclose(grid.affine, GRID.affine, atol=1e-4)


def test_two_series_are_named(series: Path, tmp_path: Path) -> None:
    write_series(series, HEAD[:, :, :9], GRID.affine, number=2, name="localizer")
    with pytest.raises(MetaVoxelError, match=r"it holds 2 series \(1_T1w, 2_localizer\)"):
        from_dicom(series, tmp_path / "out")


def test_one_file_means_its_own_series(series: Path, tmp_path: Path) -> None:
    write_series(series, HEAD[:, :, :9], GRID.affine, number=2, name="localizer")
    voxels, _ = read_volume(from_dicom(series / "series1-0003.dcm", tmp_path / "out"))
    np.testing.assert_array_equal(voxels, HEAD)


def empty(place: Path) -> Path:
    (place / "empty" / "deeper").mkdir(parents=True)
    return place / "empty"


def text(place: Path) -> Path:
    (place / "notes").mkdir()
    (place / "notes" / "readme.txt").write_text("no image")
    return place / "notes"


def cut_zip(place: Path) -> Path:
    path = zipped(write_series(place / "cut", HEAD, GRID.affine))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def without_a_slice(place: Path) -> Path:
    folder = write_series(place / "gap", HEAD, GRID.affine)
    (folder / "series1-0005.dcm").unlink()
    return folder


def half_a_slice(place: Path) -> Path:
    folder = write_series(place / "half", HEAD, GRID.affine)
    path = folder / "series1-0005.dcm"
    path.write_bytes(path.read_bytes()[:600])  # inside the header
    return folder


def cut_pixels(place: Path) -> Path:
    folder = write_series(place / "cut", HEAD, GRID.affine)
    path = folder / "series1-0005.dcm"
    path.write_bytes(path.read_bytes()[:-200])
    return folder


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty folder": (empty, r"empty: dcm2niix finds no image in it \("),
    "a folder of text": (text, r"notes: dcm2niix finds no image in it \("),
    "half a zip": (cut_zip, r"cut\.zip: this \.zip cannot be unpacked"),
    "a slice is missing": (without_a_slice, r"gap: slices are absent, damaged"),
    "half a slice": (half_a_slice, r"half: slices are absent, damaged"),
    "a slice without its end": (cut_pixels, r"cut: dcm2niix finds no image in it \("),
    "one file of a broken series": (
        lambda place: half_a_slice(place) / "series1-0003.dcm",
        r"series1-0003\.dcm: slices are absent, damaged",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_scan_gets_a_sentence(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    with pytest.raises(MetaVoxelError, match=message):
        from_dicom(make(tmp_path), tmp_path / "out")


def test_a_zip_cannot_write_outside_its_folder(series: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in series.glob("*.dcm"):
            archive.write(file, f"../../../{file.name}")
        archive.writestr(f"{tmp_path}/absolute.txt", "x")
    before = {p for p in tmp_path.rglob("*") if "out" not in p.parts}
    voxels, _ = read_volume(from_dicom(path, tmp_path / "out" / "deep" / "deeper"))
    np.testing.assert_array_equal(voxels, HEAD)
    outside = {p for p in tmp_path.rglob("*") if "deeper" not in p.parts and "out" not in p.parts}
    assert outside == before


def test_a_zip_that_unpacks_to_no_end_is_refused(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it says of itself, before anything is unpacked."""
    packed = zipped(series)
    monkeypatch.setenv("METAVOXEL_MOST_BYTES", "1000")
    with pytest.raises(MetaVoxelError, match=r"zip: .*more than 1,000 bytes.*METAVOXEL_MOST_BYTES"):
        from_dicom(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["a folder", "a zip", "one file"])
def test_more_files_than_a_series_has_are_refused(
    form: str, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = FORMS[form](series)
    monkeypatch.setenv("METAVOXEL_MOST_FILES", "10")
    with pytest.raises(MetaVoxelError, match=r"more than 10 files.*METAVOXEL_MOST_FILES"):
        from_dicom(given, tmp_path / "out")
    monkeypatch.setenv("METAVOXEL_MOST_FILES", "ten")
    with pytest.raises(MetaVoxelError, match='METAVOXEL_MOST_FILES is "ten"'):
        from_dicom(given, tmp_path / "again")


def test_a_folder_that_links_to_itself_ends(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(10):
        (series / f"loop{k}").symlink_to(series)
    with pytest.raises(MetaVoxelError, match="more than 50,000 files"):
        from_dicom(series, tmp_path / "out")


@pytest.mark.parametrize("name", ["IM00007", "slice.ima", "slice.IMA", "1.2.840.113619", "x.dcm"])
def test_dicom_is_told_by_what_it_holds(name: str, series: Path, tmp_path: Path) -> None:
    path = sorted(series.glob("*.dcm"))[7].rename(series / name)
    assert is_dicom(path)
    voxels, _ = read_volume(from_dicom(path, tmp_path / "out"))
    np.testing.assert_array_equal(voxels, HEAD)
    (tmp_path / "notes").write_text("text")
    assert not is_dicom(tmp_path / "notes")


def test_dicom_where_nifti_is_wanted_is_said(series: Path) -> None:
    with pytest.raises(MetaVoxelError, match=r"this is DICOM\. Ask with --preprocess"):
        read_volume(sorted(series.glob("*.dcm"))[0])


def two_of(folder: Path, second: np.ndarray, change: Callable[[Any, int], None]) -> Path:
    """A series that dcm2niix parts in two volumes, HEAD and another one."""
    for number, array in ((1, HEAD), (2, second)):
        write_series(folder, array, GRID.affine, number=number)
    for k, path in enumerate(sorted(folder.glob("*.dcm"))):
        slice_ = pydicom.dcmread(path)
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID = "1.2.3.4", "1.2.3"
        slice_.FrameOfReferenceUID, slice_.SeriesNumber = "1.2.5", 1
        slice_.InstanceNumber = k + 1
        change(slice_, k // HEAD.shape[2] + 1)
        slice_.save_as(path)
    return folder


def echo(slice_: Any, number: int) -> None:
    slice_.EchoNumbers, slice_.EchoTime = number, 5.0 * number


def phase(slice_: Any, number: int) -> None:
    slice_.ImageType = ["ORIGINAL", "PRIMARY", "M" if number == 1 else "P", "FFE"]


@pytest.mark.parametrize("way", [echo, phase])
@pytest.mark.parametrize("number", [1, 2])
def test_a_file_of_a_series_that_is_parted_means_the_whole_volume_it_is_part_of(
    number: int, way: Callable[[Any, int], None], tmp_path: Path
) -> None:
    second = HEAD[::-1, :, ::-1]
    folder = two_of(tmp_path / "parted", second, way)
    path = folder / f"series{number}-0004.dcm"
    voxels, grid = read_volume(from_dicom(path, tmp_path / "out"))
    np.testing.assert_array_equal(voxels, HEAD if number == 1 else second)
    np.testing.assert_allclose(grid.affine, GRID.affine, atol=1e-4)


def test_a_file_that_may_be_part_of_either_is_no_guess(tmp_path: Path) -> None:
    """Its slice is the same in both volumes."""
    second = HEAD.copy()
    second[:, :, 0] = 1
    path = two_of(tmp_path / "parted", second, echo) / "series1-0004.dcm"
    with pytest.raises(MetaVoxelError, match=r"of the 2 volumes .*_e1, .*_e2\) it is not told"):
        from_dicom(path, tmp_path / "out")


def test_without_dcm2niix(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcm2niix", None)  # as if it were not installed
    with pytest.raises(MetaVoxelError, match=r"needs dcm2niix\. .*pip install 'metavoxel\[prep\]'"):
        from_dicom(series, tmp_path / "out")
