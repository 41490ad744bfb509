"""The statistics of a training set against NumPy's and scikit-learn's on whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from metavoxel.encoding.image import IdentityConfig, ImageEncoder, KLConfig, build_encoder
from metavoxel.schema import Image
from metavoxel.training import statistics
from metavoxel.training.statistics import fit_statistics, shared_factors

GRID = (8, 8)
IMAGE = Image(suffix="T1w", shape=GRID, spacing=(1, 1))
KL = KLConfig(factor=4, patch=4, channels=(16,), latent_channels=3)


def scans(n: int) -> torch.Tensor:
    """8-bit images that vary together: three patterns and some noise; one corner never varies."""
    generator = torch.Generator().manual_seed(3)
    patterns = torch.randn(3, 1, *GRID, generator=generator)
    weights = torch.randn(n, 3, generator=generator)
    noise = torch.randn(n, 1, *GRID, generator=generator)
    x = torch.einsum("nk,kchw->nchw", weights, patterns) + 0.5 * noise
    x[:, :, 0, 0] = 0
    return (100 + 15 * x).clamp(0, 255).to(torch.uint8)


def latents(encoder: ImageEncoder, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder.encode(x.float() / 255).double()


@pytest.mark.parametrize("config", [IdentityConfig(), KL], ids=lambda c: c.kind)
def test_mean_and_std_are_those_of_the_whole_set_in_one_pass(config: IdentityConfig | KLConfig):
    encoder, x = build_encoder(config, IMAGE), scans(11)
    fit_statistics(encoder, x, chunk=4)
    z = latents(encoder, x)
    torch.testing.assert_close(z.mean(0), torch.zeros_like(z[0]), atol=1e-3, rtol=0)
    variance = z.var(0, correction=0)  # one scale for all elements: their variances average to one
    assert float(variance.mean()) == pytest.approx(1, abs=1e-3)
    gaussian = encoder.gaussian()
    diagonal = gaussian.unique + gaussian.factors.square().sum(0)
    expected = variance.sqrt().clamp_min(0.05).square()
    torch.testing.assert_close(diagonal.double(), expected, atol=1e-3, rtol=0)
    assert bool((gaussian.unique > 0).all())


@pytest.mark.parametrize("n", [12, 60])
def test_the_factors_at_full_rank_are_the_covariance_that_ledoit_and_wolf_shrink(n: int):
    x = torch.randn(n, 30, generator=torch.Generator().manual_seed(n))
    x = x @ torch.randn(30, 30, generator=torch.Generator().manual_seed(0)) ** 2
    x = (x - x.mean(0)) / x.std(0, correction=0)
    factors = shared_factors(x, rank=1000).numpy()
    shrunk, weight = ledoit_wolf(x.numpy(), assume_centered=True)
    own = 1 - (factors**2).sum(0)
    np.testing.assert_allclose(factors.T @ factors + np.diag(own), shrunk, atol=1e-5)
    np.testing.assert_allclose(own, weight, atol=1e-5)


def test_a_low_rank_keeps_the_leading_components():
    x = scans(40).double()
    x = x - x.mean(0)
    some, more = shared_factors(x, 3), shared_factors(x, 10)
    assert len(some) == 3
    torch.testing.assert_close(some, more[:3])
    lengths = more.flatten(1).norm(dim=1)
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    assert float(lengths[2]) > 3 * float(lengths[3])  # the images have three patterns


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_scans_or_identical_ones_are_no_trouble(n: int):
    for x in (scans(n), scans(1).expand(n, -1, -1, -1)):
        encoder = build_encoder(IdentityConfig(), IMAGE)
        fit_statistics(encoder, x)
        gaussian = encoder.gaussian()
        assert bool(gaussian.factors.isfinite().all() & gaussian.unique.isfinite().all())
        assert bool((gaussian.unique > 0).all())


def test_of_many_scans_the_covariance_takes_an_even_selection(monkeypatch: pytest.MonkeyPatch):
    """Eleven scans in chunks of four, every third kept."""
    monkeypatch.setattr(statistics, "MOST_SCANS", 4)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        statistics, "shared_factors", lambda x, rank: seen.append(x) or torch.zeros(0, *x.shape[1:])
    )
    encoder, x = build_encoder(IdentityConfig(), IMAGE), scans(11)
    fit_statistics(encoder, x, chunk=4)
    raw = 2 * (x.float() / 255) - 1
    torch.testing.assert_close(seen[0], raw[::3] - raw.mean(0), atol=1e-4, rtol=1e-4)


def test_a_single_scan_is_no_direction():
    """Of 60 scans, one alone has anything in a corner of the image: as a factor of units of its
    own, the corner would outweigh the three patterns that all have."""
    x = scans(60).float()
    x[:, :, :4, :4] = 0
    x[0, :, :4, :4] = 60
    factors = shared_factors(x - x.mean(0), 3).flatten(2)
    corner = factors.view(3, 1, *GRID)[:, :, :4, :4].square().sum((1, 2, 3))
    assert float((corner / factors.square().sum((1, 2))).max()) < 0.5
