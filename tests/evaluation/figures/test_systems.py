"""The paper's figures show what was drawn and counted: pictures, paths, bars and captions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import StepPatch

from folders import AGE, SEX, schema, scores
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.figures import images as pictures
from metavoxel.evaluation.figures import systems
from metavoxel.evaluation.figures.images import tile
from metavoxel.evaluation.figures.trajectory import trajectory
from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.schema import Schema, parse_schema

DENOISER = {"channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8}
EXACT = {"steps": 6, "spacing": "angle", "image_stop": 300}
REPAINT = {"conditioner": "repaint", "steps": 6, "spacing": "uniform", "resamplings": 2}
DIFFUSING = {"scalars": "diffusion"}
ENGINES: dict[str, dict[str, Any]] = {
    "law": {"sampling": EXACT},
    "exact": {"sampling": EXACT, "diffusion": DIFFUSING},
    "repaint": {"sampling": REPAINT, "diffusion": DIFFUSING},
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def plane(**scalars: dict[str, Any]) -> Schema:
    image = {"kind": "image", "shape": [8, 8], "spacing": [2, 2]}
    return parse_schema({"variables": {"image": image, **scalars}}, "test")


def small(variables: Schema, **settings: Any) -> MetaVoxel:
    torch.manual_seed(0)
    config = {"encoding": {"kind": "identity"}, "denoiser": DENOISER, **settings}
    diffuse = "scalars" in settings.get("diffusion", {})
    scalings = dict.fromkeys(
        variables.numbers, LinearScaling(0, 100) if diffuse else scores(0, 100)
    )
    model = MetaVoxel(variables, ModelConfig.model_validate(config), scalings).eval()
    for weights in model.denoiser.parameters():  # a fresh network's last layers are zero
        torch.nn.init.normal_(weights, std=0.1)
    return model


def shown(ax: Axes) -> np.ndarray:
    return np.asarray(ax.get_images()[0].get_array())


def heights(ax: Axes) -> list[float]:
    return [bar.get_height() for group in ax.containers for bar in group]


def counted(ax: Axes) -> list[np.ndarray]:
    """The heights of each histogram that is drawn as steps."""
    return [np.asarray(p.get_data()[0]) for p in ax.patches if isinstance(p, StepPatch)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variables", [plane(age=AGE, sex=SEX), schema(age=AGE, sex=SEX)])
def test_a_trajectory_ends_in_the_sample_of_its_seed(engine: str, variables: Schema) -> None:
    model = small(variables, **ENGINES[engine])
    fig = trajectory(model, seed=3, frames=4)
    drawn = ask(model, [*variables], {}, 1, 1, seed=3).samples
    *tiles, age, sex = fig.axes
    assert len(tiles) == 2 * 4
    sample = tile(drawn["image"][0, 0, 0].clamp(0, 1).numpy())
    for last in (tiles[3], tiles[7]):
        np.testing.assert_allclose(shown(last), sample, atol=1e-6)
    assert [*np.asarray(age.get_lines()[1].get_xdata())] == [*range(7)]
    assert np.asarray(age.get_lines()[-1].get_ydata())[0] == pytest.approx(float(drawn["age"]))
    legend = sex.get_legend()
    assert legend is not None
    bold = [t.get_text() for t in legend.get_texts() if t.get_fontweight() == "bold"]
    assert bold == [variables.categorical["sex"].labels[int(drawn["sex"])]]


def test_a_trajectory_starts_from_noise_at_t() -> None:
    """The first noisy state and its prediction are those of the sampler's first step."""
    model = small(plane(age=AGE, sex=SEX), **ENGINES["law"])
    first: list[Any] = []
    ask(model, [*model.schema], {}, 1, 1, 3, watch=lambda t, z, clean: first.append((t, z, clean)))
    fig = trajectory(model, seed=3, frames=2)
    assert [text.get_text() for text in fig.texts][-2:] == [f"$t$ = {model.process.T}", "sample"]
    for ax, state in ((fig.axes[0], first[0][1]), (fig.axes[2], first[0][2])):
        decoded = model.decode({"image": state["image"]})["image"][0, 0].clamp(0, 1)
        np.testing.assert_allclose(shown(ax), decoded, atol=1e-6)


def test_under_an_image_stands_what_it_says_of_scalars_that_were_drawn_before() -> None:
    """From p(scalars | given) at T to p(scalars | the sample, given) at its end."""
    model = small(plane(age=AGE, iq=AGE, sex=SEX), **ENGINES["law"])
    given = {"iq": torch.tensor([70.0])}
    fig = trajectory(model, 3, given, frames=2)
    *_, age, sex = fig.axes
    (band,) = age.collections
    drawn = ask(model, ["image", "age", "sex"], given, 1, 1, seed=3).samples
    for step, images in ((0, {}), (-1, {"image": drawn["image"][0]})):
        said = ask(model, ["age", "sex"], {**given, **images}, 1, 0, seed=0)
        line = np.asarray(age.get_lines()[1].get_ydata())
        assert line[step] == pytest.approx(said.numbers["age"].mean[0], rel=1e-4)
        ends = [x[0] for x in said.numbers["age"].interval()]
        edges = np.asarray(band.get_paths()[0].vertices)[:, 1]
        assert all(np.isclose(edges, x, rtol=1e-4).any() for x in ends)
        women = np.asarray(sex.collections[0].get_paths()[0].vertices)[:, 1]
        assert np.isclose(women, float(said.point["sex"][0, 0]), atol=1e-4).any()
    assert np.asarray(age.get_lines()[0].get_ydata())[0] == pytest.approx(float(drawn["age"]))


