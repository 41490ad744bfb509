"""Numbers as normal scores: standard normal over the cohort, with an exact inverse."""

from __future__ import annotations

import pytest
import torch

from metavoxel.encoding.normal_scores import NormalScores, fit_mixture

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
    assert NormalScores.fit(values, None).low == 3 and NormalScores.fit(values, None).high == 8
    assert NormalScores.fit(values, (0, 9)).high == 9
    alone = NormalScores.fit(torch.full((20,), 3.0), None)
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


def shape(name: str) -> torch.Tensor:
    """Values of a training set, float64: 600 subjects, or few."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(600, generator=g, dtype=torch.float64)
    coin = torch.rand(600, generator=g) < 0.4
    return {
        "normal": x,
        "bimodal": torch.where(coin, 35 + 5 * x, 70 + 6 * x),
        "two narrow humps": torch.where(coin, 20 + x, 70 + 3 * x),
        "skewed": (x / 2).exp(),
        "very skewed": (2 * x).exp(),
        "a floor that half of them share": x.clamp_min(0),
        "ties": x.round(),
        "two values": coin.double(),
        "a rare value": (torch.arange(600) < 12).double(),
        "an outlier": torch.cat([x, torch.tensor([1e4]).double()]),
        "huge": 1e9 * x + 3e9,
        "tiny": 1e-9 * x,
        "far from 0": 1e6 + x,
        "one value": torch.full((600,), 7.0).double(),
        "one huge value": torch.full((600,), 1e12).double(),
        "one subject": torch.tensor([5.0]).double(),
        "two subjects": torch.tensor([5.0, 6.0]).double(),
    }[name]


SHAPES = [
    "normal", "bimodal", "two narrow humps", "skewed", "very skewed", 
    "a floor that half of them share", "ties",
    "two values", "a rare value", "an outlier", "huge", "tiny", "far from 0", "one value",
    "one huge value", "one subject", "two subjects",
]  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_any_number_has_a_rising_map_with_an_exact_inverse(name: str) -> None:
    """Within the training set's range, between its values, and far outside."""
    values = shape(name)
    scores = NormalScores.fit(values, None)
    spread = float(values.std()) if len(values) > 1 and float(values.std()) > 0 else 1.0
    low, high = float(values.min()), float(values.max())
    near = torch.linspace(low - spread, high + spread, 501, dtype=torch.float64)
    far = torch.tensor([low - 1e3 * spread, high + 1e3 * spread], dtype=torch.float64)
    at = torch.cat([far[:1], near, far[1:]])
    x = scores.scores(at)
    assert bool(x.isfinite().all())
    assert bool((x.diff() > 0).all())
    back = scores.values(x)
    rounding = 1e-9 * (at.abs() + spread)  # of x, whose last digit may be worth as much
    assert bool(((back - at).abs() < rounding).all())
    assert bool((scores.slope(at) > 0).all())
    edges = scores.values(scores.knots)
    assert bool((edges.diff() > 0).all())  # cells of the distributions that are stated


@pytest.mark.parametrize("name", ["normal", "bimodal", "skewed", "huge", "tiny", "far from 0"])
def test_the_training_values_of_a_continuous_number_are_standard_normal(name: str) -> None:
    """Mean and variance in four standard errors; no part of the distribution function is off by
    more than the 5 % critical value of Kolmogorov and Smirnov. So it is as long as no hump or edge
    is narrower than a tenth of the spread of all, below which the map does not look."""
    x = NormalScores.fit(shape(name), None).scores(shape(name)).sort().values
    n = len(x)
    assert abs(float(x.mean())) < 4 / n**0.5
    assert abs(float(x.var()) - 1) < 4 * (2 / n) ** 0.5
    empirical = torch.arange(1, n + 1).double() / n
    assert float((torch.special.ndtr(x) - empirical).abs().max()) < 1.36 / n**0.5


@pytest.mark.parametrize(
    "name", ["ties", "two values", "a rare value", "a floor that half of them share"]
)
def test_values_that_many_share_have_the_middle_of_their_ranks(name: str) -> None:
    """A tie is one score, near the normal quantile of the ranks that it takes up."""
    values = shape(name)
    scores = NormalScores.fit(values, None)
    for value in values.unique():
        share = float((values == value).double().mean())
        below, x = float((values < value).double().mean()), scores.scores(value)
        if share > 0.01:
            assert below < float(torch.special.ndtr(x)) < below + share
    x = scores.scores(values)
    assert abs(float(x.mean())) < 0.15
    assert float(x.std()) < 1.15


def test_the_map_scales_with_the_unit() -> None:
    """Years or months: the scores are the same."""
    years = shape("bimodal")
    one, other = (NormalScores.fit(unit * years, None).scores(unit * years) for unit in (1, 12))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["one value", "one huge value", "one subject"])
def test_the_one_value_of_all_is_the_middle(name: str) -> None:
    values = shape(name)
    assert float(NormalScores.fit(values, None).scores(values[:1])) == pytest.approx(0, abs=1e-3)


def test_a_value_comes_back_in_single_precision() -> None:
    """Encoded values are float32; what comes back is the value to single precision."""
    for name in ("bimodal", "huge", "tiny", "skewed"):
        values = shape(name).float()
        scores = NormalScores.fit(values, None)
        back = scores.decode(scores.encode(values))
        spread = float(values.double().std())
        torch.testing.assert_close(back, values.double(), atol=1e-5 * spread, rtol=1e-5)
