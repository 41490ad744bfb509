"""A BIDS folder and a schema become records; what does not fit gets one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from folders import AGE, SEX, noise, real, schema, write_bids, write_nifti
from metavoxel.data.bids import Cohort, check_trainable, read_cohort, read_within
from metavoxel.data.infer import infer
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image, Schema

SCHEMA = schema(age=AGE)
HEADER = "participant_id age"


def _names(cohort: Cohort) -> dict[str, str]:
    """The image's file name by record."""
    paths = {r.id: r.values.get("image") for r in cohort.records}
    return {i: p.name for i, p in paths.items() if isinstance(p, Path)}


def _with_entities(**entities: str | None) -> Schema:
    image = Image(shape=(8, 8, 8), spacing=(2, 2, 2), entities=entities)
    return Schema(variables={"image": image, "age": SCHEMA["age"]})


def test_rows_without_a_scan_and_scans_without_a_row_are_kept(tmp_path: Path) -> None:
    rows = [HEADER, "sub-01 40", "02 n/a", "sub-03 89+", "sub-04 "]
    root = write_bids(tmp_path, rows, ["sub-01_T1w", "sub-02_T1w", "sub-09_T1w"])
    cohort = read_cohort(root, SCHEMA)
    assert {r.id: sorted(r.values) for r in cohort.records} == {
        "sub-01": ["age", "image"],
        "sub-02": ["image"],
        "sub-03": ["age"],
        "sub-04": [],
        "sub-09": ["image"],
    }
    assert cohort.records[2].values["age"] == 89
    told = "\n".join(cohort.warnings)
    assert '1 values of "age" are written with a +' in told
    assert "2 participants have no scan" in told
    assert "1 scanned subjects have no row" in told


def test_a_cohort_is_narrowed_to_subjects(tmp_path: Path) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 40", "sub-02 41"], ["sub-01_T1w", "sub-02_T1w"])
    cohort = read_cohort(root, SCHEMA)
    assert cohort.subjects == ("sub-01", "sub-02")
    assert cohort.only(["sub-02"]).subjects == ("sub-02",)


def test_sessions_override_the_participant_s_row(tmp_path: Path) -> None:
    scans = ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-01_ses-3_T1w"]
    sessions = {"sub-01/sub-01_sessions.tsv": "session_id\tage\nses-1\t41\n2\t89+\nses-3\tn/a\n"}
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], scans, texts=sessions)
    cohort = read_cohort(root, SCHEMA)
    assert {r.id: r.values.get("age") for r in cohort.records} == {
        "sub-01_ses-1": 41,
        "sub-01_ses-2": 89,
        "sub-01_ses-3": None,  # what a visit does not know is no other visit's
    }
    assert any("sessions.tsv: 1 values" in w for w in cohort.warnings)


def test_a_column_may_stand_in_the_sessions_alone(tmp_path: Path) -> None:
    sessions = {"sub-01/sub-01_sessions.tsv": "session_id\tage\nses-1\t41\n"}
    root = write_bids(tmp_path, ["participant_id", "sub-01"], ["sub-01_ses-1_T1w"], texts=sessions)
    assert read_cohort(root, SCHEMA).records[0].values["age"] == 41


def test_a_visit_without_a_scan_is_a_record_of_its_own(tmp_path: Path) -> None:
    sessions = {
        "sub-01/sub-01_sessions.tsv": "session_id\tage\nses-1\t41\nses-2\t43\nses-3\tn/a\n",
        "sub-02/sub-02_sessions.tsv": "session_id\tage\nses-1\t51\n",
    }
    root = write_bids(
        tmp_path, [HEADER, "sub-01 40", "sub-02 50"], ["sub-01_ses-1_T1w"], texts=sessions
    )
    cohort = read_cohort(root, SCHEMA)
    assert {r.id: r.values["age"] for r in cohort.records} == {
        "sub-01_ses-1": 41,
        "sub-01_ses-2": 43,
        "sub-02_ses-1": 51,
    }
    assert [r.id for r in cohort.records if "image" in r.values] == ["sub-01_ses-1"]
    assert any(
        "2 visits of the tables have no scan (such as sub-01_ses-2)" in w for w in cohort.warnings
    )


