"""The spread that an answer states is that of its read-out, in the variable's unit."""

from __future__ import annotations

import math

import pytest
import torch

from folders import AGE, SEX, schema
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.inference.ask import ask
from metavoxel.inference.spread import stated_spread
from metavoxel.model import MetaVoxel, ModelConfig


def model(**diffusion: object) -> MetaVoxel:
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
    scalings = {"age": LinearScaling(0, 100, 0.5)}
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
