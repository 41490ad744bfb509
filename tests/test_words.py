"""Numbers, labels and missing values as tables and questions write them."""

from __future__ import annotations

import pytest

from metavoxel.words import described_as_missing, is_missing, key, number


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("-7.5", -7.5), (".5", 0.5), ("1e-3", 0.001), ("+7", 7), (" 07 ", 7), ("7.", 7)],
)
def test_a_number_is_what_a_reader_of_tables_calls_one(text: str, value: float) -> None:
    assert number(text) == value


NO_NUMBERS = ("7_0", "2011_11", "inf", "-Infinity", "nan", "0x1F", "٣", "7,5", "", "1e999", "1j")
NO_NUMBERS += ("1 000", "1e", ".", "--7", "89+", "½", "9" * 5000)


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_python_or_no_one_calls_a_number_is_none(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    "text", ["", "n/a", "NA", "N/A", "NULL", "nan", "NaN", "None", "<NA>", "NaT", "#VALUE!"]
)
def test_words_for_missing_values(text: str) -> None:
    assert is_missing(text)


@pytest.mark.parametrize("text", ["0", "no", "F", "Nan Jing", "-", "-999"])
def test_words_that_are_none(text: str) -> None:
    assert not is_missing(text)


@pytest.mark.parametrize(
    ("word", "description"),
    [
        ("n/a", "not available"),
        ("NA", ""),
        ("-999", "missing"),
        ("9", "Unknown / not reported"),
        ("3", "Prefer not to answer"),
        ("8", "Don't know"),
        ("U", "unknown"),
        ("7", "Refused"),
        ("-1", "Data not available"),
    ],
)
def test_a_level_described_as_missing_is_no_label(word: str, description: str) -> None:
    assert described_as_missing(word, description)


@pytest.mark.parametrize(
    ("word", "description"),
    [
        ("0", "no"),
        ("0", "none"),
        ("NA", "North America"),
        ("none", "no medication"),
        ("None", ""),
        ("5", "stroke of unknown cause"),
        ("1", "missing teeth"),
        ("0", "not pregnant"),
        ("F", "female"),
    ],
)
def test_a_level_described_as_anything_else_is_a_label(word: str, description: str) -> None:
    assert not described_as_missing(word, description)


@pytest.mark.parametrize(
    ("one", "other"), [("F", "f"), ("1", "1.0"), ("01", "1"), ("White  British", " white british")]
)
def test_spellings_of_one_label(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(("one", "other"), [("F", "M"), ("1", "10"), ("1" * 20, "1" * 19 + "2")])
def test_labels_that_are_two(one: str, other: str) -> None:
    assert key(one) != key(other)
