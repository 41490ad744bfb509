"""The spread that an answer states is that of its read-out, in the variable's unit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from folders import AGE, SEX, schema
from metavoxel.diffusion.mixture import Component, MixtureReadOut
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.evaluation.systems import answer
from metavoxel.inference.ask import ask
from metavoxel.inference.spread import stated_quantiles, stated_spread
from metavoxel.model import MetaVoxel, ModelConfig
from metavoxel.model_folder import load_model, save_model


def model(mixture: tuple[Component, ...] = (), **diffusion: object) -> MetaVoxel:
    settings = {
        "encoding": {"kind": "identity"},
        "denoiser": {
            "channels": [8, 8],
            "groups": 4,
            "head_channels": 8,
            "scalar_head_channels": 8,
        },
        "diffusion": diffusion,
        "sampling": {"steps": 25},
    }
    scalings = {"age": LinearScaling(0, 100, 0.5, mixture)}
    return MetaVoxel(
        schema(age=AGE, sex=SEX), ModelConfig.model_validate(settings), scalings
    ).eval()


def test_the_stated_spread_is_that_of_the_samples() -> None:
    """A network that says N(0.2, 0.5^2 / 4) whatever it sees: 60 years, give or take 12.5."""
    torch.manual_seed(0)
    said = model()
    head = said.denoiser.heads["age"]
    for weight in head.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        head.skip.bias.copy_(torch.tensor([0.2, math.log(1 / 4)]))
    image = {"image": torch.rand(70, 1, 8, 8, 8)}
    spread = stated_spread(said, ["age", "sex"], said.encode(image), 70, seed=0)
    assert spread["age"].numpy() == pytest.approx(12.5)
    assert [*spread] == ["age"]
    drawn = ask(said, ["age"], {"image": image["image"][:1]}, 1, 400, seed=0)
    assert drawn.point["age"].numpy() == pytest.approx(60)
    assert float(drawn.samples["age"].std()) == pytest.approx(12.5, rel=0.12)


def test_a_prediction_without_a_variance_states_none() -> None:
    image = {"image": torch.rand(2, 1, 8, 8, 8)}
    said = model(continuous_prediction="v")
    assert stated_spread(said, ["age", "sex"], said.encode(image), 2, seed=0) == {}


def test_an_answer_that_knows_nothing_is_the_cohort(tmp_path: Path) -> None:
    """Two humps, at 30 and 70 years: in one evaluation, in samples, in a model that was saved."""
    torch.manual_seed(0)
    humps = ((0.25, -0.4, 0.1), (0.75, 0.4, 0.1))
    said = model(humps, continuous_prior="mixture")
    head = said.denoiser.heads["age"]
    for weight in head.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        head.skip.bias.copy_(torch.tensor([0.0, 30.0]))  # no evidence
    save_model(said, tmp_path / "model")
    for each in (said, load_model(tmp_path / "model")):
        levels = torch.tensor([0.125, 0.625], dtype=torch.float64)
        stated = stated_quantiles(each, ["age", "sex"], {}, 70, levels, seed=0)
        assert [*stated] == ["age"]
        assert stated["age"][69].numpy() == pytest.approx([30, 70], abs=0.1)  # the humps' middles
        spread = stated_spread(each, ["age"], {}, 1, seed=0)["age"]
        assert float(spread) == pytest.approx((5**2 + 0.25 * 0.75 * 40**2) ** 0.5, rel=1e-3)
        drawn = ask(each, ["age"], {}, 1, 1000, seed=0)
        assert drawn.point["age"].numpy() == pytest.approx(60, abs=0.1)
        young = float((drawn.samples["age"] < 50).double().mean())
        assert young == pytest.approx(0.25, abs=4 * (0.1875 / 1000) ** 0.5)
    one = answer(said, ["age"], {}, 3, 0, seed=0)
    assert one.samples["age"].shape == (3, 100)
    assert float((one.samples["age"] < 50).mean()) == pytest.approx(0.25)


def test_what_teaches_the_variance_is_a_setting() -> None:
    humps = ((0.5, -0.4, 0.1), (0.5, 0.4, 0.1))
    for setting, moves in (("likelihood and velocity", True), ("likelihood", False)):
        age = model(humps, variance_learns_from=setting).process.processes["age"]
        assert isinstance(age, MixtureReadOut)
        assert age.velocity_moves_variance == moves
