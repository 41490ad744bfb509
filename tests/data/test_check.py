"""metavoxel schema --check: every column and cell that a schema cannot take, at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from folders import write_bids
from metavoxel.cli import app
from metavoxel.data.check import notes_on, schema_in, unfit
from metavoxel.data.infer import infer_schema
from metavoxel.errors import MetaVoxelError
from metavoxel.model_files import FORMAT

IMAGE = "{kind: image, shape: [8, 8, 8], spacing: [2, 2, 2]}"
AGE = "{kind: continuous, unit: years, range: [0, 100]}"
SEX = "{kind: categorical, labels: [F, M]}"
TEXT = f"variables:\n  image: {IMAGE}\n  age: {AGE}\n  sex: {SEX}\n"
ROWS = ["participant_id age sex", "sub-1 40 F", "sub-2 forty X", "sub-3 140 m", "sub-4 n/a NA"]


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    path = tmp_path / "schema.yaml"
    path.write_text(TEXT)
    return path


def _check(root: Path, schema: Path) -> None:
    app(["schema", "--check", str(schema), str(root)], standalone_mode=False)


def test_all_bad_cells_are_listed_with_their_place(
    schema_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_bids(tmp_path / "bids", ROWS, ["sub-1_T1w"])
    with pytest.raises(MetaVoxelError, match=r"schema\.yaml does not fit .*bids: 3 bad cells\."):
        _check(root, schema_file)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", ")[2].partition(":")[0] for line in lines] == [
        'row 3, column "age"',
        'row 3, column "sex"',
        'row 4, column "age"',
    ]


def test_of_many_twenty_are_listed(
    schema_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["participant_id age sex", *(f"sub-{i} x F" for i in range(30))]
    root = write_bids(tmp_path / "bids", rows, ["sub-1_T1w"])
    with pytest.raises(MetaVoxelError, match=r"30 bad cells .*first 20 are listed"):
        _check(root, schema_file)
    assert len(capsys.readouterr().out.splitlines()) == 20


def test_a_table_that_fits_is_said_to(
    schema_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_bids(tmp_path / "bids", [*ROWS[:2], ROWS[4]], ["sub-1_T1w"])
    _check(root, schema_file)
    assert "its tables fit" in " ".join(capsys.readouterr().out.split())


def test_cells_of_sessions_are_checked_too(schema_file: Path, tmp_path: Path) -> None:
    texts = {"sub-1/sub-1_sessions.tsv": "session_id\tage\nses-1\told\n"}
    root = write_bids(tmp_path / "bids", ROWS[:2], ["sub-1_T1w"], texts=texts)
    (bad,) = unfit(root, schema_in(schema_file)).bad
    assert 'sub-1_sessions.tsv, row 2, column "age": "old" is not a number' in bad


def test_a_run_configuration_has_its_schema_under_a_key(schema_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("schema:\n" + "".join(f"  {line}\n" for line in TEXT.splitlines()))
    assert schema_in(run) == schema_in(schema_file)
    run.write_text("training: {seed: 1}\n")
    with pytest.raises(MetaVoxelError, match="there is no schema in it"):
        schema_in(run)


def test_a_model_folder_holds_its_schema(schema_file: Path, tmp_path: Path) -> None:
    schema = schema_in(schema_file)
    (tmp_path / "model").mkdir()
    text = json.dumps({"format": FORMAT, **schema.model_dump(mode="json")})
    (tmp_path / "model" / "schema.json").write_text(text)
    assert schema_in(tmp_path / "model") == schema


def test_all_absent_columns_are_listed_before_the_cells(
    schema_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema_file.write_text(TEXT + "  iq: {kind: continuous, column: IQ total}\n")
    rows = ["participant_id AGE sex", "sub-1 40 X"]
    root = write_bids(tmp_path / "bids", rows, ["sub-1_T1w"])
    with pytest.raises(MetaVoxelError, match=r"2 absent columns, 1 bad cell\."):
        _check(root, schema_file)
    age, iq, cell = capsys.readouterr().out.splitlines()
    assert 'no column "age", but one "AGE". Write column: AGE in the schema, or age in the' in age
    assert 'no column "IQ total", which the schema names for "iq"; the columns are AGE, sex' in iq
    assert '"X" is not one of F, M' in cell


def test_a_cohort_may_lack_columns_of_a_model(schema_file: Path, tmp_path: Path) -> None:
    """As evaluate takes it; not all of them."""
    model = tmp_path / "model"
    model.mkdir()
    text = json.dumps({"format": FORMAT, **schema_in(schema_file).model_dump(mode="json")})
    (model / "schema.json").write_text(text)
    _check(write_bids(tmp_path / "a", ["participant_id sex", "sub-1 F"], ["sub-1_T1w"]), model)
    root = write_bids(tmp_path / "b", ["participant_id x", "sub-1 F"], ["sub-1_T1w"])
    with pytest.raises(MetaVoxelError, match="2 absent columns"):
        _check(root, model)


def test_what_reading_would_say_is_said_with_the_schema(tmp_path: Path) -> None:
    rows = ["participant_id age", *(f"sub-{i} {40.5 + i}" for i in range(12)), "sub-x forty"]
    root = write_bids(tmp_path, rows, ["sub-1_T1w"])
    notes = notes_on(root, infer_schema(root))
    assert any("1 cell cannot be read, such as" in note and '"forty"' in note for note in notes)
    assert any("12 participants have no scan" in note for note in notes)
