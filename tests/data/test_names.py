"""Names of columns, people and visits: which are nearly the same."""

from __future__ import annotations

import pytest

from metavoxel.data.names import near_pair, twins


def test_twins_differ_in_case_alone() -> None:
    assert twins("AGE", ["age", "Age", "AGE", "ages"]) == ["age", "Age"]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("sub-1", "sub-01"),
        ("sub-01_ses-1", "sub-01_ses-01"),
        ("sub-01_ses-m00", "sub-01_ses-M0"),
        ("sub-SUB-0001", "sub-0001"),
    ],
)
def test_names_are_near_but_for_zeros_and_case(name: str, other: str) -> None:
    assert near_pair(["sub-x", name], ["sub-y", other]) == (name, other)


def test_names_are_not_near_in_another_number() -> None:
    assert near_pair(["sub-1", "sub-10"], ["sub-100", "sub-11"]) is None
