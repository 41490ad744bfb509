"""A first schema from a folder: kinds, ranges, labels, one grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from folders import noise, real, write_bids, write_nifti
from metavoxel.data.bids import check_trainable, read_cohort
from metavoxel.data.infer import infer_schema
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Categorical, Continuous

SCAN = ["sub-1_T1w"]


def _column(root: Path, cells: list[str], described: object = None) -> object:
    rows = ["participant_id x", *(f"sub-{i + 1} {cell}" for i, cell in enumerate(cells))]
    write_bids(root, rows, SCAN, None if described is None else {"x": described})
    return infer_schema(root).variables.get("x")


def test_units_make_a_number_with_a_range_rounded_outward(tmp_path: Path) -> None:
    kind = _column(tmp_path, ["20.3", "n/a", "79", "89+"], {"Units": "years"})
    assert isinstance(kind, Continuous)
    assert kind.unit == "years"
    assert kind.range == (20, 90)


def test_levels_make_labels_in_their_order(tmp_path: Path) -> None:
    kind = _column(tmp_path, ["b", "a", "b"], {"Levels": {"b": "", "a": "", "c": ""}})
    assert kind == Categorical(labels=("b", "a", "c"))


def test_words_and_few_whole_numbers_are_labels_many_numbers_are_not(tmp_path: Path) -> None:
    assert _column(tmp_path / "a", ["yes", "no", "yes"]) == Categorical(labels=("no", "yes"))
    codes = _column(tmp_path / "b", ["2", "0", "1", "2"])
    assert codes == Categorical(labels=("0", "1", "2"), ordered=True)
    assert isinstance(_column(tmp_path / "c", [f"{i / 7:.2f}" for i in range(30)]), Continuous)


@pytest.mark.parametrize(
    ("description", "ordered"),
    [
        ("Severity, ordered", True),
        ("Bipolar disorder", False),
        ("unordered", False),
        ("Order of birth", False),
        ("not ordered", False),
    ],
)
def test_order_is_what_the_description_says(
    description: str, ordered: bool, tmp_path: Path
) -> None:
    described = {"Description": description, "Levels": {"a": "", "b": ""}}
    assert _column(tmp_path, ["a", "b"], described) == Categorical(
        labels=("a", "b"), ordered=ordered
    )


@pytest.mark.parametrize("described", [{"Units": "years"}, None])
def test_a_typo_does_not_make_a_column_vanish(described: object, tmp_path: Path) -> None:
    """The column stays a number, and reading the folder names the cell."""
    cells = [f"{20 + 1.5 * i:.1f}" for i in range(40)]
    cells[15] = "forty"
    assert isinstance(_column(tmp_path, cells, described), Continuous)
    with pytest.raises(MetaVoxelError, match='row 17, column "x": "forty" is not a number'):
        read_cohort(tmp_path, infer_schema(tmp_path))


def test_a_label_outside_the_levels_is_an_error_on_reading(tmp_path: Path) -> None:
    _column(tmp_path, ["F", "M", "x"], {"Levels": {"F": "", "M": ""}})
    with pytest.raises(MetaVoxelError, match='row 4, column "x": "x" is not one of F, M'):
        read_cohort(tmp_path, infer_schema(tmp_path))


def test_columns_that_teach_nothing_are_left_out(tmp_path: Path) -> None:
    assert _column(tmp_path / "a", ["n/a", "n/a"]) is None
    assert _column(tmp_path / "b", ["F", "F"]) is None
    assert _column(tmp_path / "c", [f"note-{i}" for i in range(50)]) is None


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


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    rows = ["participant_id BMI(kg) site age", "sub-1 20 A 31", "sub-2 30 A 42"]
    said: list[str] = []
    schema = infer_schema(write_bids(tmp_path, rows, SCAN), warn=said.append)
    assert list(schema.scalars) == ["age"]
    assert 'column "BMI(kg)" is left out: it cannot name a variable' in said[0]
    assert 'column "site" is left out: it is empty, the same for everyone' in said[1]


def test_what_cannot_be_inferred_gets_a_sentence(tmp_path: Path) -> None:
    rows = ["participant_id age", "sub-1 20", "sub-2 30"]
    with pytest.raises(MetaVoxelError, match="there is no image"):
        infer_schema(write_bids(tmp_path / "b", rows, []))
    damaged = write_bids(tmp_path / "c", rows, [], texts={"sub-1/anat/sub-1_T1w.nii.gz": "x"})
    with pytest.raises(MetaVoxelError, match=r"sub-1_T1w\.nii\.gz: cannot be read"):
        infer_schema(damaged)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "resolution", "shape", "labels"),
    [
        ("ixi", None, (96, 120, 120), {"sex": ("F", "M")}),
        ("ixi/derivatives/brain", 4, (48, 56, 48), {"sex": ("F", "M")}),
        ("stroke", 2, (96, 80), {"race": ("white", "black"), "rankin": tuple("0123456")}),
    ],
)
def test_real_cohorts_can_be_read_and_trained_on_as_inferred(
    name: str, resolution: float | None, shape: tuple[int, ...], labels: dict[str, tuple[str, ...]]
) -> None:
    schema = infer_schema(real(name), resolution)
    assert schema.images["image"].shape == shape
    assert {v: schema.categorical[v].labels for v in labels} == labels
    assert schema.continuous["age"].unit == "years"
    assert all(k.ordered == (v == "rankin") for v, k in schema.categorical.items())
    check_trainable(read_cohort(real(name), schema))
