"""Values hidden from the training: as many as told, the same ones, never an image."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metavoxel.data.bids import Cohort
from metavoxel.data.records import Record
from metavoxel.data.splits import Split
from metavoxel.schema import Schema
from metavoxel.training.config import RunConfig
from metavoxel.training.hidden import hide
from metavoxel.training.run import _parts

N = 1000
VARIABLES: dict[str, Any] = {
    "image": {"kind": "image", "shape": [8, 8], "spacing": [4, 4]},
    "age": {"kind": "continuous"},
    "sex": {"kind": "categorical", "labels": ["F", "M"]},
}


@pytest.fixture
def people() -> Cohort:
    values = {"image": Path("scan.png"), "age": 50.0, "sex": "F"}
    records = tuple(Record(f"sub-{i}", None, values) for i in range(N))
    return Cohort(Path(), Schema(variables=VARIABLES), records)


def cells(cohort: Cohort) -> set[tuple[str, str]]:
    return {(r.id, v) for r in cohort.records for v in r.values if v != "image"}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_hidden_of_every_variable_and_of_both_independently(
    people: Cohort, share: float
) -> None:
    seen = cells(hide(people, share, seed=0))
    error = 4 * math.sqrt(share * (1 - share) / N)
    for v in ("age", "sex"):
        assert sum(name == v for _, name in seen) / N == pytest.approx(1 - share, abs=error)
    both = sum((f"sub-{i}", "age") in seen and (f"sub-{i}", "sex") in seen for i in range(N)) / N
    p = (1 - share) ** 2
    assert both == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / N))


def test_what_a_smaller_share_hides_a_larger_one_hides_too(people: Cohort) -> None:
    everything, less, more = cells(people), *(cells(hide(people, x, 0)) for x in (0.3, 0.6))
    assert more < less < everything


def test_neither_the_order_nor_the_company_matters_but_the_seed_does(people: Cohort) -> None:
    some = replace(people, records=people.records[500::-1])
    assert cells(hide(some, 0.3, 0)) == cells(hide(people, 0.3, 0)) & cells(some)
    assert cells(hide(people, 0.3, 1)) != cells(hide(people, 0.3, 0))


def test_images_stay_and_an_empty_record_goes(people: Cohort) -> None:
    assert all("image" in r.values for r in hide(people, 0.9, 0).records)
    scanless = tuple(replace(r, values={"age": 50.0}) for r in people.records)
    left = hide(replace(people, records=scanless), 0.9, 0).records
    assert 0 < len(left) < 200
    assert all(r.values for r in left)


def test_only_the_training_records_lose_values(people: Cohort) -> None:
    names = [r.subject for r in people.records]
    split = Split(tuple(names[:800]), tuple(names[800:900]), tuple(names[900:]))
    settings = {"hidden": 0.3}
    parts = _parts(people, split, RunConfig.model_validate({"training": settings}))
    assert len(cells(parts["validation"])) == 200
    assert len(cells(parts["train"])) < 1200
    whole = RunConfig.model_validate({"training": {**settings, "complete_rows_only": True}})
    rows = _parts(people, split, whole)["train"].records
    assert all(len(r.values) == 3 for r in rows)
    assert len(rows) / 800 == pytest.approx(0.49, abs=4 * math.sqrt(0.49 * 0.51 / 800))
