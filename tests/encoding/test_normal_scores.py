"""Numbers as normal scores: standard normal over the cohort, with an exact inverse."""

from __future__ import annotations

import pytest
import torch

from metavoxel.encoding.normal_scores import NormalScores, fit_mixture, fit_normal_scores

HUMPS = ((0.55, -0.5, 0.15), (0.45, 0.4, 0.25))


def drawn(n: int) -> torch.Tensor:
    """Values of the mixture HUMPS."""
    g = torch.Generator().manual_seed(0)
    hump = torch.rand(n, generator=g) < HUMPS[0][0]
    scale = torch.where(hump, HUMPS[0][2], HUMPS[1][2])
    return torch.where(hump, HUMPS[0][1], HUMPS[1][1]) + scale * torch.randn(n, generator=g)


def test_the_scores_of_a_cohort_are_standard_normal() -> None:
    n = 4000
    scores = NormalScores(-1, 1, HUMPS).encode(drawn(n))[:, 0]
    levels = torch.linspace(0.05, 0.95, 19)
    below = (scores[:, None] <= torch.special.ndtri(levels)).double().mean(0)
    assert (below - levels).abs().max() < 4 * 0.5 / n**0.5


@pytest.mark.parametrize("value", [-40.0, -1.0, -0.05, 0.3, 1.0, 40.0])
def test_a_value_comes_back_far_outside_the_cohort_too(value: float) -> None:
    scores = NormalScores(-1, 1, HUMPS)
    values = torch.tensor([value], dtype=torch.float64)
    torch.testing.assert_close(scores.values(scores.scores(values)), values, rtol=1e-9, atol=1e-9)
    (slope,) = scores.slope(values)
    step = scores.scores(values + 1e-6) - scores.scores(values)
    assert float(slope) > 0
    torch.testing.assert_close(slope, step[0] / 1e-6, rtol=1e-3, atol=0)


def test_without_a_range_it_is_that_of_the_cohort_and_one_value_has_a_map_too() -> None:
    values = torch.tensor([3.0, 5.0, 8.0])
    assert fit_normal_scores(values, None).low == 3 and fit_normal_scores(values, None).high == 8
    assert fit_normal_scores(values, (0, 9)).high == 9
    alone = fit_normal_scores(torch.full((20,), 3.0), None)
    torch.testing.assert_close(
        alone.decode(alone.encode(torch.tensor([3.0]))), torch.tensor([3.0]).double()
    )


def test_the_mixture_of_a_cohort_is_found() -> None:
    found = sorted(fit_mixture(drawn(4000), least=1e-3), key=lambda c: c[1])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(HUMPS), atol=0.04, rtol=0.1)
    assert len(fit_mixture(torch.full((20,), 3.0), least=1e-3)) == 1
    even = 2 * torch.rand(1000, generator=torch.Generator().manual_seed(0)) - 1
    assert len(fit_mixture(even, least=1e-3)) > 1  # evenly spread is not normal


def test_a_few_people_have_no_humps() -> None:
    two_ages = torch.tensor([-0.5, 0.5])
    assert len(fit_mixture(two_ages, least=1e-3)) == 1
    assert len(fit_mixture(two_ages.repeat(9), least=1e-3)) == 1
    assert len(fit_mixture(two_ages.repeat(10), least=1e-3)) == 2


def test_one_person_is_no_group() -> None:
    """Whose height would stand in the model's file."""
    heights = torch.randn(107, generator=torch.Generator().manual_seed(0))
    heights[0] = -10.0
    assert len(fit_mixture(heights, least=1e-3)) == 1
