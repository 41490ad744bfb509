"""Features of scalars and what they tell of the latents' factors, against closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.linear_gaussian.given_scalars import (
    MOST_SPREADS,
    PRODUCT,
    GivenScalars,
    ScalarFeatures,
    feature_directions,
)
from toy import all_subsets

FEATURES = ScalarFeatures(("age", "height"), {"sex": 2, "diagnosis": 3})
NAMES = ("age", "height", "sex", "diagnosis")
N = 400


def table(n: int = N, seed: int = 0) -> dict[str, Tensor]:
    """Scalars of n subjects that depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    age, other = torch.randn(2, n, 1, generator=generator)
    sex = torch.randint(0, 2, (n,), generator=generator)
    stage = (age[:, 0] + torch.randn(n, generator=generator) > 0.5).long()
    stage = stage + (stage * torch.randn(n, generator=generator) > 0.3).long()
    return {
        "age": age,
        "height": 0.6 * other + 0.8 * (2.0 * sex[:, None] - 1),
        "sex": F.one_hot(sex, 2).float(),
        "diagnosis": F.one_hot(stage, 3).float(),
    }


def fitted(z0: dict[str, Tensor]) -> tuple[GivenScalars, Tensor, Tensor]:
    """A module of these subjects with slopes drawn at random; the features, centred; the slopes."""
    given, generator = GivenScalars(FEATURES, 4), torch.Generator().manual_seed(1)
    phi = FEATURES.of(z0)
    given.mean.copy_(phi.mean(0))
    phi = phi - phi.mean(0)
    given.covariance.copy_(phi.T @ phi / len(phi))
    slopes = torch.randn(phi.shape[1], 30, generator=generator).double()
    directions, _ = feature_directions(slopes, given.covariance)
    given.directions.copy_(directions)
    given.log_variance[:2, :2] = torch.tensor([[0.8, 0.0], [-0.3, 0.4]])
    given.couplings[1, 0, 0] = 0.5
    root = torch.linalg.cholesky(given.spread(phi).mean(0))
    given.whitening.copy_(torch.linalg.inv(root))
    return given, phi, slopes


def known(names: tuple[str, ...], n: int = N) -> dict[str, Tensor]:
    return {v: torch.full((n,), v in names) for v in NAMES}


def test_curves_are_orthonormal_over_the_cohort_and_lines_beyond_the_knots() -> None:
    single = ScalarFeatures(("age",), {})
    x = torch.linspace(-8, 8, 20_001).double()
    mass = (-x.square() / 2).exp()
    phi = torch.cat([torch.ones(len(x), 1), single.of({"age": x[:, None]})], 1)
    products = phi.T @ (mass[:, None] / mass.sum() * phi)
    torch.testing.assert_close(products, torch.eye(5).double(), atol=1e-4, rtol=0)
    beyond = single.of({"age": torch.tensor([[1.7], [2.7], [3.7], [4.7]]).double()})
    torch.testing.assert_close(
        beyond.diff(n=2, dim=0), torch.zeros(2, 4).double(), atol=1e-5, rtol=0
    )


def test_a_product_is_known_if_both_its_scalars_are() -> None:
    of_age = FEATURES.known(known(("age",), 1))[0]
    both = FEATURES.known(known(("age", "sex"), 1))[0]
    product = FEATURES.groups == PRODUCT
    assert int(of_age.sum()) == 4  # the score and its three curves
    assert int((both & product).sum()) == 2  # with either sex
    assert bool(FEATURES.known(known(NAMES, 1)).all())


def test_directions_follow_the_mean_that_slopes_give() -> None:
    given, phi, slopes = fitted(table())
    directions, images = feature_directions(slopes, given.covariance)
    u = phi @ directions.T
    torch.testing.assert_close(u @ images, phi @ slopes, atol=1e-6, rtol=0)
    there = images.norm(dim=1) > 0
    spread = (u.T @ u / len(u))[there][:, there]
    torch.testing.assert_close(spread, torch.eye(int(there.sum())).double(), atol=1e-6, rtol=0)


def test_of_a_subject_whose_scalars_are_known_the_mean_is_exact() -> None:
    z0 = table()
    given, phi, _ = fitted(z0)
    said = given(z0, known(NAMES))
    r, R = len(given.whitening), len(given.directions)
    assert r == 4 <= MOST_SPREADS
    torch.testing.assert_close(said.mean[:, :R], phi @ given.directions.T)
    assert not bool(said.mean[:, R:].any())
    assert not bool(said.covariance[:, :R].any())
    torch.testing.assert_close(said.covariance[:, R:, R:], given.spread(phi))
    assert bool((torch.linalg.eigvalsh(said.covariance[:, R:, R:]) > 0).all())


@pytest.mark.parametrize("names", all_subsets(NAMES))
def test_over_the_cohort_what_is_known_adds_up_to_the_marginal_moments(names: tuple[str, ...]):
    """The law of total variance, whatever is known: exact where nothing is, exact where all is."""
    z0 = table()
    given, _, _ = fitted(z0)
    R = len(given.directions)
    said = given(z0, known(names))
    total = said.covariance.mean(0) + said.mean.T @ said.mean / N
    there = torch.cat([given.directions.abs().sum(1) > 0, torch.ones(4, dtype=torch.bool)])
    expected = there.double().diag()
    torch.testing.assert_close(said.mean.mean(0), torch.zeros(R + 4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(total, expected, atol=1e-6, rtol=0)


def test_what_is_not_known_may_hold_anything() -> None:
    z0 = table()
    given, _, _ = fitted(z0)
    other = {**z0, "height": torch.full_like(z0["height"], 7.0)}
    one, two = (given(x, known(("age", "sex"))) for x in (z0, other))
    torch.testing.assert_close(one.mean, two.mean)
    torch.testing.assert_close(one.covariance, two.covariance)


def test_records_that_know_different_scalars_are_told_apart() -> None:
    z0 = table()
    given, _, _ = fitted(z0)
    mixed = {v: torch.arange(N) % (2 + i) > 0 for i, v in enumerate(NAMES)}
    said = given(z0, mixed)
    for row in (0, 1, 5, 30):
        alone = given({v: x[[row]] for v, x in z0.items()}, {v: x[[row]] for v, x in mixed.items()})
        torch.testing.assert_close(said.mean[[row]], alone.mean)
        torch.testing.assert_close(said.covariance[[row]], alone.covariance)
