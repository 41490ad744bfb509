"""A first schema from a folder: kinds, ranges, labels, one grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from folders import real, write_bids
from metavoxel.data.bids import check_trainable, read_cohort
from metavoxel.data.infer import infer, infer_schema
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
    assert kind.range == (10, 100)


def test_levels_make_labels_in_their_order(tmp_path: Path) -> None:
    kind = _column(tmp_path, ["b", "a", "b"], {"Levels": {"b": "", "a": "", "c": ""}})
    assert kind == Categorical(labels=("b", "a", "c"))


def test_a_description_is_a_column_s_whose_name_is_the_same_but_for_its_case(
    tmp_path: Path,
) -> None:
    rows = ["participant_id X Y", *(f"sub-{i} {i % 2} {i % 2}" for i in range(6))]
    levels = {"Levels": {"1": "a", "0": "b"}}
    root = write_bids(tmp_path, rows, SCAN, {"x": levels, "y": levels, "Y": {"Units": "km"}})
    variables = infer_schema(root).variables
    assert variables["X"] == Categorical(labels=("1", "0"))
    assert isinstance(variables["Y"], Continuous)
    write_bids(
        tmp_path, ["participant_id x X", *(f"sub-{i} {i % 2} {i % 2}" for i in range(6))], []
    )
    assert infer_schema(root).variables["X"] == Categorical(labels=("0", "1"))


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


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    rows = ["participant_id note site age", "sub-1 a A 31", "sub-2 n/a A 42", "sub-3 n/a A 50"]
    said: list[str] = []
    schema = infer_schema(write_bids(tmp_path, rows, SCAN), warn=said.append)
    assert list(schema.scalars) == ["age"]
    assert 'participants.tsv, column "note" is left out: it is "a" for everyone.' in said[0]
    assert 'column "site" is left out: it is "A" for everyone.' in said[1]


def _table(root: Path, text: str, described: Mapping[str, object] | None = None) -> Path:
    """A dataset with one scan and this participants.tsv."""
    write_bids(root, None, SCAN, described)
    (root / "participants.tsv").write_text(text)
    return root


def test_a_column_whose_name_is_no_identifier_is_read_under_another(tmp_path: Path) -> None:
    text = "participant_id\tAge (years)\tPHQ-9 Score\tage\timage\t2nd\tÄrzte\n" + "".join(
        f"sub-{i}\t{20.5 + i}\t{i % 5}\t{i}.5\t{i / 3:.2f}\t{i / 7:.2f}\t{i / 9:.2f}\n"
        for i in range(1, 13)
    )
    root = _table(tmp_path, text)
    schema = infer_schema(root)
    assert {v: k.column for v, k in schema.scalars.items()} == {
        "age_years": "Age (years)",
        "phq_9_score": "PHQ-9 Score",
        "age": None,
        "image": None,
        "_2nd": "2nd",
        "arzte": "Ärzte",
    }
    assert schema.numbers["age_years"].unit == "years"
    assert "t1w" in schema.images
    record = next(r for r in read_cohort(root, schema).records if r.subject == "sub-1")
    assert record.values["age_years"] == 21.5


def test_columns_of_the_sessions_are_read_for_kind_and_range(tmp_path: Path) -> None:
    texts = {
        f"sub-{i}/sub-{i}_sessions.tsv": f"session_id\tage\nses-1\t{30 + i}.5\nses-2\t{60 + i}.5\n"
        for i in (1, 2)
    } | {"sessions.json": '{"age": {"Units": "years"}}'}
    rows = ["participant_id", "sub-1", "sub-2"]
    age = infer_schema(write_bids(tmp_path, rows, SCAN, texts=texts)).numbers["age"]
    assert age.unit == "years"
    assert age.range is not None
    assert age.range[0] < 31.5 < 62.5 < age.range[1]


def test_waves_are_numbers_with_a_note(tmp_path: Path) -> None:
    rows = ["participant_id age_W1 age_W2", *(f"sub-{i} {40 + i} {44 + i}" for i in range(12))]
    inferred = infer(write_bids(tmp_path, rows, SCAN))
    assert set(inferred.schema.numbers) == {"age_W1", "age_W2"}
    assert any("age_W1, age_W2 look like visits" in note for note in inferred.notes)


def test_the_yaml_says_why(tmp_path: Path) -> None:
    rows = ["participant_id age group", *(f"sub-{i} {40 + i} {i % 2}" for i in range(12))]
    inferred = infer(write_bids(tmp_path, rows, SCAN))
    text = inferred.schema.to_yaml(inferred.reasons)
    assert '# a number: "age" is in its name' in text
    assert '# labels: "group" is in its name' in text


def test_what_cannot_be_inferred_gets_a_sentence(tmp_path: Path) -> None:
    rows = ["participant_id age", "sub-1 20", "sub-2 30"]
    with pytest.raises(MetaVoxelError, match="there is no image"):
        infer_schema(write_bids(tmp_path / "b", rows, []))
    damaged = write_bids(tmp_path / "c", rows, [], texts={"sub-1/anat/sub-1_T1w.nii.gz": "x"})
    with pytest.raises(MetaVoxelError, match=r"sub-1_T1w\.nii\.gz: damaged"):
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
    assert schema.numbers["age"].unit == "years"
    assert all(k.ordered == (v == "rankin") for v, k in schema.categorical.items())
    check_trainable(read_cohort(real(name), schema))