def test_what_is_given_is_not_drawn() -> None:
    stage = {"kind": "categorical", "labels": ["0", "1", "2", "3", "4"]}
    model = small(plane(age=AGE, stage=stage), diffusion=DIFFUSING)
    given = {"image": torch.rand(1, 1, 8, 8), "age": torch.tensor([50.0])}
    settings = model.config.sampling.model_copy(update={"steps": 3})
    fig = trajectory(model, 0, given, settings=settings)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["stage"]


def test_samples_stand_over_their_captions() -> None:
    image = np.linspace(0, 1, 64).reshape(8, 8)
    fig = pictures.montage({"a": [image, image], "b": [image]}, {"a": ["F, 63 years", "M"]})
    assert [[t.get_text() for t in ax.texts] for ax in fig.axes] == [["F, 63 years"], ["M"], []]
    np.testing.assert_array_equal(shown(fig.axes[2]), image)
    assert [t.get_text() for t in fig.texts] == ["a", "b"]


def test_captions_name_what_does_not_speak_for_itself() -> None:
    stroke = {"kind": "categorical", "labels": ["no", "yes"]}
    score, sex = {"kind": "continuous"}, {"kind": "categorical", "labels": ["F", "M"]}
    variables = plane(age={**AGE, "unit": "years"}, score=score, prior_stroke=stroke, sex=sex)
    scalars = {
        "age": np.array([63.2, 40]), "score": np.array([-1.25, math.nan]),
        "prior_stroke": np.array([1.0, 0]), "sex": np.array([0.0, math.nan]),
    }  # fmt: skip
    said = ["prior stroke yes, F, 63 years, score \N{MINUS SIGN}1.2", "prior stroke no, 40 years"]
    found = pictures.captions(variables, scalars)
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in found] == said


@pytest.mark.parametrize("axis", [0, 1])
def test_the_kept_half_is_the_real_one_after_the_autoencoder(axis: int) -> None:
    torch.manual_seed(1)
    encoding = {"kind": "kl", "channels": [8, 8], "groups": 4, "latent_channels": 2}
    model = small(plane(age=AGE), encoding=encoding, sampling={"steps": 2})
    images = torch.rand(2, 1, 8, 8)
    fig = pictures.inpainted(model, images, seed=0, axis=axis)
    real, known, once, twice = (fig.axes[i : i + 2] for i in range(0, 8, 2))
    seen = model.decode(model.encode({"image": images}))["image"].clamp(0, 1)
    for i in range(2):
        halves = [np.take(x, range(4), axis) for x in (images[i, 0].numpy(), seen[i, 0].numpy())]
        for ax, half in ((real[i], halves[0]), (known[i], halves[0]), (once[i], halves[1]),
                         (twice[i], halves[1])):  # fmt: skip
            np.testing.assert_allclose(np.take(shown(ax), range(4), axis), half, atol=1e-6)
        hidden, first, second = (np.take(shown(ax[i]), range(4, 8), axis)
                                 for ax in (known, once, twice))  # fmt: skip
        assert (hidden == 0.5).all()
        assert not np.allclose(first, second)


def test_in_a_volume_the_left_half_lies_left() -> None:
    """In RAS+ x grows to the right; so it does in the axial and coronal slices, which lie below."""
    model = small(schema(age=AGE), sampling={"steps": 2})
    fig = pictures.inpainted(model, torch.zeros(1, 1, 8, 8, 8), seed=0)
    known = shown(fig.axes[1])
    assert (known[8:, :4] == 0).all()
    assert (known[8:, 4:] == 0.5).all()


def test_demographics_count_people_and_what_is_missing() -> None:
    ages = {"training": [20.0, 20, 80, math.nan], "test": [80.0, 80]}
    sexes = {"training": [0.0, 1, 1, 1], "test": [0.0, math.nan]}
    tables = {
        s: Table({}, {"age": np.array(ages[s]), "sex": np.array(sexes[s])}) for s in ages
    }  # fmt: skip
    fig = systems.demographics(tables, plane(age=AGE, sex=SEX))
    by_split, by_sex, counts, missing = fig.axes
    values = counted(by_split)
    assert [v[0] for v in values] == pytest.approx([200 / 3, 0])
    assert [v[-1] for v in values] == pytest.approx([100 / 3, 100])
    values = counted(by_sex)
    assert [v[0] for v in values] == pytest.approx([50, 50])  # F 20, 80; M 20, 80 and one unknown
    assert heights(counts) == [1, 3, 1, 0]
    assert heights(missing) == [25, 0, 0, 50]
    names = by_split.get_legend_handles_labels()[1]
    assert names == ["training (n = 4)", "test (n = 2)"]


