"""Image encoders: shapes, ranges, standardisation and refusals, in 2D and 3D."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from metavoxel.encoding.image import (
    IdentityConfig,
    ImageEncoding,
    KLConfig,
    KLEncoder,
    build_encoder,
    fold,
    unfold,
)
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image

GRIDS = [(16, 24), (16, 24, 8)]
ENCODINGS = [
    IdentityConfig(),
    KLConfig(channels=(8, 16), latent_channels=3, groups=4),
    KLConfig(factor=8, patch=1, channels=(4, 4, 8, 8), latent_channels=2, groups=2, attention=True),
    KLConfig(factor=2, patch=2, channels=(8,), latent_channels=2, groups=4),
]


def image(grid: tuple[int, ...], channels: int = 1) -> Image:
    return Image(shape=grid, spacing=(4.0,) * len(grid), channels=channels)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("config", ENCODINGS, ids=lambda c: f"{c.kind}-{getattr(c, 'factor', 1)}")
def test_a_round_trip_keeps_shape_and_range(config, grid, channels):
    encoder = build_encoder(config, image(grid, channels)).eval()
    x = torch.rand(2, channels, *grid)
    with torch.no_grad():
        z = encoder.encode(x)
        back = encoder.decode(z)
    assert z.shape == (2, encoder.latent_channels, *encoder.latent_shape(grid))
    assert back.shape == x.shape
    assert back.min() >= 0 and back.max() <= 1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_the_stem_loses_nothing(grid, patch):
    x = torch.rand(2, 3, *grid)
    assert torch.equal(unfold(fold(x, patch), patch), x)


def test_a_folded_voxel_keeps_its_neighbourhood():
    """The channels of one folded voxel are the voxels of one block."""
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert fold(x, 2)[0, :, 0, 1].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("config", ENCODINGS[:2], ids=lambda c: c.kind)
def test_statistics_centre_and_scale_the_latent_and_leave_the_image_alone(config):
    encoder = build_encoder(config, image((16, 24))).eval()
    x = torch.rand(3, 1, 16, 24)
    with torch.no_grad():
        before = encoder.decode(encoder.encode(x))
        raw = encoder.embed(x)
        encoder.set_statistics(raw.mean(0), raw.std(0))
        z = encoder.encode(x)
        after = encoder.decode(z)
    torch.testing.assert_close(z.mean(0), torch.zeros_like(z[0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.var(0).mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        z.std(0).clamp_min(0.05), encoder.gaussian().unique.sqrt(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.reconstruct(x), before, atol=1e-5, rtol=0)


def test_statistics_travel_with_the_weights():
    encoder = build_encoder(IdentityConfig(), image((8, 8)))
    encoder.set_statistics(torch.full((1, 8, 8), 0.5), torch.full((1, 8, 8), 2.0))
    other = build_encoder(IdentityConfig(), image((8, 8)))
    other.load_state_dict(encoder.state_dict())
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(other.encode(x), encoder.encode(x))


def test_the_background_is_not_blown_up():
    """Where the training images never vary, z stays on the scale of the rest."""
    encoder = build_encoder(IdentityConfig(), image((8, 8)))
    std = torch.ones(1, 8, 8)
    std[:, :, :4] = 0
    encoder.set_statistics(torch.full((1, 8, 8), -1.0), std)
    z = encoder.encode(torch.full((1, 1, 8, 8), 0.01))
    assert z.unique().numel() == 1
    assert encoder.gaussian().unique.sqrt().min() > 0


def test_moments_are_a_mean_and_a_positive_std():
    encoder = build_encoder(ENCODINGS[1], image((16, 24, 8)))
    assert isinstance(encoder, KLEncoder)
    mu, sigma = encoder.posterior(torch.rand(2, 1, 16, 24, 8))
    assert mu.shape == sigma.shape == (2, 3, 4, 6, 2)
    assert sigma.min() > 0


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_shortcut_begins_at_the_principal_components_of_the_blocks(grid):
    """Uncorrelated, of mean variance 1, falling; no worse than another linear map."""
    encoder = build_encoder(KLConfig(channels=(8, 16), latent_channels=3, groups=4), image(grid))
    assert isinstance(encoder, KLEncoder)
    x = torch.rand(9, 1, *grid) * torch.rand(9, 1, *(1 for _ in grid))
    encoder.begin(x.split(4))
    with torch.no_grad():
        z, back = encoder.embed(x), encoder.reconstruct(x)
    flat = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(3), atol=1e-3, rtol=0)
    covariance = flat.cov(correction=0)
    torch.testing.assert_close(covariance, covariance.diag().diag(), atol=1e-2, rtol=0)
    torch.testing.assert_close(covariance.diag().mean(), torch.tensor(1.0), atol=1e-2, rtol=0)
    assert (covariance.diag().diff() < 0).all()
    means = fold(x, 4).mean(1, keepdim=True).expand_as(fold(x, 4))
    assert (back - x).square().mean() < (unfold(means, 4) - x).square().mean()


def test_a_latent_as_wide_as_the_block_loses_nothing():
    encoder = build_encoder(
        KLConfig(factor=2, patch=2, channels=(8,), groups=4, latent_channels=6), image((8, 8))
    )
    assert isinstance(encoder, KLEncoder)
    x = torch.rand(40, 1, 8, 8)
    encoder.begin([x])
    with torch.no_grad():
        torch.testing.assert_close(encoder.reconstruct(x), x, atol=1e-4, rtol=0)


def test_a_grid_that_does_not_fit_is_refused_with_one_that_does():
    with pytest.raises(MetaVoxelError, match=r"\[39, 48, 41\].*factor 4.*\[40, 48, 40\]"):
        build_encoder(KLConfig(), image((39, 48, 41)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 2, "patch": 4, "channels": (16,)}, "larger than factor"),
        ({"factor": 8, "patch": 1, "channels": (16, 32)}, "needs 4 widths"),
        ({"channels": (16, 20)}, "multiples of groups"),
        ({"widths": (16, 32)}, "Extra inputs"),
    ],
)
def test_settings_that_disagree_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        KLConfig(**settings)


def test_the_kind_chooses_the_settings():
    read = TypeAdapter(ImageEncoding).validate_python
    assert read({"kind": "identity"}) == IdentityConfig()
    assert read({"kind": "kl", "factor": 4}) == KLConfig()
