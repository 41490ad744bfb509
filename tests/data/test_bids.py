"""A BIDS folder and a schema become records; what does not fit gets one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from folders import AGE, SEX, noise, real, schema, write_bids, write_nifti
from metavoxel.data.bids import Cohort, check_trainable, read_cohort
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image, Schema

SCHEMA = schema(age=AGE)
HEADER = "participant_id age"


def _names(cohort: Cohort) -> dict[str, str]:
    """The image's file name by record."""
    paths = {r.id: r.values.get("image") for r in cohort.records}
    return {i: p.name for i, p in paths.items() if isinstance(p, Path)}


def _with_entities(**entities: str) -> Schema:
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
    assert {r.id: r.values["age"] for r in cohort.records} == {
        "sub-01_ses-1": 41,
        "sub-01_ses-2": 89,
        "sub-01_ses-3": 40,
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
        "2 visits of sessions.tsv have no scan (such as sub-01_ses-2)" in w for w in cohort.warnings
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


@pytest.mark.parametrize(
    ("scans", "choice"),
    [
        (["sub-01_acq-a_T1w", "sub-01_acq-b_T1w"], "{acq: a or b}"),
        (["sub-01_acq-a_run-1_T1w", "sub-01_acq-b_run-2_T1w"], "{acq: a or b}"),
        (["sub-01_desc-a_T1w", "sub-01_desc-b_T1w"], "{desc: a or b}"),
    ],
)
def test_an_ambiguous_scan_says_what_would_choose(
    scans: list[str], choice: str, tmp_path: Path
) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], scans)
    with pytest.raises(MetaVoxelError, match=f"both fit.*{re.escape(choice)}"):
        read_cohort(root, SCHEMA)


def test_one_scan_in_two_formats_is_ambiguous(tmp_path: Path) -> None:
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], ["sub-01_T1w"])
    write_nifti(root / "sub-01" / "anat" / "sub-01_T1w.nii", noise(8, 8, 8))
    with pytest.raises(MetaVoxelError, match=r"both fit.*Keep one"):
        read_cohort(root, SCHEMA)


def test_files_that_are_no_bids_images_are_passed_over(tmp_path: Path) -> None:
    texts = {"sub-01/anat/sub-01_T1w.json": "{}", "sub-01/sub-01.nii.gz": "not BIDS"}
    root = write_bids(tmp_path, [HEADER, "sub-01 40"], ["sub-01_T1w"], texts=texts)
    assert _names(read_cohort(root, SCHEMA)) == {"sub-01": "sub-01_T1w.nii.gz"}


BAD = {
    "no table": (None, ["sub-01_T1w"], "there is no participants.tsv"),
    "no column": (
        ["participant_id sex", "sub-01 F"],
        ["sub-01_T1w"],
        'no column "age"; the columns are participant_id, sex',
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