def test_a_derivative_takes_the_tables_of_its_dataset(tmp_path: Path) -> None:
    sessions = {"sub-01/sub-01_sessions.tsv": "session_id\tage\nses-1\t41\n"}
    write_bids(tmp_path, [HEADER, "sub-01 40", "sub-02 50"], [], texts=sessions)
    root = tmp_path / "derivatives" / "brain"
    write_bids(root, None, ["sub-01_ses-1_desc-brain_T1w", "sub-02_desc-brain_T1w"])
    cohort = read_cohort(root, _with_entities(desc="brain"))
    assert {r.id: r.values["age"] for r in cohort.records} == {"sub-01_ses-1": 41, "sub-02": 50}


def test_without_entities_the_raw_file_is_meant(tmp_path: Path) -> None:
    scans = ["sub-01_T1w", "sub-01_space-MNI152_T1w", "sub-01_desc-brain_T1w"]
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], scans)
    assert _names(read_cohort(root, SCHEMA)) == {"sub-01": "sub-01_T1w.nii.gz"}


def test_a_derivative_needs_no_entities_where_one_file_fits(tmp_path: Path) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], ["sub-01_desc-brain_T1w"])
    assert _names(read_cohort(root, SCHEMA)) == {"sub-01": "sub-01_desc-brain_T1w.nii.gz"}


def test_entities_choose_the_file(tmp_path: Path) -> None:
    scans = ["sub-01_T1w", "sub-01_desc-a_T1w", "sub-01_desc-b_T1w"]
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], scans)
    chosen = _names(read_cohort(root, _with_entities(desc="b")))
    assert chosen == {"sub-01": "sub-01_desc-b_T1w.nii.gz"}


def test_the_lowest_run_is_taken_by_number(tmp_path: Path) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], ["sub-01_run-10_T1w", "sub-01_run-2_T1w"])
    cohort = read_cohort(root, SCHEMA)
    assert _names(cohort) == {"sub-01": "sub-01_run-2_T1w.nii.gz"}
    assert any("several runs" in w for w in cohort.warnings)


def test_one_scan_in_two_formats_is_ambiguous(tmp_path: Path) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], ["sub-01_T1w"])
    write_nifti(root / "sub-01" / "anat" / "sub-01_T1w.nii", noise(8, 8, 8))
    with pytest.raises(MetaVoxelError, match=r"both fit.*Keep one"):
        read_cohort(root, SCHEMA)


def test_files_that_are_no_bids_images_are_passed_over(tmp_path: Path) -> None:
    texts = {"sub-01/anat/sub-01_T1w.json": "{}", "sub-01/sub-01.nii.gz": "not BIDS"}
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], ["sub-01_T1w"], texts=texts)
    assert _names(read_cohort(root, SCHEMA)) == {"sub-01": "sub-01_T1w.nii.gz"}


TWO = ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_ses-1_T1w"]


def _ages(cohort: Cohort) -> dict[str, object]:
    return {r.id: r.values.get("age") for r in cohort.records}


def test_a_person_s_number_that_stands_for_several_visits_is_said(tmp_path: Path) -> None:
    """Not of who was seen once, and not of labels, which do not change."""
    root = write_bids(tmp_path, ["participant_id age sex", "sub-01 40 F", "sub-02 50 M"], TWO)
    cohort = read_cohort(root, schema(age=AGE, sex=SEX))
    assert _ages(cohort) == {"sub-01_ses-1": 40, "sub-01_ses-2": 40, "sub-02_ses-1": 50}
    said = [w for w in cohort.warnings if "stands for each visit" in w]
    assert len(said) == 1
    assert "age (2 visits), such as sub-01_ses-1" in said[0]


def test_a_table_with_a_row_per_session_is_read_as_visits(tmp_path: Path) -> None:
    rows = ["participant_id session_id age", "sub-01 ses-1 40", "sub-01 2 43", "sub-02 1 50"]
    cohort = read_cohort(write_bids(tmp_path, rows, TWO), SCHEMA)
    assert _ages(cohort) == {"sub-01_ses-1": 40, "sub-01_ses-2": 43, "sub-02_ses-1": 50}
    assert any('column "session_id" makes visits of 3 rows' in w for w in cohort.warnings)


