"""Read-outs of a scalar that is a mixture of normals over the cohort: Bayes' rule, on a grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.joint import JointProcess
from metavoxel.diffusion.mixture import MixtureReadOut, fit_mixture
from metavoxel.diffusion.readout import GaussianReadOut
from metavoxel.diffusion.schedule import linear, rescale_zero_terminal_snr
from metavoxel.inference.samplers import Condition, one_evaluation, sample

SCHEDULE = rescale_zero_terminal_snr(linear(1000))
TIMES = torch.tensor([0, 1, 10, 300, 700, 999, 1000])
HUMPS = ((0.55, -0.5, 0.15), (0.45, 0.4, 0.25))
STD = 0.5
GRID = torch.linspace(-4, 4, 80_001, dtype=torch.float64)


def read_out(components: tuple = HUMPS, moves_variance: bool = True) -> MixtureReadOut:
    process = GaussianProcess(SCHEDULE, "v", data_std=STD)
    return MixtureReadOut(process, components, moves_variance)


def cohort_density(x: Tensor) -> Tensor:
    return sum(w / s * torch.exp(-(((x - m) / s) ** 2) / 2) for w, m, s in HUMPS)  # type: ignore


def said(eta: float, precision: float) -> Tensor:
    """The prediction (1, 2) of a rest that speaks by exp(eta z_0 - precision z_0^2 / 2)."""
    variance = 1 / (1 / STD**2 + precision)
    share = min(variance / STD**2, 1 - 1e-7)
    return torch.tensor([[variance * eta, math.log(share / (1 - share)) - 2.0]])


def moments(density: Tensor) -> tuple[float, float]:
    weight = density / density.sum()
    mean = float((weight * GRID).sum())
    return mean, float((weight * (GRID - mean) ** 2).sum())


@pytest.mark.parametrize(
    ("eta", "precision"), [(0.0, 0.0), (-1.5, 0.5), (3.0, 10.0), (80.0, 400.0)]
)
def test_it_is_bayes_rule_at_every_time(eta: float, precision: float) -> None:
    """E[z_0 | z_t, rest] and the stated spread, by integration over z_0."""
    process, prediction = read_out(), said(eta, precision)
    rest = cohort_density(GRID) * torch.exp(eta * GRID - precision * GRID**2 / 2)
    _, variance = moments(rest)
    assert float(process.spread(prediction)) == pytest.approx(variance**0.5, rel=1e-3)
    for t in TIMES:
        a = float(SCHEDULE.alpha_bar(t[None]))
        for zt in (-1.2, 0.1, 0.9):
            if a < 1:
                near = -((zt - a**0.5 * GRID) ** 2) / 2 / (1 - a)
                expected, _ = moments(rest * torch.exp(near - near.max()))
            else:
                expected = zt
            answer = process.clean(prediction, torch.tensor([[zt]]), t[None])
            assert float(answer) == pytest.approx(expected, abs=2e-3)


def test_of_one_normal_it_is_the_gaussian_read_out() -> None:
    one, plain = read_out(((1.0, 0.0, STD),)), GaussianReadOut(GaussianProcess(SCHEDULE, "v", STD))
    n = len(TIMES)
    mean, logit, zt = torch.randn(3, n, 1, generator=torch.Generator().manual_seed(0))
    log_variance = torch.nn.functional.logsigmoid(logit + 2)
    mixed, normal = torch.cat([mean, logit], 1), torch.cat([mean, log_variance], 1)
    torch.testing.assert_close(
        one.clean(mixed, zt, TIMES), plain.clean(normal, zt, TIMES), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(one.spread(mixed), plain.spread(normal), atol=1e-4, rtol=1e-3)
    later = (TIMES - 5).clamp(min=0)
    torch.testing.assert_close(
        one.step(mixed, zt, TIMES, later),
        plain.step(normal, zt, TIMES, later),
        atol=2e-4,
        rtol=1e-3,
    )


@pytest.mark.parametrize(("steps", "in_turn"), [(1, False), (5, False), (50, False), (50, True)])
@pytest.mark.parametrize(("eta", "precision"), [(0.0, 0.0), (-1.5, 2.0)])
def test_samples_have_the_humps(steps: int, in_turn: bool, eta: float, precision: float) -> None:
    """Kolmogorov-Smirnov against the density, in however few steps; the quantiles likewise."""
    read, n = read_out(), 4000
    process = JointProcess({"age": read}, {"age": (1,)})

    def denoise(z, t, asked):
        return {"age": said(eta, precision).expand(len(z["age"]), 2)}

    generator = torch.Generator().manual_seed(0)
    settings = SamplingConfig(steps=steps, scalars_in_turn=in_turn)
    z = sample(denoise, process, Condition(n), ["age"], settings, generator)["age"][:, 0]
    density = cohort_density(GRID) * torch.exp(eta * GRID - precision * GRID**2 / 2)
    below = density.cumsum(0) / density.sum()
    place = torch.searchsorted(GRID, z.double().sort().values).clamp(max=len(GRID) - 1)
    ranks = (torch.arange(n) + 0.5) / n
    assert float((below[place] - ranks).abs().max()) < 1.63 / n**0.5  # the 1 % point
    mean, _ = moments(density)
    point = one_evaluation(denoise, process, Condition(2), ["age"], generator)["age"]
    torch.testing.assert_close(point, torch.full((2, 1), mean), atol=2e-3, rtol=0)
    levels = torch.tensor([0.001, 0.25, 0.5, 0.9])
    found = read.quantiles(said(eta, precision), levels)[0]
    exact = GRID[torch.searchsorted(below, levels.double())]
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=0)


def test_the_network_sees_a_known_value_whole_and_nothing_of_a_marginalised_one() -> None:
    read, n = read_out(), 50
    none, whole = torch.zeros(n, dtype=torch.long), torch.full((n,), 1000)
    z0, noise = torch.randn(2, n, 1)
    torch.testing.assert_close(read.seen(read.noised(z0, none, noise), none), z0, atol=1e-4, rtol=0)
    shown = read.seen(read.noised(z0, whole, noise), whole)
    torch.testing.assert_close(shown, shown[:1].expand(n, 1))


@pytest.mark.parametrize("t", [1, 100, 500, 1000])
@pytest.mark.parametrize(("eta", "precision"), [(-1.0, 1.0), (20.0, 60.0)])
@pytest.mark.parametrize("moves_variance", [True, False])
def test_the_loss_teaches_what_the_rest_says_at_every_time(
    t: int, eta: float, precision: float, moves_variance: bool
) -> None:
    """Its gradient is 0 at the truth, up to chance, and leads back from twice the precision."""
    process, n = read_out(moves_variance=moves_variance), 20_000
    generator = torch.Generator().manual_seed(0)
    density = cohort_density(GRID) * torch.exp(eta * GRID - precision * GRID**2 / 2)
    share = torch.rand(n, generator=generator, dtype=torch.float64)
    z0 = GRID[torch.searchsorted(density.cumsum(0) / density.sum(), share)].float()[:, None]
    noise = torch.randn(n, 1, generator=generator)

    def gradients(prediction: Tensor) -> Tensor:
        read = prediction.repeat(n, 1).requires_grad_()
        process.loss(read, z0, torch.full((n,), t), noise).sum().backward()
        assert read.grad is not None
        return read.grad

    truth = gradients(said(eta, precision))
    assert (truth.mean(0).abs() < 5 * truth.std(0) / n**0.5 + 1e-5).all()
    assert gradients(said(2 * eta, 2 * precision))[:, 1].mean() < 0  # the variance must grow


@pytest.mark.parametrize("moves_variance", [True, False])
def test_the_velocity_can_be_kept_from_the_variance(moves_variance: bool) -> None:
    """Other noise moves the velocity alone, and so the gradient of the mean alone."""
    process, n = read_out(moves_variance=moves_variance), 50
    z0 = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))

    def gradients(seed: int) -> Tensor:
        read = said(-1.0, 4.0).repeat(n, 1).requires_grad_()
        noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed))
        process.loss(read, z0, torch.full((n,), 300), noise).sum().backward()
        assert read.grad is not None
        return read.grad

    one, other = gradients(1), gradients(2)
    assert not torch.isclose(one[:, 0], other[:, 0]).any()
    assert torch.allclose(one[:, 1], other[:, 1]) != moves_variance
    assert one[:, 1].abs().min() > 0


def test_a_temper_leaves_the_cohort_alone() -> None:
    """Four times the evidence's variance; where there is no evidence, nothing changes."""
    read = read_out()
    silent = read.tempered(said(0.0, 0.0), torch.tensor([4.0]))
    assert float(read.spread(silent)) == pytest.approx(
        moments(cohort_density(GRID))[1] ** 0.5, rel=1e-2
    )
    sharp = read.tempered(said(800.0, 4000.0), torch.tensor([4.0]))
    assert float(read.spread(sharp)) == pytest.approx(2 * 4000**-0.5, rel=0.05)


def test_the_mixture_of_a_cohort_is_found() -> None:
    g = torch.Generator().manual_seed(0)
    hump = torch.rand(4000, generator=g) < 0.55
    x = torch.where(hump, -0.5, 0.4) + torch.where(hump, 0.15, 0.25) * torch.randn(
        4000, generator=g
    )
    found = sorted(fit_mixture(x), key=lambda c: c[1])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(HUMPS), atol=0.04, rtol=0.1)
    assert len(fit_mixture(torch.full((20,), 3.0))) == 1
    even = fit_mixture(2 * torch.rand(1000, generator=g) - 1)
    assert len(even) > 1  # evenly spread is not normal


def test_a_few_people_have_no_humps() -> None:
    two_ages = torch.tensor([-0.5, 0.5])
    assert len(fit_mixture(two_ages)) == 1
    assert len(fit_mixture(two_ages.repeat(9))) == 1
    assert len(fit_mixture(two_ages.repeat(10))) == 2


def test_one_person_is_no_group() -> None:
    """Whose height would stand in the model's file."""
    heights = torch.randn(107, generator=torch.Generator().manual_seed(0))
    heights[0] = -10.0
    assert len(fit_mixture(heights)) == 1
