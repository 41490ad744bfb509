"""The networks on the grids of the cohorts, and the arithmetic that is sound on them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from metavoxel.evaluation.specialists.config import DenseNetSize, SpecialistConfig
from metavoxel.evaluation.specialists.encoding import Inputs, Standard
from metavoxel.evaluation.specialists.networks import (
    Standardised,
    build_network,
    covers_kernels,
    with_constant_channels,
)

UNIT = Standard(offset=0, scale=1)


def inputs(*grid: int) -> Inputs:
    return Inputs(images={"image": 1}, scalars={"sex": UNIT}, grid=grid, spacing=(4.0,) * len(grid))


@pytest.mark.parametrize("grid", [(40, 56, 40), (48, 56), (96, 80), (9, 13)])
@pytest.mark.parametrize("network", ["densenet", "vit", "resnet"])
def test_every_network_answers_on_every_grid(network: str, grid: tuple[int, ...]) -> None:
    config = SpecialistConfig.model_validate({"network": network, "question": "age | image, sex"})
    built = build_network(config, inputs(*grid), 3).eval()
    with torch.no_grad():
        said = built(torch.rand(2, 1, *grid), torch.tensor([[-1.0], [1.0]]))
    assert said.shape == (2, 3) and said.isfinite().all()


def test_a_known_scalar_is_a_constant_channel() -> None:
    image = torch.rand(2, 1, 3, 4)
    joined = with_constant_channels(image, torch.tensor([[0.5, -1.0], [0.25, 1.0]]))
    assert torch.equal(joined[:, :1], image)
    assert joined.shape == (2, 3, 3, 4)
    assert (joined[1, 1] == 0.25).all() and (joined[0, 2] == -1).all()


def test_an_image_is_padded_evenly_by_its_edge() -> None:
    """A patch of 8 on a grid of 9 x 13 sees 16 x 16 voxels."""
    config = SpecialistConfig.model_validate({"network": "vit", "question": "age | image"})
    built = build_network(config, inputs(9, 13), 1)
    assert built.network.margins == [(3, 4), (1, 2)]


@pytest.mark.parametrize(
    ("network", "grid", "covered"),
    [
        ("vit", (40, 56, 40), True),
        ("resnet", (40, 56, 40), False),  # 3 x 4 x 3, then 2 x 2 x 2 voxels under kernels of 3
        ("resnet", (96, 80), True),  # 3 x 3
        ("densenet", (40, 56, 40), False),
    ],
)
def test_bfloat16_is_used_only_where_grids_cover_kernels(
    network: str, grid: tuple[int, ...], covered: bool
) -> None:
    config = SpecialistConfig.model_validate({"network": network, "question": "age | image, sex"})
    where = inputs(*grid)
    assert covers_kernels(build_network(config, where, 1), where) is covered


@pytest.mark.parametrize("centred", [True, False])
def test_images_are_standardised_by_the_training_images(centred: bool) -> None:
    """Over all voxels mean 0 and variance 1; centred, mean 0 in every voxel as well."""
    read: list[torch.Tensor] = []

    class Reader(torch.nn.Module):
        def forward(self, image: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
            read.append(image)
            return scalars

    network, images = Standardised(Reader(), inputs(4, 5)), torch.rand(50, 1, 4, 5)
    network.fit(images, centred)
    network(images, torch.zeros(50, 1))
    assert read[0].mean().abs() < 1e-5 and abs(read[0].var(correction=0) - 1) < 1e-4
    assert bool((read[0].mean(0).abs() < 1e-5).all()) is centred


def test_what_is_left_out_has_the_default_of_the_network() -> None:
    one, other = (
        SpecialistConfig.model_validate({"network": n, "question": "age | image"})
        for n in ("densenet", "resnet")
    )
    assert one.centred and not other.centred
    given = {"network": "resnet", "question": "age | image", "centred": True}
    assert SpecialistConfig.model_validate(given).centred


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValidationError, match="norm group needs channels in fours"):
        DenseNetSize(norm="group", blocks=(1, 1), init_features=12, growth_rate=8)
    DenseNetSize(norm="group", blocks=(1, 1), init_features=8, growth_rate=8)
