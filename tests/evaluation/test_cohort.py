"""Who may be scored: never anyone whom the model was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from folders import AGE, SEX, schema
from metavoxel.data.splits import Split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import as_table, join, read_parts
from small import write_cohort

SCHEMA = schema(age=AGE, sex=SEX)
SPLIT = Split(("sub-01", "sub-02"), ("sub-03",), ("sub-04", "sub-05"), "by hand")


def cohort(root: Path, *numbers: str) -> Path:
    return write_cohort(root, [f"sub-{n} 40 F" for n in numbers])


def test_of_the_models_own_cohort_its_test_subjects_count(tmp_path: Path) -> None:
    parts = read_parts(cohort(tmp_path, "01", "02", "03", "04", "05"), SCHEMA, SPLIT, False)
    assert parts.test.subjects == ("sub-04", "sub-05")
    assert parts.training.subjects == ("sub-01", "sub-02")
    assert parts.validation.subjects == ("sub-03",)
    assert parts.people == "the model's test subjects (by hand)"
    assert parts.left_out == ("3 subjects not scored: the model was trained or validated on them",)


def test_who_shares_a_cohort_with_training_subjects_is_not_taken_for_a_stranger(
    tmp_path: Path,
) -> None:
    parts = read_parts(cohort(tmp_path, "01", "04", "77", "78"), SCHEMA, SPLIT, False)
    assert parts.test.subjects == ("sub-04",)
    assert parts.left_out == (
        "1 subjects not scored: the model was trained or validated on them",
        "2 subjects not scored: they are not among the model's test subjects",
    )


@pytest.mark.parametrize("seen", ["01", "03"])
def test_training_and_validation_subjects_without_a_test_subject_are_refused(
    tmp_path: Path, seen: str
) -> None:
    with pytest.raises(MetaVoxelError, match=r"1 of its subjects trained .* add --external"):
        read_parts(cohort(tmp_path, seen, "77"), SCHEMA, SPLIT, False)


def test_strangers_are_all_scored_with_the_models_test_subjects_among_them(tmp_path: Path) -> None:
    parts = read_parts(cohort(tmp_path, "04", "77", "78"), SCHEMA, SPLIT, False)
    assert parts.test.subjects == ("sub-04", "sub-77", "sub-78")
    assert parts.training.subjects == parts.validation.subjects == parts.left_out == ()
    assert parts.people.endswith("1 of its 3 subjects are the model's test subjects")


def test_other_people_of_the_same_names_are_scored_if_the_user_says_so(tmp_path: Path) -> None:
    parts = read_parts(cohort(tmp_path, "01", "02"), SCHEMA, SPLIT, True)
    assert parts.test.subjects == ("sub-01", "sub-02")
    assert "said to be none of the model's" in parts.people


def test_who_is_beyond_the_schema_is_left_out_with_a_note(tmp_path: Path) -> None:
    bids = write_cohort(tmp_path, ["sub-77 140 F", "sub-78 40 X", "sub-79 40 f"])
    parts = read_parts(bids, SCHEMA, SPLIT, False)
    assert parts.test.subjects == ("sub-79",)
    assert "2 records are left out" in parts.left_out[0]
    assert any("another spelling" in warning for warning in parts.warnings)
    nobody = write_cohort(tmp_path / "b", ["sub-77 140 F"])
    with pytest.raises(MetaVoxelError, match="nobody is left to score: 1 records are left out"):
        read_parts(nobody, SCHEMA, SPLIT, False)


def test_who_is_left_out_still_says_whose_cohort_it_is(tmp_path: Path) -> None:
    """A training subject beyond the range does not make strangers of the others."""
    bids = write_cohort(tmp_path, ["sub-01 140 F", "sub-04 40 F", "sub-77 40 F"])
    parts = read_parts(bids, SCHEMA, SPLIT, False)
    assert parts.test.subjects == ("sub-04",)


def test_a_column_of_another_name_is_scored(tmp_path: Path) -> None:
    bids = write_cohort(tmp_path, ["sub-77 44"], "participant_id Years")
    named = schema(age={**AGE, "column": "Years"}, sex=SEX)
    parts = read_parts(bids, named, SPLIT, False)
    assert [*parts.test.schema.scalars] == ["age"]
    assert parts.test.records[0].values["age"] == 44


def test_columns_of_sessions_are_columns(tmp_path: Path) -> None:
    bids = write_cohort(tmp_path, ["sub-77 F"], "participant_id sex")
    path = bids / "sub-77" / "sub-77_sessions.tsv"
    path.write_text("session_id\tage\nses-1\t44\n")
    parts = read_parts(bids, SCHEMA, SPLIT, False)
    assert [*parts.test.schema.scalars] == ["age", "sex"]


def test_a_cohort_with_none_of_the_columns_is_refused(tmp_path: Path) -> None:
    bids = write_cohort(tmp_path, ["sub-77 1"], "participant_id iq")
    with pytest.raises(MetaVoxelError, match="none of the model's columns age, sex"):
        read_parts(bids, SCHEMA, SPLIT, False)


def test_tables_join_record_by_record(tmp_path: Path) -> None:
    whole = read_parts(cohort(tmp_path, "77", "78", "79"), SCHEMA, SPLIT, False).test
    parts = [as_table(SCHEMA, whole.only(s)) for s in (["sub-77"], ["sub-78", "sub-79"])]
    both, expected = join(*parts), as_table(SCHEMA, whole)
    assert (both.records, both.subjects) == (expected.records, expected.subjects)
    assert (both.images["image"] == expected.images["image"]).all()
    assert len(both) == 3
