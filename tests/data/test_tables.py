"""participants.tsv: every mistake names its row and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from folders import AGE, SEX, schema
from metavoxel.data.tables import at_least, parse_cell, read_table
from metavoxel.errors import MetaVoxelError


def _write(folder: Path, text: str) -> Path:
    path = folder / "participants.tsv"
    path.write_text(text)
    return path


def test_rows_without_a_participant_are_passed_over_and_said(tmp_path: Path) -> None:
    """As a second header is, or a row of a spreadsheet that was never filled in."""
    text = "participant_id\tage\n\t24x60x-2\nn/a\t3\nsub-01\t40\nparticipant_id\tage\n"
    table = read_table(_write(tmp_path, text))
    assert [row.number for row in table.rows] == [4]
    (note,) = table.notes
    assert 'row 2: 3 rows without participant_id left out (it says "24x60x-2")' in note


def test_columns_without_a_name_are_passed_over_and_said(tmp_path: Path) -> None:
    path = _write(tmp_path, "participant_id\tage\t\t\nsub-01\t40\tx\t\n")
    table = read_table(path)
    assert table.columns == ("participant_id", "age")
    assert "a column has no name and is left out" in table.notes[0]
    path = _write(tmp_path, "participant_id\tage\t\nsub-01\t40\t\nsub-02\t41\t\t\n")
    assert read_table(path).notes == ()


def test_quotes_do_not_swallow_rows(tmp_path: Path) -> None:
    """BIDS tables know no quoting: a stray one stays in its own cell."""
    path = _write(tmp_path, 'participant_id\tnote\nsub-01\t"left\nsub-02\tright\n')
    assert [row.cells["note"] for row in read_table(path).rows] == ['"left', "right"]


def test_quotes_around_a_cell_are_no_part_of_it(tmp_path: Path) -> None:
    """As R writes text, and names of columns."""
    text = '"participant_id"\t"age"\tnote\n"sub-01"\t"40"\t"a" or "b"\n"sub-02"\t""\t"\n'
    table = read_table(_write(tmp_path, text))
    assert table.columns == ("participant_id", "age", "note")
    assert [[*row.cells.values()] for row in table.rows] == [
        ["sub-01", "40", '"a" or "b"'],
        ["sub-02", "", '"'],
    ]


def test_the_key_may_be_in_capitals(tmp_path: Path) -> None:
    text = "PARTICIPANT_ID\tAGE\nsub-01\t40\nPARTICIPANT_ID\tAGE\n"
    table = read_table(_write(tmp_path, text))
    assert table.columns == ("participant_id", "AGE")
    assert [row.cells["participant_id"] for row in table.rows] == ["sub-01"]


def test_blank_lines_count_as_rows_of_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "participant_id\tage\n\nsub-01\tforty\n")
    table = read_table(path)
    with pytest.raises(MetaVoxelError, match=r'participants\.tsv, row 3, column "age": "forty" is'):
        parse_cell(table, table.rows[0], "age", schema(age=AGE).numbers["age"])


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tage\nsub-01\t4\n", encoding="utf-8-sig")
    assert read_table(path).columns == ("participant_id", "age")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id\tage\nsub-01\t3\nsub-01\t4\n", 'row 3, .*"sub-01" stands in row 2'),
        ("participant_id\tage\nsub-01\t3\nsub-02\n", "row 3: 1 cells where the header has 2"),
        ("participant_id\tage\tage\nsub-01\t3\t4\n", 'row 1: column "age" stands twice'),
        ("name\tage\nsub-01\t3\n", 'row 1: there is no column "participant_id".*name, age'),
        ("", 'row 1: there is no column "participant_id"'),
    ],
)
def test_a_bad_table_names_the_row(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match=f"participants.tsv, {message}"):
        read_table(_write(tmp_path, text))


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "participants.tsv"
    with pytest.raises(MetaVoxelError, match="no such file"):
        read_table(path)
    path.write_bytes(b"participant_id\tage\n\xff\xfe\t1\n")
    with pytest.raises(MetaVoxelError, match="Save it as UTF-8"):
        read_table(path)


@pytest.mark.parametrize("text", ["{", '{"age": {},}', "[]", '{"age": {}, "age": {}}'])
def test_a_description_that_cannot_be_read_is_not_taken_for_none(text: str, tmp_path: Path) -> None:
    path = _write(tmp_path, "participant_id\nsub-01\n")
    (tmp_path / "participants.json").write_text(text)
    with pytest.raises(MetaVoxelError, match=r"participants\.json"):
        read_table(path)


def test_a_description_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = _write(tmp_path, "participant_id\tage\nsub-01\t3\n")
    (tmp_path / "participants.json").write_text('{"age": {"Units": "years"}}', "utf-8-sig")
    assert read_table(path).described == {"age": {"Units": "years"}}


@pytest.mark.parametrize("name", ["participants.tsv", "participants.json"])
def test_a_link_to_a_file_that_is_not_here_is_no_absence(name: str, tmp_path: Path) -> None:
    path = _write(tmp_path, "participant_id\tage\nsub-01\t3\n")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(".git/annex/objects/aa")
    with pytest.raises(MetaVoxelError, match=f"{name}: it is a link .*datalad get"):
        read_table(path)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("age", "forty", 'row 2, column "age": "forty" is not a number. Write a number in years'),
        ("age", "140", 'row 2, column "age": 140 is outside the range 0 to 100'),
        ("age", "7_0", 'row 2, column "age": "7_0" is not a number'),
        ("age", "inf", 'row 2, column "age": "inf" is not a number'),
        ("age", "9" * 5000, 'row 2, column "age": "9{60}\\.\\.\\." is not a number'),
        ("sex", "x", 'row 2, column "sex": "x" is not one of F, M'),
    ],
)
def test_a_bad_cell_names_row_and_column(
    column: str, cell: str, message: str, tmp_path: Path
) -> None:
    table = read_table(_write(tmp_path, f"participant_id\t{column}\nsub-01\t{cell}\n"))
    with pytest.raises(MetaVoxelError, match=message):
        parse_cell(table, table.rows[0], column, schema(age=AGE, sex=SEX).scalars[column])


def test_values_cut_off_at_the_top() -> None:
    assert at_least("89+") == ("89", True)
    assert at_least("89") == ("89", False)
    assert at_least("+") == ("+", False)
