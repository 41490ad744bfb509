"""Numbers that stand for labels, and labels that YAML reads as something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metavoxel.data.bids import read_cohort
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Continuous, Schema, parse_schema


def coded(text: str) -> Continuous:
    schema = parse_schema(yaml.safe_load(f"variables: {{x: {{kind: continuous, {text}}}}}"), "test")
    assert parse_schema(schema.model_dump(mode="json"), "again") == schema
    return schema.continuous["x"]


def test_a_code_is_read_as_its_number_and_a_number_as_itself() -> None:
    sex = coded("codes: {F: 0, M: 1}")
    assert sex.range == (0, 1)
    assert [sex.parse(x) for x in ("F", "M", "0.25", 1)] == [0, 1, 0.25, 1]


def test_a_label_that_looks_like_a_number_is_a_label() -> None:
    assert coded('codes: {"1": 0, "2": 1}').parse("1") == 0


def test_keys_that_yaml_reads_as_truth_values_stay_text() -> None:
    stroke = coded("codes: {no: 0, yes: 1}")
    assert stroke.codes == {"no": 0, "yes": 1}
    assert stroke.parse("yes") == 1


@pytest.mark.parametrize(
    ("value", "label"), [(-3, "CN"), (0.9, "MCI"), (1.5, "MCI"), (1.51, "AD"), (9, "AD")]
)
def test_a_number_has_the_nearest_label(value: float, label: str) -> None:
    assert coded("codes: {CN: 0, MCI: 1, AD: 2}").label(value) == label


def test_a_range_that_is_given_stays() -> None:
    assert coded("codes: {F: 0, M: 1}, range: [-1, 2]").range == (-1, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("codes: {F: 0}", "at least two labels"),
        ("codes: {F: 0, M: 0}", "a number of its own"),
        ("codes: {F: 0, M: one}", "codes.M"),
        ("codes: {F: 0, M: .inf}", "finite"),
        ("codes: {F: 0, M: 1, X: .nan}", "finite"),
        ("codes: {F: 0, M: 1}, range: [0, 0.5]", "M: 1 is outside the range"),
    ],
)
def test_codes_that_cannot_be_are_refused(text: str, says: str) -> None:
    with pytest.raises(MetaVoxelError, match=says):
        coded(text)


@pytest.mark.parametrize(
    ("text", "says"), [("X", "a number or one of F, M"), ("3", "outside the range 0 to 1")]
)
def test_what_is_neither_code_nor_number_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        coded("codes: {F: 0, M: 1}").parse(text)


def test_without_codes_there_is_no_label() -> None:
    with pytest.raises(MetaVoxelError, match="Add codes"):
        Continuous().label(1)


def test_a_table_of_labels_is_read_as_numbers(tmp_path: Path) -> None:
    table = "participant_id\tsex\nsub-1\tM\nsub-2\tn/a\nsub-3\tF\n"
    (tmp_path / "participants.tsv").write_text(table)
    codes: dict[str, Any] = {"sex": {"kind": "continuous", "codes": {"F": 0, "M": 1}}}
    records = read_cohort(tmp_path, Schema(variables=codes)).records
    assert [r.values.get("sex") for r in records] == [1, None, 0]