@pytest.mark.parametrize("column", ["session_id", "SESSION_ID"])
def test_a_session_names_the_visit_with_one_row_a_person_too(column: str, tmp_path: Path) -> None:
    """What is not known of another visit is not known there; n/a is about the person."""
    rows = [f"participant_id {column} age", "sub-01 ses-1 40", "sub-02 n/a 50"]
    cohort = read_cohort(write_bids(tmp_path, rows, TWO), SCHEMA)
    assert _ages(cohort) == {"sub-01_ses-1": 40, "sub-01_ses-2": None, "sub-02_ses-1": 50}
    (said,) = (w for w in cohort.warnings if column in w)
    assert "makes visits of 1 rows: their values are those of that visit alone" in said
    assert not any(column in note for note in infer(tmp_path).notes)


def test_visits_that_no_scan_has_are_refused_with_a_near_pair(tmp_path: Path) -> None:
    scans = ["sub-01_ses-01_T1w", "sub-02_ses-M00_T1w"]
    rows = [HEADER, "sub-01 40", "sub-02 50"]
    sessions = {"sub-01/sub-01_sessions.tsv": "session_id\tage\n1\t40\n"}
    root = write_bids(tmp_path / "a", rows, scans, texts=sessions)
    pair = "Make the names agree, such as sub-01_ses-1 and sub-01_ses-01"
    with pytest.raises(MetaVoxelError, match=f"name 1 visits.*among the 2 scanned ones.*{pair}"):
        read_cohort(root, SCHEMA)
    rows = ["participant_id session_id age", "sub-02 m00 40"]
    with pytest.raises(MetaVoxelError, match="such as sub-02_ses-m00 and sub-02_ses-M00"):
        read_cohort(write_bids(tmp_path / "b", rows, scans), SCHEMA)
    with pytest.raises(MetaVoxelError, match=r"Those name no session \(ses-\)"):
        read_cohort(write_bids(tmp_path / "c", rows, ["sub-02_T1w"]), SCHEMA)
    root = write_bids(tmp_path / "d", [HEADER, "sub-01 40"], ["sub-01_T1w"], texts=sessions)
    assert _ages(read_cohort(root, SCHEMA)) == {"sub-01": 40, "sub-01_ses-1": 40}


def test_of_names_that_do_not_match_a_near_pair_is_told(tmp_path: Path) -> None:
    rows = ["participant_id session_id age", "sub-01 1 40", "sub-01 ses-1 43", "sub-2 ses-1 50"]
    rows[1] = "sub-01 02 40"
    warnings = read_cohort(write_bids(tmp_path, rows, TWO), SCHEMA).warnings
    assert any("(such as sub-01_ses-02; is sub-01_ses-2 meant?)" in w for w in warnings)
    assert any(
        "1 participants have no scan (such as sub-2; is sub-02 meant?)" in w for w in warnings
    )
    with pytest.raises(MetaVoxelError, match="Make the names agree, such as sub-2 and sub-02"):
        read_cohort(write_bids(tmp_path, [HEADER, "2 50"], TWO), SCHEMA)


def test_without_participants_the_images_and_the_sessions_are_read(tmp_path: Path) -> None:
    """BIDS only recommends participants.tsv. Two folders down: none of another test is above."""
    root = write_bids(tmp_path / "a" / "b" / "c", None, TWO)
    cohort = read_cohort(root, schema())
    assert len(_names(cohort)) == 3
    (note,) = cohort.warnings
    assert "there is no participants.tsv" in note
    write_bids(root, None, [], texts={"sub-02/sub-02_sessions.tsv": "session_id\tage\n1\t40\n"})
    assert _ages(read_cohort(root, SCHEMA))["sub-02_ses-1"] == 40
    assert "there is no participants.tsv" in "".join(infer(root).notes + cohort.warnings)


