"""What benchmarks compute themselves, by hand; that they run is theirs to show."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from metavoxel.evaluation.cohort import Table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dependence_counts_the_people_of_whom_both_are_known() -> None:
    nan = np.nan
    columns = {
        "a": np.array([1.0, 2, 3, 4, nan]),
        "b": np.array([2.0, 4, nan, 8, 100]),
        "c": np.array([1.0, 0, 1, 0, 1]),
    }
    found = benchmark("dependence").correlations(columns)
    assert [*found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found["a", "b"] == pytest.approx(1)
    assert found["a", "c"] == pytest.approx(-1 / 5**0.5)
    assert found["b", "c"] == pytest.approx(np.corrcoef([2, 4, 8, 100], [1, 0, 0, 1])[0, 1])


def test_new_people_are_compared_with_those_who_have_the_same_labels() -> None:
    scalars = {"age": np.array([20.0, 30, 80, 60, 70]), "sex": np.array([0.0, 0, 1, 1, 1])}
    table = Table({}, scalars)
    alike = benchmark("new_people").alike
    by_sex = alike(table, ["sex"])
    assert by_sex.points["age"].tolist() == [25, 25, 70, 70, 70]
    assert by_sex.spreads["age"][:2].tolist() == [5, 5]
    assert by_sex.samples["age"][0].mean() == pytest.approx(25)
    assert by_sex.samples["age"][4].min() >= 60
    assert alike(table, []).points["age"].tolist() == [52] * 5


def test_exact_moments_of_an_age_are_those_of_many_subjects() -> None:
    curve = benchmark("ageing_curve")
    rng = np.random.default_rng(0)
    for labels in ({"sex": "F", "diagnosis": "CN"}, {"sex": "M"}):
        drawn = [curve.person(75, labels, rng)["ventricle_volume"] for _ in range(1000)]
        mean, std = curve.exact("ventricle_volume", 75, labels)
        assert np.mean(drawn) == pytest.approx(mean, abs=4 * std / 1000**0.5)
        assert np.std(drawn) == pytest.approx(std, rel=0.15)


def test_the_rank_of_images_among_like_subjects_is_uniform() -> None:
    rng = np.random.default_rng(1)
    alike = benchmark("ageing_curve").row(
        "brain_volume", 40, {}, rng.normal(size=2000), rng.normal(size=2000)
    )
    assert alike["PIT mean"] == pytest.approx(0.5, abs=0.04)
    assert alike["PIT SD"] == pytest.approx(12**-0.5, abs=0.02)
