"""Augmentation: rigid in millimetres, a function of its generator, never a change of size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image, Schema
from metavoxel.training.augment import (
    NO_AUGMENTATION,
    Augmentation,
    augment,
    rigid_motion,
    rotations,
)
from metavoxel.training.config import TrainingConfig


def blob(grid: tuple[int, ...], spacing: tuple[float, ...], centre: tuple[float, ...]) -> Tensor:
    """A soft ball, 6 mm wide, at `centre` in millimetres from the middle of the grid."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(grid, spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    offset = points - torch.tensor(centre).view(-1, *(1,) * len(grid))
    return torch.exp(-(offset**2).sum(0) / (2 * 6.0**2))[None, None]


@pytest.mark.parametrize("grid", [(20, 24), (20, 24, 16)], ids=str)
def test_without_settings_nothing_changes(grid):
    x = torch.rand(3, 2, *grid)
    out = augment(x, (2.0,) * len(grid), NO_AUGMENTATION, torch.Generator())
    assert torch.equal(out, x)


@pytest.mark.parametrize("grid", [(20, 24), (20, 24, 16)], ids=str)
def test_the_same_generator_gives_the_same_images(grid):
    x, config = torch.rand(4, 1, *grid), Augmentation(noise=0.05)
    first, second = (
        augment(x, (2.0,) * len(grid), config, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.shape == x.shape and first.min() >= 0 and first.max() <= 1
    assert not torch.equal(first, x)


def test_a_flip_is_of_the_first_axis():
    x = torch.rand(2, 1, 6, 5, 4)
    config = NO_AUGMENTATION.model_copy(update={"flip": 1.0})
    assert torch.equal(augment(x, (1.0,) * 3, config, torch.Generator()), x.flip(2))


@pytest.mark.parametrize(
    ("grid", "spacing", "shift"),
    [((31, 41), (4.0, 3.0), (4.0, -6.0)), ((25, 21, 33), (4.0, 6.0, 3.0), (4.0, -6.0, 3.0))],
)
def test_a_translation_is_in_millimetres(grid, spacing, shift):
    x = blob(grid, spacing, (0.0,) * len(grid))
    still = torch.eye(len(grid))[None]
    out = rigid_motion(x, spacing, still, torch.tensor([shift]))
    torch.testing.assert_close(
        out, blob(grid, spacing, tuple(-s for s in shift)), atol=2e-3, rtol=0
    )


def test_a_rotation_is_rigid_on_an_anisotropic_grid():
    """Out(p) = x(R p): the blob at c moves to R^T c and stays round, in millimetres."""
    grid, spacing, centre = (41, 31, 31), (2.0, 3.0, 3.0), torch.tensor([14.0, 0.0, 6.0])
    turn = rotations(torch.tensor([[math.radians(30), math.radians(-20), math.radians(10)]]), 3)
    x = blob(grid, spacing, tuple(centre.tolist()))
    out = rigid_motion(x, spacing, turn, torch.zeros(1, 3))
    expected = blob(grid, spacing, tuple((turn[0].T @ centre).tolist()))
    torch.testing.assert_close(out, expected, atol=0.03, rtol=0)
    torch.testing.assert_close(out.sum(), x.sum(), rtol=0.01, atol=0)


def test_no_motion_keeps_every_voxel():
    x = torch.rand(2, 1, 9, 8, 7)
    out = rigid_motion(x, (4.0,) * 3, torch.eye(3).expand(2, 3, 3), torch.zeros(2, 3))
    torch.testing.assert_close(out, x, atol=1e-5, rtol=0)


def test_half_a_voxel_keeps_detail_that_linear_interpolation_would_lose():
    """A wave of 4 voxels: linear interpolation keeps 0.71 of it at half a voxel, ours over 0.85."""
    wave = torch.sin(torch.arange(64) * math.pi / 2 + 0.3)[None, None, :, None].expand(1, 1, 64, 8)
    out = rigid_motion(wave, (1.0, 1.0), torch.eye(2)[None], torch.tensor([[0.5, 0.0]]))
    inner = out[0, 0, 8:56, 4]
    assert inner.std() / wave[0, 0, 8:56, 4].std() > 0.85


@pytest.mark.parametrize("stage", ["autoencoder", "joint"])
def test_an_axis_that_a_picture_lacks_cannot_be_flipped(stage: str):
    picture = Schema(variables={"image": Image(shape=(32, 32), spacing=(1, 1))})
    settings = TrainingConfig.model_validate({stage: {"augmentation": {"flip_axis": 2}}})
    with pytest.raises(MetaVoxelError, match=rf"training.{stage}.*flip_axis is 2, but image is 2D"):
        settings.check(picture)
    settings.check(Schema(variables={"image": Image(shape=(32,) * 3, spacing=(1,) * 3)}))
