"""The statistics of a training set against NumPy's and scikit-learn's on whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from metavoxel.encoding.image import IdentityConfig, ImageEncoder, KLConfig, build_encoder
from metavoxel.schema import Image
from metavoxel.training import statistics
from metavoxel.training.statistics import fit_normal, fit_statistics, shared_factors

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
    diagonal = gaussian.own + gaussian.factors.square().sum(0)
    expected = variance.sqrt().clamp_min(0.05).square()
    torch.testing.assert_close(diagonal.double(), expected, atol=1e-3, rtol=0)
    assert bool((gaussian.own > 0).all())


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
        assert bool(gaussian.factors.isfinite().all() & gaussian.own.isfinite().all())
        assert bool((gaussian.own > 0).all())


def test_of_many_scans_the_covariance_takes_an_even_selection(monkeypatch: pytest.MonkeyPatch):
    """Eleven scans in chunks of four, every third kept."""
    monkeypatch.setattr(statistics, "_MOST_SCANS", 4)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        statistics, "shared_factors", lambda x, rank: seen.append(x) or torch.zeros(0, *x.shape[1:])
    )
    encoder, x = build_encoder(IdentityConfig(), IMAGE), scans(11)
    fit_statistics(encoder, x, chunk=4)
    raw = 2 * (x.float() / 255) - 1
    std = raw.std(0, correction=0)
    expected = torch.where(std > 0, (raw[::3] - raw.mean(0)) / std, 0)
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=1e-4)


def people(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.5, 0, 0], [-0.5, 0, 1, 0], [0, 0.3, 0.2, 20]])
    return 5 + torch.randn(n, 4, generator=generator) @ mixing.T


def test_a_normal_of_complete_records_is_the_sample_s_and_as_many_independent_as_it_has_elements():
    x = people(50)
    mean, covariance = fit_normal(x, torch.ones(50, 4, dtype=torch.bool))
    sample = np.cov(x.numpy().T, bias=True)
    shrunk = (50 * sample + 4 * np.diag(sample.diagonal())) / 54
    assert mean.numpy() == pytest.approx(x.mean(0).numpy(), abs=1e-5)
    assert covariance.numpy() == pytest.approx(shrunk, rel=1e-4, abs=1e-4)


def test_a_normal_of_records_with_gaps_is_that_of_all_even_if_they_depend_on_values():
    """One is missing in whoever has a large other: the mean of those who have it is off."""
    x = people(20_000)
    there = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    there[:, 0] = True
    there[:, 1] = x[:, 0] < 5.5
    mean, covariance = fit_normal(x, there)
    truth = np.cov(x.numpy().T)
    std = np.sqrt(truth.diagonal())
    assert float(x[there[:, 1], 1].mean()) < 5 - 0.3 * std[1]
    assert mean.numpy() == pytest.approx(x.mean(0).numpy(), abs=0.05 * std.max())
    assert (covariance.numpy() - truth) / np.outer(std, std) == pytest.approx(0, abs=0.06)


def test_a_normal_leaves_alone_what_records_cannot_tell():
    x = people(40)
    never = torch.ones(40, 4, dtype=torch.bool)
    never[:20, 0] = never[20:, 1] = False  # never both
    never[:, 3] = False
    never[0] = False  # of one person, nothing
    x[~never] = torch.nan
    mean, covariance = fit_normal(x, never)
    assert mean.isfinite().all() and torch.linalg.eigvalsh(covariance).min() > 0
    assert float(mean[3]) == 0 and torch.equal(covariance[3, :3], torch.zeros(3).double())
    for n in (0, 1):  # a record that varies from none, beside four that vary by 1
        mean, covariance = fit_normal(people(n), torch.ones(n, 4, dtype=torch.bool))
        assert covariance.numpy() == pytest.approx(np.eye(4) * 4 / (4 + n))