def score(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 9}


def test_groups_have_a_bar_and_an_interval_for_each_system() -> None:
    rows = [
        {"system": "joint", "group": "F", "n": 12, "frechet": score(3, 2, 5), "mmd": score(0.1)},
        {"system": "joint", "group": "M", "n": 8, "frechet": score(4, 3, 6), "mmd": score(0.2)},
        {"system": "conditional", "group": "F", "n": 12, "frechet": score(7, 6, 8), "mmd": None},
    ]
    fig = systems.by_group(rows)
    frechet, mmd = fig.axes
    at = {round(float(bar.get_x() + bar.get_width() / 2), 6): bar.get_height()
          for group in frechet.containers for bar in group}  # fmt: skip
    assert at == {-0.2: 3, 0.8: 4, 0.2: 7}
    lines = [c for c in frechet.collections if isinstance(c, LineCollection)]
    intervals = [np.asarray(line.get_segments()[0])[:, 1].tolist() for line in lines]
    assert intervals == [[2, 5], [3, 6], [6, 8]]
    assert heights(mmd)[:2] == [0.1, 0.2]
    assert math.isnan(heights(mmd)[2])
    assert [t.get_text() for t in mmd.get_xticklabels()] == ["F\nn = 12", "M\nn = 8"]


def test_dispersion_is_drawn_beside_the_band_and_the_coverage() -> None:
    scores = {"dispersion": score(0.8, 0.6, 1.1), "coverage_50": score(0.4),
              "coverage_90": score(0.7)}  # fmt: skip
    rows = [
        {"system": "joint", "variable": "age", "question": "age | image", "scores": scores},
        {"system": "mean", "variable": "age", "question": "age | image", "scores": {}},
        {"system": "joint", "variable": "sex", "question": "sex | image", "scores": {}},
    ]
    dots, curves = systems.dispersion(rows).axes
    assert dots.patches[0].get_extents().transformed(dots.transData.inverted()).intervalx == (
        pytest.approx([0.9, 1.1])
    )
    one, dot = dots.get_lines()
    assert [*np.asarray(one.get_xdata())] == [1, 1]
    assert [*np.asarray(dot.get_xdata())] == [0.8]
    _, held = curves.get_lines()
    assert [*np.asarray(held.get_xdata())] == [0.5, 0.9]
    assert [*np.asarray(held.get_ydata())] == [0.4, 0.7]


def test_a_question_shows_the_systems_that_were_asked_it_in_their_own_colours() -> None:
    scores = {"dispersion": score(0.8, 0.6, 1.1)}
    row = {"variable": "age", "scores": scores}
    rows = [
        {**row, "system": "exact", "question": "age | image"},
        {**row, "system": "joint", "question": "age | image"},
        {**row, "system": "joint", "question": "age | sex"},
    ]
    first, _, second, _ = systems.dispersion(rows).axes
    assert [t.get_text() for t in first.get_yticklabels()] == ["exact", "joint"]
    assert [t.get_text() for t in second.get_yticklabels()] == ["joint"]
    assert first.get_lines()[2].get_color() == second.get_lines()[1].get_color()
    assert first.get_lines()[2].get_marker() == second.get_lines()[1].get_marker()


def test_the_line_of_an_ablation_is_the_reference() -> None:
    rows = [
        {"system": "whole", "MAE": score(5, 4, 6), "MMD": score(2)},
        {"system": "without", "MAE": score(7, 6, 9), "MMD": None},
    ]
    fig = systems.ablation(rows, reference="without")
    mae, mmd = fig.axes
    assert [np.asarray(line.get_xdata())[0] for line in mae.get_lines()] == [7, 5, 7]
    assert [np.asarray(line.get_xdata())[0] for line in mmd.get_lines()[1:]] == [2]
    assert [t.get_text() for t in mae.get_yticklabels()] == ["whole", "without"]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_titles_and_ticks_of_an_ablation_do_not_overlap(count: int) -> None:
    """Seven long names at most four in a row, each panel with its own systems."""
    names = [f"prior_stroke_{i}: accuracy" for i in range(count)]
    rows = [
        {"system": system, **{name: score(x, x - 0.05, x + 0.05) for name in names}}
        for system, x in (("population mean / majority", 0.75), ("MetaVoxel", 0.8))
    ]
    fig = systems.ablation(rows)
    fig.canvas.draw()
    assert len(fig.axes) == count
    for boxes in (
        [ax.title.get_window_extent() for ax in fig.axes],
        [
            text.get_window_extent()
            for ax in fig.axes
            for at, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
            if ax.get_xlim()[0] <= at <= ax.get_xlim()[1]
        ],
    ):
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
