"""The Gaussian process against Eq. 1 step by step, and DDIM against its closed form."""

import pytest
import torch

from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.schedule import cosine, linear, rescale_zero_terminal_snr, scaled_linear

ZERO_SNR = rescale_zero_terminal_snr(scaled_linear(1000))


def times(n: int, t: int) -> torch.Tensor:
    return torch.full((n,), t, dtype=torch.long)


GAUSSIANS = [GaussianForward(linear(1000)), GaussianForward(ZERO_SNR)]


@pytest.fixture(name="generator")
def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_moments(z, mean: float, variance: float, errors: float = 4.5):
    """Mean and variance of independent Gaussian draws, within standard errors."""
    n = z.numel()
    assert abs(z.mean() - mean) < errors * (variance / n) ** 0.5
    assert abs(z.var() - variance) < errors * variance * (2 / n) ** 0.5


@pytest.mark.parametrize("schedule", [linear(50, 0.01, 0.2), cosine(50)], ids=["linear", "cosine"])
def test_noised_has_the_moments_of_eq_1_step_by_step(schedule, generator):
    n, z0 = 20000, 1.7
    z = torch.full((n,), z0)
    gaussian = GaussianForward(schedule)
    for t in range(1, 51):
        beta = schedule.beta(t)
        z = (1 - beta) ** 0.5 * z + beta**0.5 * torch.randn(n, generator=generator)
        if t in (1, 10, 30, 50):
            at_once = gaussian.noised(
                torch.full((n,), z0), times(n, t), gaussian.noise(n, (), generator)
            )
            a = float(schedule.table[t])
            assert_moments(z, a**0.5 * z0, 1 - a)
            assert_moments(at_once, a**0.5 * z0, 1 - a)


@pytest.mark.parametrize(("s", "t"), [(0, 1), (1, 2), (100, 700), (0, 1000), (999, 1000)])
def test_noised_then_renoised_is_noised(s, t, generator):
    """q(z_t | z_s) after q(z_s | z_0) is q(z_t | z_0), in signal and in variance."""
    gaussian = GaussianForward(ZERO_SNR)
    one, zero = torch.ones(1), torch.zeros(1)
    signal = gaussian.renoised(
        gaussian.noised(one, times(1, s), zero), times(1, s), times(1, t), zero
    )
    from_s = gaussian.renoised(
        gaussian.noised(zero, times(1, s), one), times(1, s), times(1, t), zero
    )
    fresh = gaussian.renoised(zero, times(1, s), times(1, t), one)
    a = float(ZERO_SNR.table[t])
    assert float(signal) == pytest.approx(a**0.5, abs=1e-6)
    assert float(from_s**2 + fresh**2) == pytest.approx(1 - a, abs=1e-6)


def test_clean_data_at_0_and_pure_noise_at_the_end():
    z0, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    gaussian = GaussianForward(ZERO_SNR)
    assert torch.equal(gaussian.noised(z0, times(3, 0), noise), z0)
    assert torch.equal(gaussian.noised(z0, times(3, 1000), noise), noise)
    assert torch.equal(gaussian.prior(noise), noise)


def test_every_record_has_its_own_time():
    z0, noise = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    t = torch.tensor([0, 5, 500, 1000])
    together = GaussianForward(ZERO_SNR).noised(z0, t, noise)
    for i in range(4):
        alone = GaussianForward(ZERO_SNR).noised(z0[i : i + 1], t[i : i + 1], noise[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("gaussian", GAUSSIANS, ids=["linear", "zero_snr"])
@pytest.mark.parametrize(("t", "s"), [(1000, 999), (1000, 0), (700, 350), (2, 1), (1, 0)])
def test_a_perfect_ddim_step_lands_on_the_same_noise(gaussian, t, s):
    z0, noise = torch.randn(200, 3), torch.randn(200, 3)
    zt = gaussian.noised(z0, times(200, t), noise)
    zs = gaussian.step(z0, zt, times(200, t), times(200, s))
    # The noise is recovered from z_t, x0 and sqrt(1 - alpha_bar): less exact where that is small.
    tolerance = 1e-4 if t > 2 else 1e-3
    assert torch.allclose(zs, gaussian.noised(z0, times(200, s), noise), atol=tolerance)


def test_the_same_seed_gives_the_same_noise():
    draws = [
        GaussianForward(ZERO_SNR).noise(4, (2,), torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    assert torch.equal(*draws)
