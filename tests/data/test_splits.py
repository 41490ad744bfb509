"""Splits: by subject, from a seed, whole and without overlap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from folders import write_bids
from metavoxel.data.bids import Cohort
from metavoxel.data.columns import subject_column
from metavoxel.data.records import Record
from metavoxel.data.splits import (
    Split,
    column_split,
    fold_split,
    fraction_split,
    read_split,
    write_split,
)
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Continuous, Schema
from metavoxel.training.config import ColumnSplit

subjects = st.lists(
    st.integers(0, 9999).map("sub-{:04d}".format), min_size=10, max_size=60, unique=True
)
seeds = st.integers(0, 2**31)


def _parts(split: Split) -> list[set[str]]:
    return [set(split.train), set(split.validation), set(split.test)]


def _assert_whole(split: Split, everyone: list[str]) -> None:
    assert sorted([*split.train, *split.validation, *split.test]) == sorted(everyone)


@settings(max_examples=40, deadline=None)
@given(subjects, seeds, st.randoms(use_true_random=False))
def test_fractions_are_whole_disjoint_and_blind_to_order(everyone, seed, shuffle) -> None:
    split = fraction_split(everyone, seed)
    _assert_whole(split, everyone)
    assert all(_parts(split))
    other = list(everyone)
    shuffle.shuffle(other)
    assert fraction_split([*other, other[0]], seed) == split


@settings(max_examples=40, deadline=None)
@given(subjects, seeds, st.integers(2, 8), st.randoms(use_true_random=False))
def test_folds_are_whole_disjoint_and_blind_to_order(everyone, seed, folds, shuffle) -> None:
    splits = [fold_split(everyone, folds, f, seed) for f in range(folds)]
    for split in splits:
        _assert_whole(split, everyone)
        assert all(_parts(split))
    assert sorted(s for split in splits for s in split.test) == sorted(everyone)
    other = list(everyone)
    shuffle.shuffle(other)
    assert [fold_split(other, folds, f, seed) for f in range(folds)] == splits


@settings(max_examples=40, deadline=None)
@given(st.integers(25, 200), seeds)
def test_every_fold_has_its_own_people_to_validate_on(n, seed) -> None:
    everyone = [f"sub-{i}" for i in range(n)]
    splits = [fold_split(everyone, 5, f, seed, validation=0.1) for f in range(5)]
    validated = [s for split in splits for s in split.validation]
    assert len(validated) == len(set(validated))


def test_seeds_differ_and_the_paper_s_fractions_are_the_default() -> None:
    everyone = [f"sub-{i}" for i in range(100)]
    split = fraction_split(everyone, 0)
    assert [len(p) for p in _parts(split)] == [89, 1, 10]
    assert split != fraction_split(everyone, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fold_split(["a", "b"], 3, 0, 0), "cannot make 3 folds"),
        (lambda: fold_split(["a", "b", "c"], 3, 3, 0), "no fold 3"),
        (lambda: fraction_split(["a", "b"], 0), "too few"),
        (lambda: fraction_split(["a", "b", "c"], 0, (0.5, 0.1, 0.1)), "add up to 1"),
    ],
)
def test_impossible_splits_are_refused(make, message: str) -> None:
    with pytest.raises(MetaVoxelError, match=message):
        make()


def test_a_split_on_disk_says_how_it_was_made(tmp_path: Path) -> None:
    split = fold_split([f"sub-{i}" for i in range(12)], 4, 1, seed=7)
    write_split(split, tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split
    assert "seed 7" in json.loads((tmp_path / "split.json").read_text())["made"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["a"], "validation": ["a"], "test": ["b"]}', "a stands more than once"),
        ('{"train": ["a"]}', "the key validation is missing"),
        ('{"train": "abc", "validation": [], "test": []}', "key train"),
        ("[]", "the top level"),
        ('{"train": [', "not valid"),
    ],
)
def test_a_bad_split_file_gets_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(MetaVoxelError, match=rf"split\.json.*{message}"):
        read_split(tmp_path / "split.json")


@settings(max_examples=40, deadline=None)
@given(subjects, seeds)
def test_a_site_left_out_is_the_whole_test_fold(everyone, seed) -> None:
    values = {s: "ABC"[i % 3] for i, s in enumerate(everyone)}
    split = column_split(everyone, values, "site", ["B"], seed, validation=0.2)
    _assert_whole(split, everyone)
    assert {*split.test} == {s for s in everyone if values[s] == "B"}
    assert len(split.validation) == max(1, round(0.2 * (len(everyone) - len(split.test))))
    assert column_split(everyone[::-1], values, "site", ["B"], seed, validation=0.2) == split


SITES = ["sub-1 A", "sub-2 A", "sub-3 B", "sub-4 B", "sub-5 C"]


def sites(root: Path, rows: list[str]) -> Cohort:
    write_bids(root, ["participant_id site", *rows], [])
    names = (row.split()[0] for row in SITES)
    return Cohort(root, Schema(variables={"age": Continuous()}), tuple(Record(s) for s in names))


def test_every_value_of_a_column_is_a_fold(tmp_path: Path) -> None:
    cohort = sites(tmp_path, SITES)
    folds = [ColumnSplit(column="site", fold=k, validation=0.3).make(cohort).test for k in range(3)]
    assert folds == [("sub-1", "sub-2"), ("sub-3", "sub-4"), ("sub-5",)]
    named = ColumnSplit(column="site", test=("A", "C"), validation=0.3).make(cohort)
    assert named.test == ("sub-1", "sub-2", "sub-5") and "site A, C left out" in named.made


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (SITES, {"column": "centre"}, 'there is no column "centre"; the columns are site'),
        (SITES, {"test": ["Guys"]}, 'is never "Guys"; it is A, B, C. Name one of these.'),
        (SITES, {"fold": 3}, r"no fold 3: column .site. has 3 values \(A, B, C\)"),
        (SITES, {"test": ["A", "B"]}, "1 of 5 are left, too few to train and validate on"),
        ([*SITES[:4], "sub-5 n/a"], {}, r"no value for 1 of 5 subjects \(such as sub-5\)"),
    ],
)
def test_a_column_that_makes_no_split_gets_a_sentence(
    rows: list[str], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    cohort = sites(tmp_path, rows)
    with pytest.raises(MetaVoxelError, match=message):
        ColumnSplit.model_validate({"column": "site", **settings}).make(cohort)


def test_a_subject_of_two_values_is_refused(tmp_path: Path) -> None:
    text = "session_id\tsite\nses-1\tA\nses-2\tB\n"
    root = write_bids(
        tmp_path, ["participant_id age", "sub-1 3"], [], texts={"sub-1/sub-1_sessions.tsv": text}
    )
    with pytest.raises(MetaVoxelError, match=r'sub-1_sessions\.tsv, row 3, .* is "B" here and "A"'):
        subject_column(root, "site")


def test_values_and_a_fold_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="so fold 1 says nothing"):
        ColumnSplit(column="site", test=("A",), fold=1)
