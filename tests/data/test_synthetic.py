"""Samples and images on disk: BIDS, whole, and nobody else's files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from folders import AGE, SEX, noise, read_nifti, write_nifti
from killed import every_kill, full_disk, hidden, names, refused_in_child
from metavoxel.data.bids import read_cohort
from metavoxel.data.images import Grid
from metavoxel.data.synthetic import images_folder, samples_folder, write_images, write_samples
from metavoxel.errors import MetaVoxelError
from metavoxel.files.owned import MARKER, holding
from metavoxel.files.writing import BusyError
from metavoxel.schema import Schema, parse_schema
from validator import bids_errors

GRID = Grid((8, 8, 8), np.diag([2.0, 2, 2, 1]))


def schema(**image: Any) -> Schema:
    kind = {"kind": "image", "shape": [8, 8, 8], "spacing": [2, 2, 2], **image}
    return parse_schema({"variables": {"image": kind, "age": AGE, "sex": SEX}}, "schema")


def drawn(kind: Schema, count: int = 2, ages: tuple[float, ...] = ()) -> dict[str, Any]:
    image = kind.images["image"]
    grid = Grid(tuple(image.shape), GRID.affine)
    voxels = noise(count, image.channels, *image.shape)
    age = np.array([*ages, *range(40, 40 + count)][:count], float)
    return {
        "image": SimpleNamespace(samples=voxels, grid=grid),
        "age": SimpleNamespace(samples=age),
    }


def write(out: Path, kind: Schema, count: int = 2, **more: Any) -> list[str]:
    with samples_folder(out) as folder:
        return write_samples(
            drawn(kind, count), kind, {"sex": "F"}, folder, "image, age | sex=F", 0, **more
        )


OURS = {"space": "MNI152NLin2009aSym", "res": "2", "desc": "brain"}
DATASETS: dict[str, tuple[dict[str, Any], bool | None]] = {
    "raw, nothing known": ({}, None),
    "raw, stripped": ({}, True),
    "our derivative": ({"entities": OURS}, True),
    "in another order": (
        {"entities": {"desc": "preproc", "acq": "x", "ce": None, "space": "T"}},
        True,
    ),
    "nobody knows": ({"entities": {"desc": "mine"}}, None),
    "no anatomy": ({"suffix": "FAmap"}, True),
    "two channels": ({"channels": 2}, True),
    "slices of ours": ({"shape": [8, 8], "spacing": [2, 2], "entities": OURS}, True),
}


@pytest.mark.parametrize("case", DATASETS)
def test_samples_pass_the_bids_validator(case: str, tmp_path: Path) -> None:
    image, stripped = DATASETS[case]
    write(tmp_path / "out", schema(**image), stripped=stripped)
    assert bids_errors(tmp_path / "out") == []


def test_the_validator_would_find_an_error(tmp_path: Path) -> None:
    write(tmp_path / "out", schema(entities=OURS), stripped=True)
    next((tmp_path / "out").rglob("sub-*.json")).unlink()
    assert bids_errors(tmp_path / "out") != []


@pytest.mark.parametrize(
    ("entities", "stripped", "said"),
    [(OURS, None, True), ({"desc": "preproc"}, True, False), ({"desc": "mine"}, True, True)],
)
def test_what_is_said_of_the_skull_is_what_is_known(
    tmp_path: Path, entities: dict[str, str], stripped: bool | None, said: bool
) -> None:
    write(tmp_path / "out", schema(entities=entities), stripped=stripped)
    for sidecar in (tmp_path / "out").rglob("sub-*.json"):
        assert json.loads(sidecar.read_text())["SkullStripped"] is said


def test_nothing_is_said_of_the_skull_where_nothing_is_known(tmp_path: Path) -> None:
    for number, entities in enumerate(({}, {"desc": "mine"})):
        write(tmp_path / str(number), schema(entities=entities))
        assert "SkullStripped" not in "".join(
            p.read_text() for p in (tmp_path / str(number)).rglob("*.json")
        )


@pytest.mark.parametrize("entities", [OURS, {"desc": "brain", "acq": "x", "ce": None}, {}])
def test_samples_are_read_again_under_their_schema(tmp_path: Path, entities: dict[str, Any]):
    kind = schema(entities=entities)
    write(tmp_path / "out", kind, 3, stripped=True)
    cohort = read_cohort(tmp_path / "out", kind)
    assert [sorted(r.values) for r in cohort.records] == [["age", "image", "sex"]] * 3
    path = cohort.records[0].values["image"]
    assert isinstance(path, Path)
    assert nib.Nifti1Image.from_filename(path).header.get_xyzt_units()[0] == "mm"


def test_samples_beyond_the_range_are_counted(tmp_path: Path) -> None:
    kind = schema()
    with samples_folder(tmp_path / "out") as folder:
        told = write_samples(drawn(kind, 3, (-5.0, 919.8)), kind, {}, folder, "image, age", 0)
    assert told == [
        "2 of 3 samples of age lie outside 0 to 100; they are written as the nearer end."
    ]
    rows = (tmp_path / "out" / "participants.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[1] for row in rows] == ["0", "100", "40"]


def test_earlier_samples_are_replaced_all_of_them(tmp_path: Path) -> None:
    write(tmp_path / "out", schema(), 3)
    write(tmp_path / "out", schema(), 1)
    assert [p for p in names(tmp_path / "out") if p.startswith("sub-")] == ["sub-synth0001"]
    assert names(tmp_path) == ["out"] and hidden(tmp_path) == ["out/.bidsignore"]


STRANGERS = ["notes.txt", "sub-synth0001/anat/mine.nii.gz", "sub-synth0001/lesion.tsv", "sub-1/a"]


@pytest.mark.parametrize("name", STRANGERS)
def test_samples_do_not_take_the_place_of_anybody_s_file(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    write(out, schema())
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(MetaVoxelError, match=f"{name}: metavoxel ask did not write this"):
        write(out, schema(), 1)
    assert (out / name).read_text() == "mine" and (out / "sub-synth0002").is_dir()


def test_a_file_that_comes_while_samples_are_drawn_stays(tmp_path: Path) -> None:
    out, kind = tmp_path / "out", schema()
    with (
        pytest.raises(MetaVoxelError, match=r"notes\.txt: metavoxel ask did not write this"),
        samples_folder(out) as folder,
    ):
        (out / "notes.txt").write_text("mine")
        write_samples(drawn(kind), kind, {}, folder, "image, age", 0)
    assert names(out) == ["notes.txt"]


@pytest.mark.parametrize("name", ["thesis.tex", "dataset_description.json", "sub-synth0001/a"])
def test_a_folder_of_others_is_no_place_for_samples(tmp_path: Path, name: str) -> None:
    """Not even one that calls itself ours in some file but the marker."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"Name": "MetaVoxel samples"}')
    with pytest.raises(MetaVoxelError, match="is not empty"):
        write(tmp_path, schema())
    assert names(tmp_path) == [name.partition("/")[0]]


