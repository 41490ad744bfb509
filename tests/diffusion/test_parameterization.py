"""What predictions mean: every target recovers z_0, and its loss is 1 for the mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.categorical import CategoricalForward
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.parameterization import (
    GaussianPrediction,
    LabelPrediction,
    NoisyGaussian,
    Target,
)
from metavoxel.diffusion.schedule import cosine, linear, rescale_zero_terminal_snr, scaled_linear

TARGETS: list[Target] = ["epsilon", "x0", "v"]
ZERO_SNR = rescale_zero_terminal_snr(scaled_linear(1000))


def times(n: int, t: int) -> Tensor:
    return torch.full((n,), t, dtype=torch.long)


def predicts(
    target: Target, data_std: float = 1.0, clip: float | None = None
) -> GaussianPrediction:
    schedule = linear(1000) if target == "epsilon" else ZERO_SNR
    return GaussianPrediction(GaussianForward(schedule), target, data_std)


def noisy(of: GaussianPrediction, z0: Tensor, t: Tensor, noise: Tensor) -> NoisyGaussian:
    return of.at(of.forward.noised(z0, t, noise), t)


@pytest.fixture(name="generator")
def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("target", TARGETS)
def test_the_network_sees_z_t_and_the_perfect_prediction_recovers_z0_at_every_time(target):
    of, t = predicts(target), torch.arange(1, 1001)
    z0, noise = torch.randn(1000, 3), torch.randn(1000, 3)
    state = noisy(of, z0, t, noise)
    assert torch.equal(state.network_input, of.forward.noised(z0, t, noise))
    # At t the noise is divided by sqrt(alpha_bar): float32 leaves about 1e-7 / 0.006 at T.
    assert torch.allclose(state.denoised(state.target(z0, noise)), z0, atol=1e-4)


def test_at_the_end_v_is_minus_z0():
    z0, noise = torch.randn(5, 2), torch.randn(5, 2)
    assert torch.equal(noisy(predicts("v"), z0, times(5, 1000), noise).target(z0, noise), -z0)


@pytest.mark.parametrize("data_std", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("t", [1, 10, 300, 700, 1000])
@pytest.mark.parametrize("target", TARGETS)
def test_predicting_the_mean_costs_one(target, t, data_std, generator):
    n, of = 20000, predicts(target, data_std)
    z0 = data_std * torch.randn((n, 2), generator=generator)
    noise = of.forward.noise(n, (2,), generator)
    loss = noisy(of, z0, times(n, t), noise).loss(torch.zeros(n, 2), z0, noise)
    assert loss.shape == (n,)
    assert float(loss.mean()) == pytest.approx(1, abs=4.5 * (1 / n) ** 0.5)  # var(chi2_2 / 2) = 1


@pytest.mark.parametrize("target", TARGETS)
def test_the_perfect_prediction_costs_nothing(target):
    z0, noise, t = torch.randn(50, 1, 4, 4), torch.randn(50, 1, 4, 4), torch.randint(1, 1001, (50,))
    state = noisy(predicts(target), z0, t, noise)
    assert torch.equal(state.loss(state.target(z0, noise), z0, noise), torch.zeros(50))


def test_the_loss_is_a_mean_over_voxels_whatever_the_grid():
    losses = []
    for z in (torch.full((1, 1, 2, 2), 0.5), torch.full((1, 3, 8, 8), 0.5)):
        noise = torch.zeros_like(z)
        losses.append(noisy(predicts("v"), z, times(1, 400), noise).loss(z + 1, z, noise))
    assert torch.allclose(losses[0], losses[1])


def test_epsilon_at_zero_snr_is_refused():
    with pytest.raises(ValueError, match="predict x0 or v"):
        GaussianPrediction(GaussianForward(ZERO_SNR), "epsilon")


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_read_off_a_prediction_is_clipped(target: Target) -> None:
    """A wrong prediction leads no further than the clip; a right one is not touched."""
    T = 1000
    forward = GaussianForward(scaled_linear(T, 0.0015, 0.0205))
    z0, t = torch.tensor([[0.5], [-0.9]]), torch.tensor([T, T // 2])
    noise = torch.tensor([[1.0], [-1.0]])
    state = noisy(GaussianPrediction(forward, target, clip=1.0), z0, t, noise)
    right = state.target(z0, noise)
    torch.testing.assert_close(state.denoised(right), z0, atol=1e-4, rtol=0)
    wrong = state.denoised(right + torch.tensor([[50.0], [-50.0]]))
    assert wrong.abs().max() == 1


LABELS = LabelPrediction(CategoricalForward(cosine(10), 3))


def test_the_loss_of_a_label_is_the_cross_entropy_of_the_clean_one():
    logits, z0 = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), torch.eye(3)[[0, 2]]
    state = LABELS.at(torch.eye(3)[[1, 1]], times(2, 5))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]), reduction="none")
    assert torch.allclose(state.loss(logits, z0, torch.zeros(2, 3)), expected)
    assert torch.allclose(state.denoised(logits), logits.softmax(-1))


def test_half_precision_logits_are_read_in_float32():
    state = LABELS.at(torch.eye(200)[:4], times(4, 5))
    logits = torch.randn(4, 200).to(torch.bfloat16).requires_grad_()
    z0, noise = torch.eye(200)[:4], torch.zeros(4, 200)
    loss = state.loss(logits, z0, noise)
    assert loss.dtype == state.denoised(logits).dtype == torch.float32
    assert torch.equal(loss, state.loss(logits.detach().float(), z0, noise))
    loss.sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_the_loss_of_a_certain_mistake_is_finite():
    state = LABELS.at(torch.eye(2)[:1], times(1, 5))
    logits = torch.tensor([[1e4, -1e4]])
    assert float(state.loss(logits, torch.eye(2)[1:], torch.zeros(1, 2))) == 2e4
