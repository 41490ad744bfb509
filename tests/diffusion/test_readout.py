"""Read-outs: Bayes' rule joins what the network says with what z_t says, exactly."""

from __future__ import annotations

import math

import pytest
import torch

from metavoxel.diffusion.categorical import CategoricalProcess
from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.joint import JointProcess
from metavoxel.diffusion.readout import CategoricalReadOut, GaussianReadOut
from metavoxel.diffusion.schedule import cosine, linear, rescale_zero_terminal_snr
from metavoxel.inference.samplers import Condition, one_evaluation, sample

SCHEDULE = rescale_zero_terminal_snr(linear(1000))
TIMES = torch.tensor([0, 1, 10, 300, 700, 999, 1000])


def test_continuous_read_out_is_the_gaussian_posterior() -> None:
    """E[z_0 | z_t] of prior N(m, r) and evidence N(sqrt(a) z_0, 1 - a), at every t."""
    process = GaussianReadOut(GaussianProcess(SCHEDULE, "v", data_std=0.4))
    n = len(TIMES)
    mean, log_variance, zt = torch.randn(3, n, 1)
    a, r = SCHEDULE.alpha_bar(TIMES)[:, None], 0.16 * log_variance.exp()
    expected = ((1 - a) * mean + r * a.sqrt() * zt) / (1 - a + r * a)
    answer = process.clean(torch.cat([mean, log_variance], 1), zt, TIMES)
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["uniform", "absorbing"])
def test_categorical_read_out_is_bayes_rule(kernel: str) -> None:
    """p(z_0 | z_t) from a prior over labels and the matrix of q(z_t | z_0)."""
    discrete = CategoricalProcess(cosine(1000), 3, kernel)  # type: ignore[arg-type]
    process = CategoricalReadOut(discrete)
    prior = torch.tensor([0.2, 0.5, 0.3])
    for t in TIMES[1:]:
        forward = discrete.marginal(torch.eye(3), t.expand(3))  # (label, state)
        for state in range(discrete.states):
            joint = prior * forward[:, state]
            if joint.sum() == 0:
                continue
            zt = torch.eye(discrete.states)[state][None]
            answer = process.clean(prior.log()[None], zt, t[None])
            torch.testing.assert_close(answer[0], joint / joint.sum(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["uniform", "absorbing"])
def test_the_network_sees_a_known_value_whole_and_nothing_of_a_marginalised_one(
    kernel: str,
) -> None:
    """At t = 0 the value itself; at T the same for all, whatever was drawn there."""
    number = GaussianReadOut(GaussianProcess(SCHEDULE, "v", data_std=0.4))
    label = CategoricalReadOut(CategoricalProcess(cosine(1000), 3, kernel))  # type: ignore[arg-type]
    none, whole = torch.zeros(50, dtype=torch.long), torch.full((50,), 1000)
    z0, noise = torch.randn(2, 50, 1)
    torch.testing.assert_close(number.seen(number.noised(z0, none, noise), none), z0)
    assert not number.seen(number.noised(z0, whole, noise), whole).any()
    z0, noise = torch.eye(3).repeat(17, 1)[:50], label.noise(50, (3,))
    torch.testing.assert_close(label.seen(label.noised(z0, none, noise), none), z0)
    seen = label.seen(label.noised(z0, whole, noise), whole)
    torch.testing.assert_close(seen, torch.full((50, 3), 1 / 3))


@pytest.mark.parametrize("t", [1, 100, 500, 1000])
@pytest.mark.parametrize("std", [0.02, 0.2, 0.6])
def test_the_loss_teaches_mean_and_variance_at_every_time(t: int, std: float) -> None:
    """Its gradient is 0 at the truth, up to chance, and points there from twice the variance."""
    process = GaussianReadOut(GaussianProcess(SCHEDULE, "v", data_std=0.5))
    n = 20_000
    generator = torch.Generator().manual_seed(0)
    z0 = 0.3 + std * torch.randn(n, 1, generator=generator)
    noise = torch.randn(n, 1, generator=generator)

    def gradients(mean: float, variance: float) -> torch.Tensor:
        read = torch.tensor([[mean, math.log(variance / 0.25)]]).repeat(n, 1).requires_grad_()
        process.loss(read, z0, torch.full((n,), t), noise).sum().backward()
        assert read.grad is not None
        return read.grad

    truth = gradients(0.3, std**2)
    assert (truth.mean(0).abs() < 5 * truth.std(0) / n**0.5 + 1e-6).all()
    unsure = gradients(0.3, 2 * std**2)[:, 1]
    assert unsure.mean() > 0.02  # a tenth of 1 / 4, whatever the velocity adds
    assert gradients(0.3, std**2 / 2)[:, 1].mean() < -0.04


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_constant_read_out_samples_its_own_distribution(in_turn: bool) -> None:
    """If the rest says N(m, r) and p, the samples are N(m, r) and p, and so is one evaluation."""
    n, mean, std = 4000, 0.3, 0.2
    p = torch.tensor([0.2, 0.5, 0.3])
    process = JointProcess(
        {
            "age": GaussianReadOut(GaussianProcess(SCHEDULE, "v", data_std=0.5)),
            "group": CategoricalReadOut(CategoricalProcess(cosine(1000), 3)),
        },
        {"age": (1,), "group": (3,)},
    )

    def denoise(z, t, asked):
        log_variance = torch.tensor(std**2 / 0.25).log().expand(len(z["age"]), 1)
        age = torch.cat([torch.full_like(log_variance, mean), log_variance], 1)
        return {"age": age, "group": p.log().expand(len(z["age"]), 3)}

    generator = torch.Generator().manual_seed(0)
    condition, asked = Condition(n), ["age", "group"]
    z = sample(
        denoise,
        process,
        condition,
        asked,
        SamplingConfig(steps=100, scalars_in_turn=in_turn),
        generator,
    )
    assert abs(z["age"].mean() - mean) < 4 * std / n**0.5 + 0.002
    assert abs(z["age"].std() / std - 1) < 0.05
    assert (z["group"].mean(0) - p).abs().max() < 4 * (0.25 / n) ** 0.5
    point = one_evaluation(denoise, process, condition, asked, generator)
    torch.testing.assert_close(point["age"], torch.full((n, 1), mean))
    torch.testing.assert_close(point["group"], p.expand(n, 3))


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("std", [0.02, 0.4])
def test_a_narrow_answer_keeps_its_spread_in_few_steps(steps: int, std: float) -> None:
    """A trajectory whose prior is N(0.3, std^2) ends there, however few its steps."""
    read = GaussianReadOut(GaussianProcess(SCHEDULE, "v", data_std=0.5))
    process = JointProcess({"age": read}, {"age": (1,)})

    def denoise(z, t, asked):
        said = torch.tensor([[0.3, 2 * math.log(std / 0.5)]])
        return {"age": said.expand(len(z["age"]), 2)}

    generator = torch.Generator().manual_seed(0)
    n, settings = 4000, SamplingConfig(steps=steps, scalars_in_turn=False)
    z = sample(denoise, process, Condition(n), ["age"], settings, generator)["age"]
    assert float(z.mean()) == pytest.approx(0.3, abs=4 * std / n**0.5)
    assert float(z.var() / std**2) == pytest.approx(1, abs=4 * (2 / n) ** 0.5)


def test_two_answers_that_move_together_keep_spread_and_correlation() -> None:
    """Each one's exact read-out given the other's z_t; correlated by 0.9, in 20 steps."""
    std, rho, n = 0.3, 0.9, 20_000
    read = GaussianReadOut(GaussianProcess(SCHEDULE, "v", data_std=0.5))
    process = JointProcess({"a": read, "b": read}, {"a": (1,), "b": (1,)})

    def denoise(z, t, asked):
        said = {}
        for v, other in (("a", "b"), ("b", "a")):
            a = SCHEDULE.alpha_bar(t[other])[:, None]
            gain = rho * std**2 * a.sqrt() / (a * std**2 + 1 - a)
            variance = std**2 - gain * rho * std**2 * a.sqrt()
            said[v] = torch.cat([gain * z[other], (variance / 0.25).log()], 1)
        return said

    generator = torch.Generator().manual_seed(0)
    settings = SamplingConfig(steps=20, scalars_in_turn=False)
    z = sample(denoise, process, Condition(n), ["a", "b"], settings, generator)
    cov = torch.cov(torch.cat([z["a"], z["b"]], 1).T) / std**2
    assert float(cov[0, 0]) == pytest.approx(1, abs=0.05)
    assert float(cov[0, 1]) == pytest.approx(rho, abs=0.05)


def test_read_outs_keep_extreme_predictions_finite() -> None:
    """A network's first outputs may be anything; losses and gradients stay finite."""
    process = GaussianReadOut(GaussianProcess(SCHEDULE, "v", data_std=1e-3))
    prediction = (100 * torch.randn(len(TIMES), 2)).requires_grad_()
    z0, noise = torch.randn(2, len(TIMES), 1)
    process.loss(prediction, z0, TIMES, noise).sum().backward()
    assert prediction.grad is not None and prediction.grad.isfinite().all()
