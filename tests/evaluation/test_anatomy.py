"""The reader measures what is there, and a cell and a slope are those of the people in them."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import pytest
from matplotlib import pyplot as plt

from folders import AGE, SEX, schema
from metavoxel.data.anatomy import grid, grow
from metavoxel.data.causal import SEXES, CausalModel
from metavoxel.evaluation.anatomy import (
    People,
    adjusted_slope,
    adjusted_spread,
    ageing_table,
    causal_mean,
    read_measurements,
    reader_scores,
    slopes,
    spreads,
    tissue_volume,
)
from metavoxel.evaluation.figures.anatomy import ageing_figure

RESOLUTION = 8.0  # mm
TRAINING, HELD_OUT = 70, 50
VOLUME = {"kind": "continuous", "unit": "mL", "range": [0, 100]}
SCHEMA = schema(age=AGE, sex=SEX, volume=VOLUME)


@lru_cache(maxsize=1)
def brains() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Simulated brains (n, 1, *grid), and age, sex and log measurements (n,)."""
    people = CausalModel().sample(TRAINING + HELD_OUT, np.random.default_rng(0))
    affine, shape = grid(RESOLUTION)
    images = [
        grow(p.measurements, affine, shape, RESOLUTION, np.random.default_rng(i))
        for i, p in enumerate(people)
    ]
    values = {
        "age": np.array([p.age for p in people]),
        "sex": np.array([float(SEXES.index(p.sex)) for p in people]),
    }
    for name in ("brain_volume", "ventricle_volume"):
        values[name] = np.log([p.measurements[name] for p in people])
    return np.stack(images)[:, None], values


@lru_cache(maxsize=1)
def read() -> dict[str, np.ndarray]:
    """The measurements of the held-out brains as read by readers of the training brains."""
    images, values = brains()
    known = {v: values[v][:TRAINING] for v in ("brain_volume", "ventricle_volume")}
    readings = read_measurements(images[:TRAINING], known, {"real": images[TRAINING:]})
    return {v: reading.values["real"] for v, reading in readings.items()}


@pytest.mark.parametrize("name", ["brain_volume", "ventricle_volume"])
def test_the_reader_recovers_what_is_built_into_a_brain(name: str) -> None:
    truth = brains()[1][name][TRAINING:]
    scores = reader_scores(read()[name], truth)
    assert scores["r"].value > 0.9
    assert scores["mae"].value < 0.5 * truth.std()
    assert abs(scores["bias_slope"].value) < 0.12


@pytest.mark.parametrize("name", ["brain_volume", "ventricle_volume"])
def test_simulated_brains_age_as_the_causal_model_says(name: str) -> None:
    """The slope that is read lies within three standard errors of that of E[log | age, sex]."""
    _, values = brains()
    age, sex = values["age"][TRAINING:], values["sex"][TRAINING:]
    conditions = [{"age": a, "sex": s} for a in (20.0, 90.0) for s in (0.0, 1.0)]
    real = {"real": People({"age": age, "sex": sex}, read()[name])}
    found = slopes(SCHEMA, "age", conditions, np.zeros((4, 2)), real)["real"]
    expected = np.array(
        [causal_mean(name, np.array([a]), SEXES[int(s)])[0] for a, s in zip(age, sex, strict=True)]
    )
    truth = 10 * adjusted_slope(age, sex[:, None], expected)(np.ones((1, HELD_OUT)))[0]
    assert found.value == pytest.approx(truth, abs=3 * (found.high - found.low) / 3.92)
    assert abs(truth) > 2 * (found.high - found.low) / 3.92  # and the test can tell


def test_the_truth_of_a_condition_is_the_mean_of_the_people_drawn_under_it() -> None:
    people = [p for p in CausalModel().sample(5000, np.random.default_rng(1)) if p.age > 70]
    for sex, diagnosis in ((None, None), ("M", None), ("F", "AD")):
        like = [p for p in people if sex in (None, p.sex) and diagnosis in (None, p.diagnosis)]
        ages = np.array([p.age for p in like])
        logs = np.log([p.measurements["ventricle_volume"] for p in like])
        said = causal_mean("ventricle_volume", ages, sex, diagnosis)
        error = (logs - said).std() / len(like) ** 0.5
        assert said.mean() == pytest.approx(logs.mean(), abs=4 * error)


def test_the_volume_of_a_simulated_brain_is_counted() -> None:
    images, values = brains()
    counted = tissue_volume(images, [RESOLUTION] * 3, above=0)
    assert np.log(counted) == pytest.approx(values["brain_volume"], abs=0.03)


def test_a_count_is_of_voxels_between_the_levels_and_under_the_mask() -> None:
    images = np.array([0, 0.2, 0.4, 0.8]).reshape(1, 1, 2, 2)
    mask = np.array([[True, True], [True, False]])
    assert tissue_volume(images, [10, 10], 0.1).tolist() == [0.3]
    assert tissue_volume(images, [10, 10], 0.1, below=0.4).tolist() == [0.2]
    assert tissue_volume(images, [10, 10], 0.1, mask=mask).tolist() == [0.2]