def test_killed_at_any_step_the_old_samples_or_the_new_ones_stand(tmp_path: Path) -> None:
    out, kind = tmp_path / "out", schema()
    write(out, kind, 2)
    for step in every_kill(lambda: write(out, kind, 1), every=5):
        found = [p for p in names(out) if p.startswith("sub-")]
        assert len(found) in (1, 2), step
        told = json.loads((out / MARKER).read_text())["files"]
        assert {f for f in told if f.startswith("sub-")} == {
            p.relative_to(out).as_posix() for p in out.glob("sub-*/anat/*")
        }, step
        with samples_folder(out):
            assert names(tmp_path) == ["out"], step


def test_a_second_ask_at_once_is_told_to_wait(tmp_path: Path) -> None:
    with (
        samples_folder(tmp_path / "out"),
        pytest.raises(BusyError, match="another metavoxel ask is writing here"),
    ):
        write(tmp_path / "out", schema())
    assert names(tmp_path) == []


def inpainted(out: Path, count: int, dims: int = 3) -> list[Path]:
    samples = noise(count, 1, *(8,) * dims)
    with images_folder(out, "inpaint", "inpainted", count) as folder:
        return write_images(samples, Grid((8,) * dims, GRID.affine), folder, "inpainted")


def test_images_replace_earlier_ones_and_leave_others(tmp_path: Path) -> None:
    inpainted(tmp_path, 3)
    (tmp_path / "inpainted-04.nii.gz").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    inpainted(tmp_path, 2)
    left = [
        "inpainted-01.nii.gz",
        "inpainted-02.nii.gz",
        "inpainted-04.nii.gz",
        "notes.txt",
    ]
    assert names(tmp_path) == [MARKER, *left]
    with pytest.raises(MetaVoxelError, match=r"inpainted-04\.nii\.gz: metavoxel inpaint did not"):
        inpainted(tmp_path, 4)
    inpainted(tmp_path, 1, dims=2)
    assert names(tmp_path) == [MARKER, "inpainted-01.png", *left[2:]]
    assert {(tmp_path / n).read_text() for n in left[2:]} == {"mine"}


def test_a_file_in_an_image_s_place_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    inpainted(tmp_path, 1)
    (tmp_path / "inpainted-02.png").write_text("mine")
    with (
        pytest.raises(MetaVoxelError, match=r"inpainted-02\.png: metavoxel inpaint did not"),
        images_folder(tmp_path, "inpaint", "inpainted", 2),
    ):
        pytest.fail("nothing may be drawn")


def test_a_disk_that_fills_leaves_the_earlier_images_all_of_them(tmp_path: Path) -> None:
    inpainted(tmp_path, 3)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    sizes = sorted(map(len, before.values()))
    assert refused_in_child(lambda: inpainted(tmp_path, 2), lambda: full_disk(sizes[0] + 100))
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_images_do_not_go_beside_others(tmp_path: Path) -> None:
    write_nifti(tmp_path / "scan.nii.gz", noise(8, 8, 8))
    with pytest.raises(MetaVoxelError, match=r"is not empty: it holds scan\.nii\.gz"):
        inpainted(tmp_path, 1)
    assert names(tmp_path) == ["scan.nii.gz"]


def test_images_killed_at_any_step_are_whole_and_the_next_start_tidies_up(tmp_path: Path) -> None:
    inpainted(tmp_path / "out", 1)
    for step in every_kill(lambda: inpainted(tmp_path / "out", 2), every=3):
        for path in (tmp_path / "out").glob("*.nii.gz"):
            assert read_nifti(path)[0].shape == (8, 8, 8), step
        with holding(tmp_path / "out", "inpaint"):
            pass
        assert hidden(tmp_path) == [], step