@pytest.mark.parametrize(
    ("rows", "sessions", "message"),
    [
        (
            ["participant_id session_id age", "sub-01 1 40", "sub-01 ses-1 41"],
            None,
            r'participants.tsv, row 3, column "session_id": "sub-01 ses-1" stands in row 2',
        ),
        (
            [HEADER, "sub-01 40", "sub-01 41"],
            None,
            'row 3, column "participant_id": "sub-01" stands in row 2.*in a column session_id',
        ),
        ([HEADER, "sub-01 40"], "session_id\tage\n1\t40\nses-1\t41\n", "row 3.*stands in row 2"),
        ([HEADER, "sub-01 40"], "visit\tage\n1\t40\n", 'no column "session_id".*visit, age'),
    ],
)
def test_a_visit_that_stands_twice_is_an_error_with_its_place(
    rows: list[str], sessions: str | None, message: str, tmp_path: Path
) -> None:
    texts = {} if sessions is None else {"sub-01/sub-01_sessions.tsv": sessions}
    with pytest.raises(MetaVoxelError, match=message):
        read_cohort(write_bids(tmp_path, rows, TWO, texts=texts), SCHEMA)


def test_sessions_that_are_not_here_are_no_absence(tmp_path: Path) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], TWO)
    (root / "sub-01" / "sub-01_sessions.tsv").symlink_to("../.git/annex/objects/key")
    with pytest.raises(MetaVoxelError, match=r"sub-01_sessions\.tsv: it is a link .*datalad get"):
        read_cohort(root, SCHEMA)


def test_two_variables_may_be_read_from_one_column_of_another_name(tmp_path: Path) -> None:
    root = tmp_path
    write_bids(root, ["participant_id x", "sub-01 1", "sub-02 2"], ["sub-01_T1w", "sub-02_T1w"])
    told = schema(
        age={"kind": "continuous", "column": "x"},
        sex={"kind": "categorical", "column": "x", "labels": ["1", "2"]},
    )
    first = read_cohort(root, told).records[0].values
    assert (first["age"], first["sex"]) == (1, "1")
    with pytest.raises(MetaVoxelError, match=r'no column "y", which the schema names for "age".*x'):
        read_cohort(root, schema(age={"kind": "continuous", "column": "y"}))


def test_missing_values_and_other_spellings_are_said_in_a_line_each(tmp_path: Path) -> None:
    rows = ["participant_id age sex", "sub-01 -999 f", "sub-02 NA M", "sub-03 40 m", "sub-04 n/a F"]
    root = write_bids(tmp_path, rows, ["sub-01_T1w"])
    cohort = read_cohort(root, schema(age={**AGE, "missing": [-999]}, sex=SEX))
    assert [r.values.get("sex") for r in cohort.records] == ["F", "M", "M", "F"]
    assert [r.values.get("age") for r in cohort.records] == [None, None, 40, None]
    (missing,) = (w for w in cohort.warnings if "taken for missing" in w)
    assert '2 cells are taken for missing: -999 in "age" (1), NA in "age" (1)' in missing
    (spelt,) = (w for w in cohort.warnings if "another spelling" in w)
    assert "2 cells are read as another spelling of a label: f as F (1), m as M (1)" in spelt


def test_who_is_beyond_the_schema_is_left_out_with_a_note(tmp_path: Path) -> None:
    rows = ["participant_id age sex", "sub-01 140 F", "sub-02 40 X", "sub-03 40 F"]
    root = write_bids(tmp_path, rows, ["sub-01_T1w", "sub-02_T1w", "sub-03_T1w"])
    cohort, everyone, notes = read_within(root, schema(age=AGE, sex=SEX))
    assert everyone == {"sub-01", "sub-02", "sub-03"}
    assert [r.id for r in cohort.records] == ["sub-03"]
    assert "2 records are left out" in notes[0]
    assert 'row 2, column "age": 140 is outside the range 0 to 100' in notes[0]


def test_who_has_no_number_is_no_one_beyond_the_schema(tmp_path: Path) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 forty"], ["sub-01_T1w"])
    with pytest.raises(MetaVoxelError, match='"forty" is not a number'):
        read_within(root, SCHEMA)


