"""Kinds of variables: numbers, labels, what is missing, and the YAML that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metavoxel.data.bids import read_cohort
from metavoxel.errors import MetaVoxelError
from metavoxel.inference.query import parse_query
from metavoxel.schema import Categorical, Continuous, Schema, parse_schema, read_schema


def coded(text: str) -> Continuous:
    schema = parse_schema(yaml.safe_load(f"variables: {{x: {{kind: continuous, {text}}}}}"), "test")
    assert parse_schema(schema.model_dump(mode="json"), "again") == schema
    kind = schema.numbers["x"]
    assert isinstance(kind, Continuous)
    return kind


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


def _schema(text: str) -> Schema:
    return parse_schema(yaml.safe_load(f"variables: {{x: {{{text}}}}}"), "test")


@pytest.mark.parametrize("text", ["7_0", "inf", "nan", "0x7", "70 years", "7,5"])
def test_a_question_reads_numbers_as_a_table_does(text: str) -> None:
    schema = _schema("kind: continuous")
    with pytest.raises(MetaVoxelError, match=r"x: .*(is not a number|stands for a missing value)"):
        parse_query(f'_ | x="{text}"').check(
            Schema(variables={**schema.variables, "_": schema["x"]})
        )


@pytest.mark.parametrize("text", ["n/a", "NA", "nan", "-999", "-999.0"])
@pytest.mark.parametrize("kind", ["kind: continuous", "kind: categorical, labels: [a, b]"])
def test_a_missing_value_in_a_question_is_to_be_left_out(text: str, kind: str) -> None:
    variable = _schema(f"{kind}, missing: [-999]").scalars["x"]
    assert variable.is_missing(text)
    with pytest.raises(ValueError, match=r"stands for a missing value\. Leave the variable out"):
        variable.parse(text)


def test_a_word_that_is_a_label_is_never_missing() -> None:
    drug = _schema("kind: categorical, labels: [none, aspirin]").categorical["x"]
    assert not drug.is_missing("None")
    assert drug.parse("None") == "none"
    assert drug.is_missing("n/a")


def test_labels_are_read_in_any_spelling_that_is_no_other_label_s() -> None:
    assert [Categorical(labels=("F", "M")).parse(x) for x in ("f", " M ", "F")] == ["F", "M", "F"]
    codes = Categorical(labels=("1", "2"))
    assert [codes.parse(x) for x in ("1.0", "02", 2, 1.0)] == ["1", "2", "2", "1"]
    apart = Categorical(labels=("f", "F", "M"))
    assert [apart.parse(x) for x in ("f", "F", "m")] == ["f", "F", "M"]
    with pytest.raises(ValueError, match='"Male" is not one of F, M'):
        Categorical(labels=("F", "M")).parse("Male")


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(ValueError, match='"True" is not a number'):
        Continuous().parse(True)
    assert coded("codes: {no: 0, yes: 1}").parse(True) == 1


def test_what_is_missing_cannot_be_a_label() -> None:
    with pytest.raises(MetaVoxelError, match="cannot be missing and a label"):
        _schema("kind: categorical, labels: ['1', '2'], missing: ['1.0']")


def test_a_schema_is_written_a_line_a_variable_and_read_back(tmp_path: Path) -> None:
    """With names, columns, labels and reasons that YAML would take for something else."""
    schema = parse_schema(
        {
            "variables": {
                "no": {"kind": "continuous", "column": "Age: (years) # 1", "range": [18, 90]},
                "x": {"kind": "categorical", "labels": ["no", "1", "", "null"], "missing": [-9]},
                "image": {
                    "kind": "image",
                    "entities": {"ce": None, "run": 1, "acq": "no"},
                    "shape": [8, 8],
                    "spacing": [1.5, 2],
                },
            }
        },
        "test",
    )
    text = schema.to_yaml({"no": "a number: its\nunit # is given", "x": "labels\a\u2028"})
    (tmp_path / "schema.yaml").write_text(text)
    assert read_schema(tmp_path / "schema.yaml") == schema
    assert len(text.splitlines()) == 4
    assert text.splitlines()[1].endswith("range: [18, 90]}  # a number: its unit # is given")


def test_an_unknown_variable_of_another_case_is_named() -> None:
    number = {"kind": "continuous"}
    told = parse_schema({"variables": {"age": number, "sex": number}}, "test")
    with pytest.raises(MetaVoxelError, match=r"the schema has age, sex\. Write age: only the case"):
        told["AGE"]
    with pytest.raises(MetaVoxelError, match=r"the schema has age, sex\.$"):
        told["ages"]
