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


def test_na_and_empty_cells_are_missing(tmp_path: Path) -> None:
    path = _write(tmp_path, "participant_id\tage\nsub-01\t40\nsub-02\tn/a\nsub-03\t\n")
    table = read_table(path)
    assert [(row.number, cell) for row, cell in table.known("age")] == [(2, "40")]


def test_quotes_do_not_swallow_rows(tmp_path: Path) -> None:
    """BIDS tables know no quoting: a stray one stays in its own cell."""
    path = _write(tmp_path, 'participant_id\tnote\nsub-01\t"left\nsub-02\tright\n')
    assert [row.cells["note"] for row in read_table(path).rows] == ['"left', "right"]


def test_blank_lines_count_as_rows_of_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "participant_id\tage\n\nsub-01\tforty\n")
    table = read_table(path)
    with pytest.raises(MetaVoxelError, match=r'participants\.tsv, row 3, column "age": "forty" is'):
        parse_cell(table, table.rows[0], "age", schema(age=AGE).continuous["age"])


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tage\nsub-01\t4\n", encoding="utf-8-sig")
    assert read_table(path).columns == ("participant_id", "age")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id\tage\nsub-01\t3\nsub-01\t4\n", 'row 3, .*"sub-01" stands in row 2'),
        ("participant_id\tage\nsub-01\t3\nsub-02\n", "row 3: 1 cells where the header has 2"),
        ("participant_id\tage\nn/a\t3\n", 'row 2, column "participant_id": it is empty'),
        ("participant_id\tage\tage\nsub-01\t3\t4\n", 'row 1: column "age" stands twice'),
        ("name\tage\nsub-01\t3\n", 'row 1: there is no column "participant_id"'),
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
    _write(tmp_path, "participant_id\nsub-01\n")
    (tmp_path / "participants.json").write_text("{")
    with pytest.raises(MetaVoxelError, match=r"participants\.json: this is not valid JSON"):
        read_table(path)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("age", "forty", 'row 2, column "age": "forty" is not a number. Write a number in years'),
        ("age", "140", 'row 2, column "age": 140 is outside the range 0 to 100'),
        ("age", "nan", 'row 2, column "age": nan is not a finite number'),
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
