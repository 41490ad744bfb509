"""Models that are asked for images alone: given all scalars (conditional), or without scalars."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import metavoxel as mv
from folders import scores
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.report import evaluate
from metavoxel.files.yaml import read_yaml
from metavoxel.inference.ask import ask
from metavoxel.inference.selftest import selftest_failures
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_folder import load_model
from metavoxel.training.config import RunConfig
from metavoxel.training.run import train
from tiny import tiny_settings

PERSON = {"age": 50, "sex": "F", "diagnosis": "CN"}


def conditional_settings() -> dict[str, Any]:
    settings = tiny_settings(steps=8, validate_every=4, answers_every=1)
    settings["model"]["diffusion"] = {"times": {"kind": "conditional"}}
    settings["model"]["sampling"] = {"steps": 3}
    return settings


@pytest.fixture(scope="module")
def conditional(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("conditional") / "model"
    train(cohort, RunConfig.model_validate(conditional_settings()), out)
    return out


@pytest.fixture(scope="module")
def alone(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny_settings(steps=8, validate_every=4, answers_every=1)
    variables = settings["schema"]["variables"]
    settings["schema"]["variables"] = {"image": variables["image"]}
    settings["model"]["sampling"] = {"steps": 3}
    out = tmp_path_factory.mktemp("alone") / "model"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Initializing zero-element")  # a user sees it
        train(cohort, RunConfig.model_validate(settings), out)
    return out


def test_a_conditional_model_draws_images_given_all_conditions_or_none(conditional: Path) -> None:
    model = mv.load(conditional)
    for given in (PERSON, {}):
        drawn = model.ask("image", given, samples=2)["image"].samples
        assert drawn.shape == (2, 1, 24, 24, 24)
        assert np.isfinite(drawn).all()


def test_a_conditional_model_draws_no_scalars_before_its_images(conditional: Path) -> None:
    model, moved = load_model(conditional), set()
    ask(model, ["image"], {}, 1, 1, 0, watch=lambda t, z, clean: moved.update(clean))
    assert moved == {"image"}


@pytest.mark.parametrize(
    ("call", "question"),
    [
        (lambda m, x: m.ask("age", {"image": x}), r"age \| image"),
        (lambda m, x: m.ask("image, age", {"sex": "F"}), r"image, age \| sex"),
        (lambda m, x: m.ask("image", {"age": 50}), r"image \| age"),
        (lambda m, x: m.sample(1), r"image, age, sex, diagnosis \|"),
        (lambda m, x: m.inpaint(x, x > 0.5, {"age": 50}), r"image \| age"),
        (lambda m, x: m.counterfactual({"image": x}, {"age": 50}), r"age \| image"),
        (lambda m, x: m.counterfactual({"image": x, "age": 9e1}, {"age": 50}), r"image \| age"),
    ],
)
def test_a_conditional_model_refuses_what_it_has_not_learnt(
    conditional: Path, call: Any, question: str
) -> None:
    image = np.random.default_rng(0).random((24, 24, 24), dtype=np.float32)
    with pytest.raises(MetaVoxelError, match=f'cannot answer "{question}"'):
        call(mv.load(conditional), image)


def test_a_conditional_model_trains_nothing_but_the_image() -> None:
    settings = conditional_settings()
    schema = RunConfig.model_validate(settings).variables
    assert schema is not None
    config = ModelConfig.model_validate(settings["model"])
    model = MetaVoxel(schema, config, {"age": scores(20, 90)})
    generator = torch.Generator().manual_seed(0)
    scalars, _ = model.corner({}, 64, model.schema.scalars, generator)
    z0 = model.process.prior(64, generator) | scalars
    loss, parts = model.loss(z0, {v: torch.ones(64, dtype=torch.bool) for v in z0}, generator)
    loss.backward()
    assert [*parts] == ["image"]
    assert all(p.grad is None for p in model.denoiser.heads.parameters())


def test_a_conditional_model_does_not_repaint() -> None:
    settings = conditional_settings()["model"]
    settings["sampling"] = {"conditioner": "repaint", "spacing": "uniform", "point": "samples"}
    with pytest.raises(MetaVoxelError, match="set conditioner to exact"):
        ModelConfig.model_validate(settings).check()


@pytest.mark.parametrize("name", ["conditional", "alone"])
def test_the_folder_claims_no_answer_about_scalars(
    name: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    calibration = json.loads((folder / "calibration.json").read_text())
    assert calibration["scores"] == calibration["one_evaluation"] == {}
    assert calibration["question"] is None
    card = (folder / "README.md").read_text()
    assert "can be asked nothing else" in card
    assert 'ask THIS_FOLDER "image" --samples 8' in card
    assert "Measured" not in card
    record = read_yaml(folder / "selftest.json")
    assert [*record["answers"]] == ["image of a whole record"]
    assert selftest_failures(mv.load(folder).network, record) == []


def test_an_image_alone_is_sampled_and_filled_in(alone: Path) -> None:
    model = mv.load(alone)
    assert model.sample(2)["image"].samples.shape == (2, 1, 24, 24, 24)
    image = np.random.default_rng(0).random((24, 24, 24), dtype=np.float32)
    mask = np.zeros((24, 24, 24), bool)
    mask[12:] = True
    filled = model.inpaint(image, mask).samples[0, 0]
    assert np.array_equal(filled[:12], image[:12])


@pytest.mark.parametrize(
    ("name", "says"), [("conditional", "cannot answer"), ("alone", "knows image alone")]
)
def test_evaluating_them_is_refused_in_a_sentence(
    cohort: Path, tmp_path: Path, name: str, says: str, request: pytest.FixtureRequest
) -> None:
    folder, console = request.getfixturevalue(name), Console(file=io.StringIO())
    with pytest.raises(MetaVoxelError, match=says):
        evaluate(folder, cohort, tmp_path / "out", 3, 0, console)
