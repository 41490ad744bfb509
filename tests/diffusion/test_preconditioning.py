"""Preconditioned images against what is exact for a Gaussian with any covariance."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.preconditioning import Preconditioned
from metavoxel.diffusion.schedule import linear, rescale_zero_terminal_snr
from metavoxel.linear_gaussian.images import FactorGaussian, Moments

T = 1000
SHAPE = (3, 2)
UNIQUE = torch.tensor([[1.0, 0.01], [2.0, 0.3], [0.5, 0.1]], dtype=torch.float64)
RANKS = [0, 1, 2]


def gaussian(rank: int) -> FactorGaussian:
    generator = torch.Generator().manual_seed(7)
    return FactorGaussian(torch.randn(2, *SHAPE, generator=generator).double()[:rank], UNIQUE)


def covariance(of: FactorGaussian) -> Tensor:
    loadings = of.factors.flatten(1)
    return loadings.T @ loadings + torch.diag(of.unique.flatten())


def process(rank: int) -> Preconditioned:
    schedule = rescale_zero_terminal_snr(linear(T))
    return Preconditioned(GaussianForward(schedule), lambda: gaussian(rank))


def faded(alpha_bar: Tensor) -> Tensor:
    """What is left of a correction where Eq. 5 teaches little."""
    return alpha_bar / (alpha_bar + 0.003)


def draw(n: int, of: FactorGaussian) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0, noise = torch.randn(2, n, 6, generator=generator, dtype=torch.float64)
    root = torch.linalg.cholesky(covariance(of))
    return (z0 @ root.T).view(n, *SHAPE), noise.view(n, *SHAPE)


@pytest.mark.parametrize("rank", RANKS)
def test_the_lmmse_estimate_is_the_posterior_of_the_whole_covariance(rank: int) -> None:
    """From the joint covariance of (z_0, z_t), inverted whole, with a time for every record."""
    of = process(rank)
    z0, noise = draw(5, gaussian(rank))
    times = torch.tensor([0, 30, 400, T, 400])
    zt = of.forward.noised(z0, times, noise)
    answer = of.at(zt, times).estimate
    cov = covariance(gaussian(rank))
    for i, a in enumerate(of.forward.schedule.alpha_bar(times).double()):
        noisy = a * cov + (1 - a) * torch.eye(6)  # the covariance of z_t
        gain = a.sqrt() * cov @ torch.linalg.inv(noisy)
        expected = (gain @ zt[i].flatten()).view(SHAPE)
        torch.testing.assert_close(answer.mean[i], expected, rtol=1e-6, atol=1e-6)
        variance = (cov - a.sqrt() * gain @ cov).diagonal().view(SHAPE)
        torch.testing.assert_close(answer.std[i].square(), variance, rtol=1e-6, atol=1e-6)
        own = a.sqrt() * UNIQUE * torch.linalg.solve(noisy, zt[i].flatten()).view(SHAPE)
        torch.testing.assert_close(answer.unique[i], own / UNIQUE.sqrt(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of.at(zt, times).denoised(torch.zeros_like(zt)), answer.mean)
    shown = torch.cat([answer.mean, answer.unique], 1)
    torch.testing.assert_close(of.at(zt, times).network_input, shown)


@pytest.mark.parametrize("left", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("j", [1, 2])
def test_what_is_known_of_factors_is_a_prior_of_them(j: int, left: float) -> None:
    """As with the posterior of the whole covariance, about another mean, with a time for every
    record; nothing but what the Gaussian says itself is the answer without."""
    of, whole = process(2), gaussian(2)
    z0, noise = draw(5, whole)
    times = torch.tensor([0, 30, 400, T, 400])
    zt = of.forward.noised(z0, times, noise)
    known = Moments(
        torch.randn(5, j, generator=torch.Generator().manual_seed(2)).double() * (left < 1),
        left * torch.eye(j, dtype=torch.float64).expand(5, -1, -1),
    )
    got = whole.mean_given(zt, of.forward.schedule.alpha_bar(times), known)
    loadings = whole.factors.flatten(1)
    prior = torch.cat([torch.full((j,), left), torch.ones(2 - j)]).double()
    cov = loadings.T @ (prior[:, None] * loadings) + torch.diag(whole.unique.flatten())
    for i, a in enumerate(of.forward.schedule.alpha_bar(times).double()):
        mean = known.mean[i] @ loadings[:j]
        gain = a.sqrt() * cov @ torch.linalg.inv(a * cov + (1 - a) * torch.eye(6))
        expected = mean + gain @ (zt[i].flatten() - a.sqrt() * mean)
        torch.testing.assert_close(got[i].flatten(), expected, rtol=1e-6, atol=1e-6)
    prediction = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3)).double()
    alone, informed = of.at(zt, times), of.at(zt, times, known)
    fade = faded(of.forward.schedule.alpha_bar(times).double())[:, None, None]
    expected = got + fade * alone.estimate.std * prediction
    torch.testing.assert_close(informed.denoised(prediction), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(informed.network_input, alone.network_input)
    if left == 1:
        expected = alone.denoised(prediction)
        torch.testing.assert_close(informed.denoised(prediction), expected, rtol=1e-6, atol=1e-6)


def test_nothing_is_shown_of_what_is_marginalised_and_everything_of_what_is_known() -> None:
    of = process(2)
    z0, noise = draw(2, gaussian(2))
    times = torch.tensor([0, T])
    shown = of.at(of.forward.noised(z0, times, noise), times).network_input
    torch.testing.assert_close(shown[0, :3], z0[0], rtol=1e-6, atol=1e-6)
    assert not shown[1].any()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("t", [1, 30, 400, T])
def test_the_loss_of_no_correction_and_that_corrections_have_variance_one(
    t: int, rank: int
) -> None:
    """By hand, within five standard errors of 20,000 draws: four times the squared error of the
    noise (Eq. 5) that the LMMSE estimate leaves."""
    n = 20_000
    of = process(rank)
    z0, noise = draw(n, gaussian(rank))
    times = torch.full((n,), t)
    zt = of.forward.noised(z0, times, noise)
    state = of.at(zt, times)
    loss = state.loss(torch.zeros_like(zt), z0, noise)
    answer = of.at(zt, times).estimate
    a = of.forward.schedule.alpha_bar(times).double()[:, None, None]
    left = noise - (zt - a.sqrt() * answer.mean) / (1 - a).sqrt()
    by_hand = 4 * float(left.square().mean())
    assert float(loss.mean()) == pytest.approx(by_hand, abs=5 * float(loss.std()) / n**0.5)
    correction = (z0 - answer.mean) / answer.std
    torch.testing.assert_close(correction.mean(0), torch.zeros_like(UNIQUE), atol=0.04, rtol=0)
    torch.testing.assert_close(correction.var(0), torch.ones_like(UNIQUE), atol=0.05, rtol=0)
    right = state.loss(correction / faded(a).clamp_min(1e-9), z0, noise)
    assert float(right.max()) < 1e-6


def test_where_the_noise_s_error_teaches_nothing_a_correction_fades() -> None:
    """Under Eq. 5 alone it counts in full in the image's detail, by half at alpha_bar = 0.003, and
    not at T, where the LMMSE estimate is left."""
    z0, noise = draw(T + 1, gaussian(2))
    times = torch.arange(T + 1)
    a = process(2).forward.schedule.alpha_bar(times).double()
    half = int((a - 0.003).abs().argmin())
    of = process(2)
    zt = of.forward.noised(z0, times, noise)
    answer = of.at(zt, times).estimate
    moved = (of.at(zt, times).denoised(torch.ones_like(zt)) - answer.mean) / answer.std
    for t in (T // 2, half, T):
        expected = torch.full_like(moved[t], float(faded(a)[t]))
        torch.testing.assert_close(moved[t], expected, rtol=1e-3, atol=2e-6)


def test_what_else_is_known_counts_in_full_where_corrections_fade() -> None:
    """In single precision, at T too: no correction leaves the answer of Bayes' rule."""
    whole = gaussian(2)
    single = FactorGaussian(whole.factors.float(), whole.unique.float())
    of = replace(process(2), gaussian=lambda: single)
    z0, noise = draw(3, whole)
    times = torch.tensor([T, T - 1, T // 2])
    zt = of.forward.noised(z0, times, noise).float()
    known = Moments(torch.tensor([[1.0], [-2.0], [0.5]]), torch.zeros(3, 1, 1))
    said = of.at(zt, times, known).denoised(torch.zeros_like(zt))
    expected = single.mean_given(zt, of.forward.schedule.alpha_bar(times), known)
    torch.testing.assert_close(said, expected, rtol=1e-5, atol=1e-5)


def test_single_precision_is_enough_for_many_elements() -> None:
    """10,000 elements of very different spread, strong factors, at the ends of the schedule."""
    generator = torch.Generator().manual_seed(1)
    own = 10 ** -(4 * torch.rand(10_000, generator=generator, dtype=torch.float64))
    factors = torch.randn(8, 10_000, generator=generator, dtype=torch.float64)
    exact, single = FactorGaussian(factors, own), FactorGaussian(factors.float(), own.float())
    zt = torch.randn(4, 10_000, generator=generator, dtype=torch.float64)
    a = rescale_zero_terminal_snr(linear(T)).alpha_bar(torch.tensor([1, 10, T - 1, T])).double()
    got, expected = single.lmmse(zt.float(), a.float()), exact.lmmse(zt, a)
    for part in ("mean", "std", "unique"):
        torch.testing.assert_close(
            getattr(got, part).double(), getattr(expected, part), rtol=1e-2, atol=1e-3
        )
    known = Moments(torch.ones(4, 3).double(), torch.zeros(4, 3, 3).double())
    told = single.mean_given(zt.float(), a.float(), known)
    torch.testing.assert_close(told.double(), exact.mean_given(zt, a, known), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rank", RANKS)
def test_sampling_without_corrections_draws_the_gaussian(rank: int) -> None:
    """From pure noise, 100 second-order steps: the covariance within 5 % and Monte-Carlo error."""
    n, of = 8000, process(rank)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)
    angles = torch.linspace(0, 1, 101)
    past, steps = None, (T * (1 - angles)).long()
    for t, s in pairwise(steps.tolist()):
        now, after = torch.full((n,), t), torch.full((n,), s)
        z0 = of.at(z, now).denoised(torch.zeros_like(z))
        following = of.forward.step(z0, z, now, after, past=past)
        past, z = of.forward.past(z0, z, now), following
    cov = covariance(gaussian(rank))
    scale = cov.diagonal().sqrt()
    error = 5 / n**0.5
    mean = z.flatten(1).mean(0) / scale
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=error, rtol=0)
    got = torch.cov(z.flatten(1).T) / (scale[:, None] * scale)
    torch.testing.assert_close(
        got, cov / (scale[:, None] * scale), atol=error * 2**0.5 + 0.05, rtol=0
    )


def test_a_known_image_in_a_batch_leaves_the_gradient_finite() -> None:
    """With several images, single records of one are at t = 0, where the estimate is exact."""
    of = process(2)
    z0, noise = draw(3, gaussian(2))
    prediction = torch.zeros_like(z0, requires_grad=True)
    times = torch.tensor([0, 500, 1000])
    each = of.at(of.forward.noised(z0, times, noise), times).loss(prediction, z0, noise)
    torch.where(torch.tensor([False, True, True]), each, torch.zeros_like(each)).sum().backward()
    assert prediction.grad is not None and bool(prediction.grad.isfinite().all())
    assert not bool(prediction.grad[0].any()) and bool(prediction.grad[1].any())
