"""Scores by group: every subject with a value is in one, and few subjects are not scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from folders import AGE, SEX, schema, write_bids
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.groups import bands, group_lines, groupings, score_groups
from metavoxel.evaluation.report import as_markdown, evaluate
from metavoxel.evaluation.scoring import Evaluation
from metavoxel.evaluation.systems import ONE, SystemAnswers
from small import write_cohort, write_model_folder

N = 30


def evaluation(age_error: np.ndarray) -> Evaluation:
    """Thirty subjects, twelve women; nobody knows the age of the last."""
    age = np.linspace(20, 80, N)
    age[-1] = np.nan
    sex = (np.arange(N) >= 12).astype(float)
    names = tuple(f"sub-{i:02d}" for i in range(N))
    table = Table({}, {"age": age, "sex": sex}, names, names)
    points = {"age": np.nan_to_num(age) + age_error, "sex": np.zeros(N)}
    said = {ONE: SystemAnswers(points)}
    return Evaluation(schema(age=AGE, sex=SEX), None, table, said, ONE, {})  # type: ignore[arg-type]  # no model is asked


def test_a_group_has_its_own_error(tmp_path: Path) -> None:
    """Women are told 2 years too old, men 5; everybody is called a woman."""
    this = evaluation(np.where(np.arange(N) < 12, 2.0, 5.0))
    rows = score_groups(this, groupings(tmp_path, this.schema, this.table, ()))
    found = {(row["group"], row["variable"]): row for row in rows}
    assert found["F", "age"]["score"]["value"] == pytest.approx(2)
    assert found["M", "age"]["score"]["value"] == pytest.approx(5)
    assert found["M", "age"]["subjects"] == 17 and found["M", "sex"]["subjects"] == 18
    assert found["F", "sex"]["score"]["value"] == 1 and found["M", "sex"]["score"]["value"] == 0
    head, lines = group_lines(rows)
    assert head == ["by", "group", "subjects", "age", "sex"]
    assert [line[:3] for line in lines] == [["sex", "F", "12"], ["sex", "M", "18"]]
    assert lines[1][3] == "5 [5, 5] (of 17)"


def test_terciles_hold_everybody_once_and_nobody_without_a_value() -> None:
    values = np.array([*range(30), np.nan])
    found = bands(values)
    assert [name for name, _ in found] == ["0 to 9", "10 to 19", "20 to 29"]
    np.testing.assert_array_equal(np.sum([inside for _, inside in found], axis=0), [*[1] * 30, 0])
    assert [name for name, _ in bands(np.array([1.0, 1, 1, np.nan]))] == ["1 to 1"]
    assert bands(np.array([np.nan])) == []


def test_a_column_makes_groups_and_one_of_many_numbers_bands(tmp_path: Path) -> None:
    """A column of the tables need be no variable; few subjects of a value are not scored."""
    this = evaluation(np.ones(N))
    rows = [f"sub-{i:02d} {'A' if i < 25 else 'B'} {i}" for i in range(N - 1)]
    bids = write_bids(tmp_path, ["participant_id site iq", *rows, "sub-29 n/a n/a"], [])
    found = groupings(bids, this.schema, this.table, ["site", "iq", "age"])
    assert [(name, int(inside.sum())) for name, inside in found["site"]] == [("A", 25), ("B", 4)]
    assert [int(inside.sum()) for _, inside in found["iq"]] == [10, 9, 10]
    assert len(found["age"]) == 3
    scored = {r["group"]: r["score"] for r in score_groups(this, {"site": found["site"]})}
    assert scored["A"] is not None and scored["B"] is None
    with pytest.raises(MetaVoxelError, match='there is no column "centre"; the columns are site'):
        groupings(bids, this.schema, this.table, ["centre"])


def test_the_report_shows_the_groups_that_were_named(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    rows = [f"sub-9{i:02d} {20 + 3 * i} {'FM'[i % 2]} {'AB'[i // 12]}" for i in range(24)]
    bids = write_cohort(tmp_path / "bids", rows, "participant_id age sex site")
    report = evaluate(model, bids, tmp_path / "out", 2, 0, Console(quiet=True), by=["site", "sex"])
    groups = {(row["by"], row["group"]) for row in report["groups"]}
    assert groups == {("site", "A"), ("site", "B"), ("sex", "F"), ("sex", "M")}
    assert "| site | A | 12 |" in as_markdown(report)
    assert "By group" in (tmp_path / "out" / "report.html").read_text()