def test_people_without_a_value_teach_nothing_and_too_few_teach_no_reader() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 1, 3, 3))
    value = images.reshape(40, -1) @ rng.normal(size=9)
    gaps = value.copy()
    gaps[30:] = np.nan
    rare = np.where(np.arange(40) < 15, value, np.nan)
    found = read_measurements(images, {"gaps": gaps, "rare": rare}, {"real": images[30:]})
    assert [*found] == ["gaps"]
    alone = read_measurements(images[:30], {"gaps": gaps[:30]}, {"real": images[30:]})
    truth = reader_scores(found["gaps"].values["real"], value[30:])
    assert truth["mae"].value < 0.1
    assert found["gaps"].values["real"] == pytest.approx(alone["gaps"].values["real"], abs=0.05)


def test_a_cell_holds_the_people_like_it() -> None:
    """Of like age, the same sex, and with a measurement; the rest is the mean by hand."""
    people = People(
        {
            "age": np.array([38.0, 42, 42, 60, 41, np.nan]),
            "sex": np.array([0.0, 0, 1, 0, 0, 0]),
        },
        np.array([10.0, 20, 70, 80, np.nan, 90]),
    )
    conditions = [{"age": 40.0, "sex": 0.0}, {"age": 90.0, "sex": 1.0}]
    cells = ageing_table(
        SCHEMA, conditions, np.array([[1.0, 3], [5, 5]]), {"real": people}, {"age": 5},
        np.array([2.0, 5]),
    )  # fmt: skip
    assert [cell.generated.value for cell in cells] == [2, 5]
    assert (cells[0].real["real"].value, cells[0].real["real"].n) == (15, 2)
    assert cells[1].real["real"].n == 0
    assert [cell.truth for cell in cells] == [2, 5]
    assert [cell.named(SCHEMA) for cell in cells] == ["age 40, sex F", "age 90, sex M"]
    written = json.loads(json.dumps([cell.to_json() for cell in cells]))
    assert written[1]["real"]["real"]["value"] is None


def test_adjusted_slope_and_spread_are_the_librarys_on_the_people_that_the_weights_repeat() -> None:
    rng = np.random.default_rng(0)
    sex = rng.integers(2, size=30).astype(float)
    age = 50 + 10 * sex + 8 * rng.normal(size=30)
    y = 3 - 0.2 * age + 5 * sex + rng.normal(size=30)
    weights = np.stack([np.ones(30), *rng.multinomial(30, [1 / 30] * 30, size=3)])
    slope_of, spread_of = (f(age, sex[:, None], y) for f in (adjusted_slope, adjusted_spread))
    design = np.column_stack([np.ones(30), age, sex])
    ours = zip(weights.astype(int), slope_of(weights), spread_of(weights), strict=True)
    for w, slope, spread in ours:
        rows = np.arange(30).repeat(w)
        library = np.linalg.lstsq(design[rows], y[rows], rcond=None)[0]
        assert slope == pytest.approx(library[1])
        assert spread == pytest.approx((y[rows] - design[rows] @ library).std())


def test_the_slopes_of_generated_images_are_those_that_were_put_in() -> None:
    conditions = [{"age": a, "sex": s} for a in (30.0, 50.0, 70.0) for s in (0.0, 1.0)]
    put_in = np.array([0.4 * c["age"] + 7 * c["sex"] for c in conditions])
    generated = put_in[:, None] + np.array([-1.0, 0, 1])
    ages = np.array([20.0, 35, 45, 60, 80])  # the first and the last were not asked for
    real = People({"age": ages, "sex": np.array([0.0, 1, 0, 1, 0])}, np.abs(ages - 50) + 0.0)
    real.measured[1:4] = -0.3 * ages[1:4]
    found = slopes(SCHEMA, "age", conditions, generated, {"real": real})
    assert found["generated"].value == pytest.approx(4)
    assert found["generated"].low < 4 < found["generated"].high
    assert found["real"].value == pytest.approx(-3)
    assert found["real"].n == 3
    left = spreads(SCHEMA, "age", conditions, generated, {"real": real})
    assert left["generated"].value == pytest.approx(np.sqrt(2 / 3))
    assert left["real"].value == pytest.approx(0, abs=1e-6)


def test_one_age_has_no_slope() -> None:
    conditions = [{"age": 40.0, "sex": 0.0}]
    people = People({"age": np.array([40.0]), "sex": np.array([0.0])}, np.array([1.0]))
    found = slopes(SCHEMA, "age", conditions, np.array([[1.0, 2]]), {"real": people})
    assert np.isnan([found["generated"].value, found["real"].value]).all()


def test_the_figure_has_a_colour_for_every_choice_and_the_truth_in_it() -> None:
    rng = np.random.default_rng(0)
    conditions = [{"age": a, "sex": s} for s in (0.0, 1.0) for a in (30.0, 50.0, 70.0)]
    people = People(
        {"age": rng.uniform(20, 90, size=20), "sex": np.arange(20) % 2.0}, rng.normal(size=20)
    )
    generated = rng.normal(size=(6, 4))
    cells = ageing_table(SCHEMA, conditions, generated, {"real": people}, {"age": 5})
    line = {"sex M": (np.array([30.0, 70]), np.array([0.0, 1]))}
    fig = ageing_figure(SCHEMA, "age", "volume", cells, people, line)
    ax = fig.axes[0]
    assert ax.get_legend_handles_labels()[1] == ["sex F", "sex M"]
    assert ax.get_ylabel() == "volume (mL)"
    shown = [len(np.asarray(drawn.get_xdata())) for drawn in ax.get_lines()]
    assert shown == [10, 3, 10, 3, 2]
    plt.close(fig)
