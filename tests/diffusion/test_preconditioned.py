"""The preconditioned process against what is exact for independent Gaussian elements."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.gaussian import GaussianProcess, Prediction
from metavoxel.diffusion.preconditioned import PreconditionedGaussian
from metavoxel.diffusion.schedule import linear, rescale_zero_terminal_snr

T = 1000
KINDS: list[Prediction] = ["epsilon", "x0", "v"]
STD = torch.tensor([[1.0, 0.1], [2.0, 0.3]], dtype=torch.float64)


def process(kind: Prediction) -> PreconditionedGaussian:
    schedule = linear(T)
    if kind != "epsilon":
        schedule = rescale_zero_terminal_snr(schedule)
    return PreconditionedGaussian(GaussianProcess(schedule, kind), lambda: STD)


def draw(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(n, 2, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 2, 2, generator=generator, dtype=torch.float64)
    return STD * z0, noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1, 30, 400, T])
def test_no_correction_is_the_posterior_mean(kind: Prediction, t: int) -> None:
    """From the joint covariance of (z_0, z_t): E[z_0 | z_t] = C_0t / C_tt z_t."""
    of = process(kind)
    z0, noise = draw(100)
    times = torch.full((100,), t)
    a = of.schedule.alpha_bar(times)[0].double()
    zt = of.noised(z0, times, noise)
    slope = a.sqrt() * STD.square() / (a * STD.square() + 1 - a)
    expected = slope * zt
    got = of.clean(torch.zeros_like(zt), zt, times)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of.seen(zt, times), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1, 30, 400, T])
def test_the_loss_of_no_correction_is_one_and_corrections_have_variance_one(
    kind: Prediction, t: int
) -> None:
    """Within five standard errors of 20,000 draws."""
    n = 20_000
    of = process(kind)
    z0, noise = draw(n)
    times = torch.full((n,), t)
    zt = of.noised(z0, times, noise)
    loss = of.loss(torch.zeros_like(zt), z0, times, noise)
    assert float(loss.mean()) == pytest.approx(1, abs=5 * float(loss.std()) / n**0.5)
    mean, std = of.linear(zt, times)
    correction = (of.process.target(z0, times, noise) - mean) / std
    torch.testing.assert_close(correction.mean(0), torch.zeros_like(STD), atol=0.04, rtol=0)
    torch.testing.assert_close(correction.var(0), torch.ones_like(STD), atol=0.05, rtol=0)
    right = of.loss(correction, z0, times, noise)
    assert float(right.max()) < 1e-6


def test_a_correction_means_the_same_in_all_three_forms() -> None:
    """Above the linear answer in x0 is below it in the noise and in the velocity."""
    z0, noise = draw(50)
    times = torch.full((50,), 300)
    correction = torch.randn(50, 2, 2, dtype=torch.float64)
    plain = linear(T)  # one schedule for all three
    by_kind = {
        kind: PreconditionedGaussian(GaussianProcess(plain, kind), lambda: STD) for kind in KINDS
    }
    zt = by_kind["x0"].noised(z0, times, noise)
    expected = by_kind["x0"].clean(correction, zt, times)
    for kind in ("epsilon", "v"):
        got = by_kind[kind].clean(-correction, zt, times)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_sampling_without_corrections_draws_the_gaussian(kind: Prediction) -> None:
    """From pure noise, 100 second-order steps: mean and spread within 3 % and Monte-Carlo error."""
    n, of = 4000, process(kind)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, 2, 2, generator=generator, dtype=torch.float64)
    angles = torch.linspace(0, 1, 101)
    past, steps = None, (T * (1 - angles)).long()
    for t, s in pairwise(steps.tolist()):
        now, after = torch.full((n,), t), torch.full((n,), s)
        nothing = torch.zeros_like(z)
        following = of.step(nothing, z, now, after, past=past)
        past, z = of.past(nothing, z, now), following
    error = 5 / n**0.5
    torch.testing.assert_close(
        z.mean(0) / STD, torch.zeros(2, 2).double(), atol=error + 0.05, rtol=0
    )
    torch.testing.assert_close(z.std(0) / STD, torch.ones(2, 2).double(), atol=error + 0.05, rtol=0)
