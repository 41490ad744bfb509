"""What a column is, and why; what cannot be used, with the true reason and a sample."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from metavoxel.data.kinds import Cell, Column, Decision, decide, roomy
from metavoxel.schema import Categorical, Continuous


def _decide(cells: Sequence[object], name: str = "x", **described: object) -> Decision:
    placed = [Cell(str(c), i + 2, "participants.tsv", f"{i + 1:04d}") for i, c in enumerate(cells)]
    return decide(Column(name, tuple(placed), described))


@pytest.mark.parametrize(
    ("name", "cells", "described", "kind", "why"),
    [
        ("group", [1, 2, 3, 1], {"Levels": {"1": "a", "2": "b"}}, "labels", "Levels"),
        ("age", [1, 2, 1, 2], {"Levels": {"1": "young", "2": "old"}}, "labels", "Levels"),
        ("site", [1, 2, 1, 2], {"Units": "km"}, "number", "unit is km"),
        ("site (km)", [1, 2, 1, 2], {}, "number", "unit is km"),
        ("age", [18, 19, 20, 22], {}, "number", '"age" is in its name'),
        ("MMSETotal", [0, 1, 2, 1], {}, "number", '"mmse" is in its name'),
        ("brainvolume", [0, 1, 2, 1], {}, "number", '"volume" is in its name'),
        ("site", [101, 205, 101], {}, "labels", '"site" is in its name'),
        ("ScannerModel", [3, 7, 3], {}, "labels", '"scanner" is in its name'),
        ("x", [0, 1, 1, 0], {}, "labels", "2 whole numbers from 0 without a gap"),
        ("x", [*range(1, 11), 1], {}, "labels", "10 whole numbers from 1"),
        ("x", [*range(1, 12), 1], {}, "number", "more than ten"),
        ("x", [1, 2, 4, 1], {}, "number", "no codes"),
        ("x", [2, 3, 4, 2], {}, "number", "no codes"),
        ("site", [1.5, 2, 3, 2], {}, "number", "not all of it is whole"),
        ("x", ["a", "b", "a"], {}, "labels", "2 different words"),
    ],
)
def test_one_rule_says_what_a_column_is(
    name: str, cells: list[object], described: dict[str, object], kind: str, why: str
) -> None:
    decision = _decide(cells, name, **described)
    assert isinstance(decision.kind, Continuous if kind == "number" else Categorical)
    assert why in decision.reason


@pytest.mark.parametrize(
    ("name", "cells", "why"),
    [
        (
            "age",
            ["40,5", "42,5", "41,0"],
            'decimal commas, such as "40,5" (row 2). Write them with',
        ),
        ("age", ["40-44", "45-49", "40-44"], 'bands, not numbers, such as "40-44" (row 2)'),
        ("age", ["40.0,41.0", "42.5,43.5"], 'lists, such as "40.0,41.0"'),
        ("x", ["20180101,20190101", "20180102,20190102"], "it holds lists"),
        ("born", ["1950-02-01", "1951-03-01"], 'dates or times, such as "1950-02-01"'),
        ("scanned", [20180102, 20180203, 20190304], 'dates, such as "20180102"'),
        ("age", ["042Y", "043Y", "044Y", "045Y"], 'units behind them, such as "042Y"'),
        ("age", [">40", ">41", "<42", ">43"], 'signs such as < or >, such as ">40"'),
        (
            "note",
            [f"note {i}" for i in range(12)],
            '12 different entries in 12 cells, such as "note',
        ),
        ("visit", [f"2011_{i:02d}" for i in range(1, 13)], "12 different entries"),
        ("batch", [1000 + 7 * (i % 13) for i in range(24)], "13 different entries in 24 cells"),
        ("x", ["−1", "−2", "−3", 4], 'typographic minus sign, such as "−1" (row 2)'),
        ("x", ["1e300", "2e300", "3e300"], 'too large (3e38 is the most), such as "1e300"'),
        ("x", ["a", "a"], 'it is "a" for everyone'),
        ("x", ["F", "f"], 'it is "F" for everyone'),
        ("x", ["n/a", "NA", ""], "every cell is missing"),
        ("subject_id", [7, 9, 12], "its name ends in id"),
        ("PTID", ["a", "b", "a"], "its name ends in id"),
        ("record", ["sub-0001", "sub-0002", "sub-0003"], "holds its participant's label"),
        ("record", [1, 2, 3, 4], "holds its participant's label"),
        ("x", [110000 + 7 * i for i in range(12)], "long numbers in step with the participants"),
    ],
)
def test_what_cannot_be_used_is_told_with_a_sample(
    name: str, cells: list[object], why: str
) -> None:
    decision = _decide(cells, name)
    assert decision.kind is None
    assert why in decision.reason


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("covid", [0, 1, 0, 1]),
        ("volume", [110000 + 7 * i for i in range(12)]),
        ("apoe", ["3-3", "3-4", "4-4", "3-3"]),
        ("field", ["1.5T", "3T", "1.5T", "3T"]),
        ("age", [1.5, 2.5, 3.5]),
    ],
)
def test_what_looks_like_these_and_is_none_is_used(name: str, cells: list[object]) -> None:
    assert _decide(cells, name).kind is not None


AGES = [40.5, 42, 45.5, 50, 55.5, 60]


@pytest.mark.parametrize("code", [-9, -99, -999, -9999, 999, 9999])
def test_a_sentinel_is_missing_where_it_is_far_and_stands_twice(code: int) -> None:
    kind = _decide([*AGES, code, code], "age").kind
    assert isinstance(kind, Continuous)
    assert kind.missing == (str(code),)
    assert kind.range is not None
    assert kind.range[0] > 30
    assert kind.range[1] < 70


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([*AGES, -999], "-999 is kept as it is, since it stands once"),
        ([70.5, 80, 85.5, 90, 95.5, 99, 99], "99 is kept as it is, since it is near"),
    ],
)
def test_any_other_is_kept_and_told(cells: list[object], why: str) -> None:
    decision = _decide(cells, "age")
    assert decision.kind is not None
    assert decision.kind.missing == ()
    assert why in decision.notes[0]


def test_a_number_that_only_looks_like_a_sentinel_is_no_matter() -> None:
    decision = _decide([80, 90, 99, 99, 105, 110.5], "weight")
    assert decision.kind is not None
    assert (decision.kind.missing, decision.notes) == ((), ())
    far = _decide([*AGES, -998, -998], "age")
    assert far.kind is not None
    assert far.kind.missing == ()


@pytest.mark.parametrize(
    ("name", "cells", "why"),
    [
        ("bmi", [*AGES, 999.9, 999.9], "999.9 (2 cells) is kept as it is, though it is far"),
        ("h", [*AGES, -888, -888], "-888 (2 cells) is kept as it is, though no other is negative"),
        ("mmse", [*AGES, -1, -1], "-1 (2 cells) is kept as it is, though no other is negative"),
        ("mmse", [*AGES, -1, -1, -4, -4], "-4 (2 cells) is kept as it is, though only one other"),
        ("sex", ["F", "M", "F", -4], "-4 (1 cell) is kept as it is, though no other is negative"),
        ("dx", [0, 1, 1, 0, -1, 0], "-1 (1 cell) is kept as it is"),
        ("sex", ["F", "M", "F", -9], "-9 is kept as it is, since it stands once"),
    ],
)
def test_what_looks_like_a_code_of_missing_and_is_kept_is_told(
    name: str, cells: list[object], why: str
) -> None:
    decision = _decide(cells, name)
    assert decision.kind is not None
    assert decision.kind.missing == ()
    assert why in decision.notes[0]
    assert "write n/a, or list it under missing" in decision.notes[0]


@pytest.mark.parametrize(
    "cells",
    [
        [0, 0, 0, 0, 0, 0, 0, 4, 4, 5.5],  # most did not have it: nothing is far
        [-3, -3, -2, -2, -1, -1, 0, 0, 1.5, 2],  # a change has a sign
        [-1.5, 0.5, 1.5, 2.5, 2.5, 2.5],  # one below 0 may well be
        [30, 30, 42, 45.5, 50, 55.5, 60],
    ],
)
def test_numbers_that_may_well_be_are_not_told(cells: list[object]) -> None:
    assert _decide(cells, "score").notes == ()


def test_a_level_that_is_negative_is_not_told() -> None:
    assert _decide([0, 1, -1, 0], Levels={"0": "a", "1": "b", "-1": "c"}).notes == ()


def test_codes_and_words_have_sentinels_too() -> None:
    assert _decide([0, 1, 0, 1, -9, -9]).kind == Categorical(labels=("0", "1"), missing=("-9",))
    assert _decide(["F", "M", "-999", "-999"]).kind == Categorical(
        labels=("F", "M"), missing=("-999",)
    )
    kind = _decide([0, 1, -9, -9, 0, 1], Levels={"0": "no", "1": "yes"}).kind
    assert kind == Categorical(labels=("0", "1"), missing=("-9",))
    declared = _decide([0, 1, -9, -9, 0, 1], Levels={"0": "a", "1": "b", "-9": "c"}).kind
    assert declared == Categorical(labels=("0", "1", "-9"), ordered=True)


def test_what_levels_declare_missing_is() -> None:
    age = _decide([*AGES, -1], "age", Levels={"-1": "Refused"}).kind
    assert isinstance(age, Continuous)
    assert age.missing == ("-1",)
    sex = _decide(["F", "M", "U"], Levels={"F": "female", "M": "male", "U": "unknown"}).kind
    assert sex == Categorical(labels=("F", "M"), missing=("U",))
    named = _decide(["F", "M"], Levels={"F": "", "M": "", "n/a": "not available"}).kind
    assert named == Categorical(labels=("F", "M"))
    nested = {"0": {"Description": "no"}, "1": {"Description": "yes"}, "9": {"Description": "n/a"}}
    assert _decide([0, 1, 9], Levels=nested).kind == Categorical(labels=("0", "1"), missing=("9",))


def test_levels_that_contradict_each_other_make_labels() -> None:
    levels = {"1": "yes", "0": "no", "1.0": "missing"}
    assert _decide([0, 1, 1], Levels=levels).kind == Categorical(labels=("1", "0"))


def test_a_word_that_levels_declare_is_a_label() -> None:
    kind = _decide(["NA", "EU", "n/a"], Levels={"NA": "North America", "EU": "Europe"}).kind
    assert kind == Categorical(labels=("NA", "EU"))
    kind = _decide(["None", "mild"], Levels=["None", "mild", "severe"]).kind
    assert kind == Categorical(labels=("None", "mild", "severe"))


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["F", "f", "F", "M"], ("F", "M")),
        (["f", "f", "F", "M"], ("M", "f")),
        (["F", "f", "M", "m"], ("F", "M")),
        (["1", "2.0", "1.0", "2", "1", "2"], ("1", "2")),
    ],
)
def test_of_two_spellings_the_more_frequent_is_kept(
    cells: list[object], labels: tuple[str, ...]
) -> None:
    kind = _decide(cells, "group").kind
    assert isinstance(kind, Categorical)
    assert kind.labels == labels


def test_of_two_spellings_the_one_in_levels_is_kept() -> None:
    kind = _decide(["f", "f", "M"], Levels={"F": "female", "M": "male"}).kind
    assert kind == Categorical(labels=("F", "M"))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (20, 90, (10, 100)),
        (0, 42, (0, 50)),
        (-40, 0, (-45, 0)),
        (-1, 1, (-1.5, 1.5)),
        (1e-9, 2e-9, (0.5e-9, 2.5e-9)),
    ],
)
def test_a_range_leaves_room_and_does_not_cross_zero(
    low: float, high: float, expected: tuple[float, float]
) -> None:
    assert roomy(low, high) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "cells",
    [
        ["1e-300", "2e-300"],
        ["3e38", "-3e38", "1.5"],
        ["1" * 64, "2" * 64],
        ["1" * 19, "1" * 18 + "2"],
    ],
)
def test_numbers_at_the_end_of_the_line_are_no_fault(cells: list[str]) -> None:
    assert _decide(cells, "score").reason
