"""What the network is shown, and what its linear read-out can say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metavoxel.denoiser.config import DenoiserConfig
from metavoxel.denoiser.heads import LinearReadOut, LocalReadOut
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.model import MetaVoxel, ModelConfig
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


def model(**denoiser: object) -> MetaVoxel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "encoding": {"kind": "identity"},
            "denoiser": {"channels": [16, 32], "groups": 8, "head_channels": 16}
            | {"scalar_head_channels": 16}
            | denoiser,
        }
    )
    made = MetaVoxel(schema(), config, {"age": LinearScaling(0, 100, std=0.5)})
    for parameter in made.denoiser.parameters():  # the last layers start at 0
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def asked_at(model: MetaVoxel, times: dict[str, int], seed: int) -> dict[str, Tensor]:
    """The network's prediction on records that differ in what is drawn at T alone."""
    known = model.process.prior(4, torch.Generator().manual_seed(0))
    fresh = model.process.prior(4, torch.Generator().manual_seed(seed))
    z = {v: fresh[v] if t == model.process.T else known[v] for v, t in times.items()}
    with torch.no_grad():
        return model(z, {v: torch.full((4,), t) for v, t in times.items()})


@pytest.mark.parametrize("marginalised", ["flair", "age", "sex", "grade"])
def test_what_is_marginalised_has_no_part_in_an_answer(marginalised: str) -> None:
    network = model()
    times = dict.fromkeys(network.schema, 0) | {marginalised: network.process.T}
    first, second = asked_at(network, times, 1), asked_at(network, times, 2)
    for v in network.schema:
        torch.testing.assert_close(first[v], second[v])
    # ... and what is noised but not all the way has.
    times[marginalised] = network.process.T // 2
    third = asked_at(network, times, 1)
    assert any(not torch.allclose(first[v], third[v]) for v in network.schema)


def test_the_linear_read_out_is_a_linear_function_of_every_element() -> None:
    read = LinearReadOut(2 * 3 * 4, 5)
    images = torch.randn(7, 2, 3, 4)
    assert not read(images).any()
    torch.nn.init.normal_(read.weight)
    expected = torch.einsum("bchw,ochw->bo", images, read.weight.view(5, 2, 3, 4)) / 24**0.5
    torch.testing.assert_close(read(images), expected)


@pytest.mark.parametrize("grid", [(6, 4), (4, 6, 5)])
def test_the_local_read_out_is_linear_in_the_image_and_sees_the_neighbours_alone(
    grid: tuple[int, ...],
) -> None:
    read = LocalReadOut(len(grid), 2, 1, 8)
    a, b = torch.randn(2, 3, 2, *grid)
    emb, other = torch.randn(2, 3, 8)
    assert not read(a, emb).any()
    torch.nn.init.normal_(read.out.weight)
    both = read(2 * a - b, emb)
    torch.testing.assert_close(both, 2 * read(a, emb) - read(b, emb), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(read(a, emb), read(a, other))
    spot = torch.zeros(3, 2, *grid)
    spot[:, 0, *(0 for _ in grid)] = 1
    near = torch.zeros(3, 1, *grid, dtype=torch.bool)
    near[:, 0, *(slice(2) for _ in grid)] = True
    assert torch.equal(read(spot, emb) != 0, near)


def test_the_linear_read_out_is_a_setting_and_adds_to_the_head() -> None:
    assert DenoiserConfig().linear_read_out
    network = model()
    without = model(linear_read_out=False).denoiser
    assert not without.linear and without.local is None
    times = dict.fromkeys(network.schema, 0) | {"age": network.process.T}
    before = asked_at(network, times, 1)
    with torch.no_grad():
        network.denoiser.linear["age"].weight += 1
        image = network.process.prior(4, torch.Generator().manual_seed(0))["flair"]
        shown = network.process.processes["flair"].seen(image, torch.zeros(4, dtype=torch.long))
    after = asked_at(network, times, 1)
    rise = shown.flatten(1).sum(1, keepdim=True) / shown[0].numel() ** 0.5
    torch.testing.assert_close(after["age"], before["age"] + rise, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after["sex"], before["sex"])
