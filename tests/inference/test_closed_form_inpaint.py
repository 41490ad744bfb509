"""Inpainting against the closed form: one part of a field is held, the rest is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.inference.samplers import Condition, sample
from toy import Toy, make_process, regression

HALF = torch.tensor([[True, True], [False, False]]).expand(1, 2, 2)


def inpaint(settings: SamplingConfig, n: int = 2000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image with its upper half held: what was held, the drawn image, truth for the lower half."""
    generator = torch.Generator().manual_seed(6)
    halves = Toy({"up": (2,), "low": (2,)}, {"coin": 2}, *_two_labels())
    whole = Toy({"image": (1, 2, 2)}, {"coin": 2}, halves.table, halves.mean, halves.cov)
    z0 = whole.draw(n, generator)["image"]
    process = make_process(whole)
    # What lies under the asked part must not matter.
    condition = Condition(n, held={"image": (torch.where(HALF, z0, 99.0), HALF)})
    drawn = sample(whole.denoiser(process), process, condition, ["image"], settings, generator)
    mean, cov = halves.conditional({"up": z0[:, 0, 0]}, ["low"])
    return z0, drawn["image"], mean, cov


def _two_labels() -> tuple[Tensor, Tensor, Tensor]:
    """One Gaussian for both labels: four voxels that correlate 0.7."""
    cov = torch.full((4, 4), 0.7).double().fill_diagonal_(1.0)
    return torch.tensor([0.5, 0.5]).double(), torch.zeros(2, 4).double(), cov.expand(2, 4, 4)


@pytest.mark.parametrize("conditioner", ["exact", "repaint"])
@pytest.mark.parametrize("resamplings", [1, 3])
def test_the_held_part_of_an_image_is_kept_to_the_bit(conditioner, resamplings):
    settings = SamplingConfig(
        conditioner=conditioner, steps=10, spacing="uniform", resamplings=resamplings
    )
    z0, drawn, _, _ = inpaint(settings, n=50)
    assert torch.equal(drawn[:, HALF], z0[:, HALF])
    assert torch.isfinite(drawn).all()
    assert drawn.abs().max() < 20


def test_inpainting_follows_the_held_part_if_resampled():
    """Plain overwriting shrinks, as above; 10 resamplings bring the mean of the rest to the truth,

    slope within 0.06, at the price of its spread.
    """

    def measured(resamplings: int) -> tuple[float, float]:
        settings = SamplingConfig(steps=50, resamplings=resamplings)
        _, drawn, mean, cov = inpaint(settings)
        return regression(drawn[:, 0, 1].double(), mean, cov)

    plain, resampled = measured(1), measured(10)
    assert 0.4 < plain[0] < 0.85
    assert resampled[0] == pytest.approx(1, abs=0.06)
    assert resampled[1] < 0.9 * plain[1]
