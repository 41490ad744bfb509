"""Another prior, as it is written and as it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from folders import AGE, SEX, schema
from metavoxel.errors import MetaVoxelError
from metavoxel.inference.stated_prior import check_prior, parse_prior, prior_text

DIAGNOSIS = {"kind": "categorical", "labels": ["CN", "MCI", "very old"]}
SCHEMA = schema(age=AGE, sex=SEX, diagnosis=DIAGNOSIS)
TEXT = "diagnosis: CN 0.8, MCI 0.15, very old 0.05; sex: F 0.5, M 0.5"
STATED = {
    "diagnosis": {"CN": 0.8, "MCI": 0.15, "very old": 0.05},
    "sex": {"F": 0.5, "M": 0.5},
}


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f" {TEXT} ; ",
        TEXT.replace(" ", "  "),
        TEXT.replace(", ", ",").replace(": ", ":").replace("; ", ";"),
        TEXT.replace("0.8", "8e-1").replace("0.5,", ".5,"),
    ],
)
def test_a_prior_is_read_however_it_is_spaced(text: str) -> None:
    read = parse_prior(text)
    labels = {" ".join(x.split()): p for x, p in read["diagnosis"].items()}
    assert labels == STATED["diagnosis"] and read["sex"] == STATED["sex"]


def test_what_is_printed_is_what_is_read() -> None:
    assert parse_prior(prior_text(STATED)) == STATED


def test_shares_are_in_the_schema_s_order_whatever_the_statement_s() -> None:
    turned = {"diagnosis": {"very old": 0.05, "CN": 0.8, "MCI": 0.15}}
    assert check_prior(turned, SCHEMA) == {"diagnosis": pytest.approx([0.8, 0.15, 0.05])}


def test_rounded_shares_have_a_sum_of_1_and_0_is_a_share() -> None:
    thirds = {"diagnosis": {"CN": 0.33, "MCI": 0.33, "very old": 0.33}}
    assert check_prior(thirds, SCHEMA)["diagnosis"] == pytest.approx([1 / 3] * 3)
    assert check_prior({"sex": {"F": 1, "M": 0}}, SCHEMA) == {"sex": [1, 0]}
    assert check_prior({}, SCHEMA) == {}


REFUSED_TEXT = {
    "": "is empty",
    " ; ;": "is empty",
    "diagnosis": "states no variable",
    "diagnosis:": "states no variable",
    ": CN 1": "states no variable",
    "sex: F 0.5, M 0.5; sex: F 1, M 0": "sex is stated twice",
    "sex: F 0.5, F 0.5, M 0.5": "F of sex is stated twice",
    "sex: F, M 0.5": '"F" is not a label and its share',
    "sex: F half, M half": '"F half" is not a label and its share',
    "sex: F 0.5, , M 0.5": '"" is not a label and its share',
    "sex: F 50%, M 50%": "is not a label and its share",
}


@pytest.mark.parametrize("text", REFUSED_TEXT)
def test_text_that_states_no_prior_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(MetaVoxelError) as caught:
        parse_prior(text)
    said = str(caught.value)
    assert REFUSED_TEXT[text] in said and said.startswith("--prior")
    assert said.endswith(".") and "\n" not in said


REFUSED: list[tuple[Any, str]] = [
    ({"height": {"a": 1}}, 'no variable "height"'),
    ({"age": {"70": 1}}, "age is none"),
    ({"image": {"a": 1}}, "image is none"),
    ({"sex": {"F": 1}}, '"M" is missing'),
    ({"sex": {}}, '"F" is missing'),
    ({"sex": {"F": 0.5, "M": 0.4, "X": 0.1}}, '"X" is none of them'),
    ({"sex": {"F": 0.5, "M": 0.4}}, "a sum of 1, not 0.9"),
    ({"sex": {"F": 50, "M": 50}}, "a sum of 1, not 100"),
    ({"sex": {"F": -0.5, "M": 1.5}}, "from 0 to 1"),
    ({"sex": {"F": float("nan"), "M": 0.5}}, "from 0 to 1"),
    ({"sex": {"F": float("inf"), "M": 0.5}}, "from 0 to 1"),
    ({"sex": {"F": "half", "M": 0.5}}, "from 0 to 1"),
    ({"sex": {"F": None, "M": 0.5}}, "from 0 to 1"),
    (TEXT, "stated by variable and label"),
    ({"sex": 0.5}, "a share of each label"),
    ({"sex": ["F", "M"]}, "a share of each label"),
]


@pytest.mark.parametrize(("stated", "says"), REFUSED)
def test_what_is_no_prior_of_the_schema_is_refused_in_a_sentence(stated: Any, says: str) -> None:
    with pytest.raises(MetaVoxelError) as caught:
        check_prior(stated, SCHEMA)
    said = str(caught.value)
    assert says in said
    assert said.endswith(".") and "\n" not in said
