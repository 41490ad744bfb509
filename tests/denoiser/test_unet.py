"""What the network is shown, and what stands beside the U-Net."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from folders import scores
from metavoxel.denoiser.config import DenoiserConfig
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.schema import Schema, parse_schema

SCHEMA = {
    "variables": {
        "flair": {"kind": "image", "shape": [8, 8], "spacing": [1, 1]},
        "age": {"kind": "continuous", "range": [0, 100]},
        "sex": {"kind": "categorical", "labels": ["F", "M"]},
        "grade": {"kind": "categorical", "labels": ["1", "2", "3"]},
    }
}


def schema() -> Schema:
    return parse_schema(SCHEMA, "schema")


SCALARS = ["posterior", "diffusion"]


def model(scalars: str = "posterior", **denoiser: object) -> MetaVoxel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "encoding": {"kind": "identity"},
            "diffusion": {"scalars": scalars},
            "denoiser": {"channels": [16, 32], "groups": 8, "head_channels": 16}
            | {"scalar_head_channels": 16}
            | denoiser,
        }
    )
    age = LinearScaling(0, 100) if scalars == "diffusion" else scores(0, 100)
    made = MetaVoxel(schema(), config, {"age": age})
    for parameter in made.denoiser.parameters():  # the last layers start at 0
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def state(model: MetaVoxel, seed: int) -> dict[str, Tensor]:
    """Four records: of what diffuses noise, of other scalars anything."""
    generator = torch.Generator().manual_seed(seed)
    widths = {v: len(kind.labels) for v, kind in model.schema.categorical.items()} | {"age": 1}
    others = {v: torch.randn(4, k, generator=generator) for v, k in widths.items()}
    return others | model.process.prior(4, generator)


def asked_at(model: MetaVoxel, times: dict[str, int], seed: int) -> dict[str, Tensor]:
    """All that the network states of records that differ in what is drawn at T alone."""
    known, fresh = state(model, 0), state(model, seed)
    z = {v: fresh[v] if t == model.process.T else known[v] for v, t in times.items()}
    asked = [*model.schema.images, *model.denoiser.heads]
    with torch.no_grad():
        return model.predicted(z, {v: torch.full((4,), t) for v, t in times.items()}, asked)[1]


@pytest.mark.parametrize(
    ("marginalised", "scalars"),
    [*((v, "posterior") for v in ("flair", "age", "sex", "grade")), ("flair", "diffusion")],
)
def test_what_is_marginalised_has_no_part_in_an_answer(marginalised: str, scalars: str) -> None:
    network = model(scalars)
    times = dict.fromkeys(network.schema, 0) | {marginalised: network.process.T}
    first, second = asked_at(network, times, 1), asked_at(network, times, 2)
    for v in first:
        torch.testing.assert_close(first[v], second[v])
    # ... and what is noised but not all the way has.
    times[marginalised] = network.process.T // 2 if marginalised in network.process else 0
    third = asked_at(network, times, 1)
    assert any(not torch.allclose(first[v], third[v]) for v in first)


@pytest.mark.parametrize("scalars", SCALARS)
def test_the_linear_parts_are_a_setting_and_add_to_the_network(scalars: str) -> None:
    """Beside the same U-Net: the whole prediction is the sum of the two."""
    assert DenoiserConfig().linear_parts
    both, alone = model(scalars).denoiser, model(scalars, linear_parts=False).denoiser
    assert both.linear is not None and alone.linear is None
    alone.load_state_dict(
        {k: x for k, x in both.state_dict().items() if not k.startswith("linear.")}
    )
    z = {"flair": torch.randn(3, 2, 8, 8), "age": torch.randn(3, 1)}
    z |= {"sex": torch.rand(3, 2), "grade": torch.rand(3, 3)}
    t = {v: torch.tensor([0, 10, 1000]) for v in z}
    got, unet = both(z, t), alone(z, t)
    terms = both.linear.scalars(z["flair"], z, both.time(t), [*both.heads])
    terms["flair"] = both.linear.images(z["flair"], z, both.time(t))
    assert set(terms) == set(got) == {"flair", *both.heads}
    for v, term in terms.items():
        torch.testing.assert_close(got[v], unet[v] + term, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reader", [None, {"width": 8}])
def test_convolutions_lie_channels_last_and_answer_as_they_would_otherwise(
    reader: dict[str, int] | None,
) -> None:
    network = model(reader=reader)
    convolutions = [m for m in network.denoiser.modules() if isinstance(m, torch.nn.Conv2d)]
    for m in convolutions:
        assert m.weight.is_contiguous(memory_format=torch.channels_last)
    times = {v: 0 if v == "flair" else 1000 for v in network.schema}
    answers = asked_at(network, times, 0)
    network.denoiser.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]  # a form that torch's stubs lack
    for v, expected in asked_at(network, times, 0).items():
        torch.testing.assert_close(answers[v], expected, rtol=1e-4, atol=1e-4)