@pytest.mark.parametrize("text", ["{", '{"DatasetLinks": []}', '{"DatasetLinks": {"a": 1}}'])
def test_links_that_cannot_be_read_are_not_taken_for_none(text: str, tmp_path: Path) -> None:
    root = write_bids(tmp_path / "a" / "b" / "c", None, ["sub-01_T1w"])
    (root / "dataset_description.json").write_text(text)
    with pytest.raises(MetaVoxelError, match=r"dataset_description\.json"):
        read_cohort(root, SCHEMA)


BAD = {
    "no table": (None, ["sub-01_T1w"], "there is no participants.tsv"),
    "no column": (
        ["participant_id sex", "sub-01 F"],
        ["sub-01_T1w"],
        'no column "age"; the columns are sex',
    ),
    "wrong suffix": ([HEADER, "sub-01 40"], ["sub-01_FLAIR"], "suffix T1w.*found are: FLAIR"),
    "no image": ([HEADER, "sub-01 40"], [], "suffix T1w.*found are: none"),
    "no subject shared": (
        [HEADER, "sub-02 40"],
        ["sub-01_T1w"],
        "none of its 1 participants has a scan.*sub-01",
    ),
    "twice": ([HEADER, "sub-01 40", "01 41"], ["sub-01_T1w"], "row 3.*row 2 already"),
    "cell": ([HEADER, "sub-01 forty"], ["sub-01_T1w"], 'row 2, column "age": "forty"'),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_gets_a_sentence(case: str, tmp_path: Path) -> None:
    rows, scans, message = BAD[case]
    # Two folders down, so that no participants.tsv of another test stands above it.
    root = write_bids(tmp_path / "a" / "b" / "c", rows, scans)
    with pytest.raises(MetaVoxelError, match=message):
        read_cohort(root, SCHEMA)


def test_a_missing_folder_and_wrong_entities_are_named(tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match="there is no such folder"):
        read_cohort(tmp_path / "no", SCHEMA)
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], ["sub-01_desc-a_T1w"])
    with pytest.raises(MetaVoxelError, match=r"T1w and desc-b.*found are: desc-a_T1w"):
        read_cohort(root, _with_entities(desc="b"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["participant_id age sex", "sub-01 n/a F", "sub-02 n/a M"], '"age" has no value'),
        (["participant_id age sex", "sub-01 40 F", "sub-02 41 F"], '"sex" is "F" in every'),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_training_only(
    rows: list[str], message: str, tmp_path: Path
) -> None:
    root = write_bids(tmp_path, rows, ["sub-01_T1w", "sub-02_T1w"])
    cohort = read_cohort(root, schema(age=AGE, sex=SEX))
    with pytest.raises(MetaVoxelError, match=message):
        check_trainable(cohort)


def test_nobody_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match="nobody"):
        check_trainable(Cohort(tmp_path, SCHEMA, ()))


@pytest.mark.real
def test_real_cohorts_are_read_gaps_and_all() -> None:
    brain = {"kind": "image", "shape": [40, 48, 40], "spacing": [4, 4, 4]}
    brain["entities"] = {"space": "MNI152", "desc": "brain"}
    cohort = read_cohort(real("ixi/derivatives/brain"), schema(image=brain, age=AGE, sex=SEX))
    check_trainable(cohort)
    assert len(cohort.records) == 149
    flair = {"kind": "image", "suffix": "FLAIR", "shape": [96, 80], "spacing": [2, 2]}
    stroke = read_cohort(real("stroke"), schema(image=flair, age=AGE, sex=SEX))
    assert len(stroke.records) == 1259
    assert any("89+" in w for w in stroke.warnings)
    assert 0 < sum("age" in r.values for r in stroke.records) < 1259


def test_a_derivative_elsewhere_takes_its_rows_from_the_dataset_that_it_links_to(
    tmp_path: Path,
) -> None:
    raw = write_bids(tmp_path / "raw data", ["participant_id age", "sub-01 30"], [])
    out = write_bids(tmp_path / "out", None, ["sub-01_T1w"])
    links = {"raw": raw.as_uri(), "atlas": "https://example.org/atlas", "gone": "file:///nowhere"}
    (out / "dataset_description.json").write_text(json.dumps({"DatasetLinks": links}))
    (record,) = read_cohort(out, schema(age=AGE)).records
    assert record.values["age"] == 30
    assert "image" in record.values
