"""How latents follow scalars, fitted to subjects drawn from a known law."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.encoding.image import IdentityConfig, ImageEncoder, build_encoder
from metavoxel.linear_gaussian.given_scalars import ScalarFeatures
from metavoxel.posterior.law import ScalarLaw
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.schema import Image
from metavoxel.training import given_scalars
from metavoxel.training.given_scalars import FEWEST, completed, fit_given_scalars, smooth_regression
from metavoxel.training.spread import unequal_directions

IMAGE = Image(suffix="T1w", shape=(16, 16), spacing=(1, 1))
SHAPE = (1, 16, 16)
ELEMENTS = 256
Table = dict[str, Tensor]


def subjects(n: int, seed: int = 0) -> Table:
    generator = torch.Generator().manual_seed(seed)
    sex = torch.randint(0, 2, (n,), generator=generator)
    return {"age": torch.randn(n, 1, generator=generator), "sex": F.one_hot(sex, 2).float()}


def encoder(labels: int = 2, rank: int = 8) -> ImageEncoder:
    features = ScalarFeatures(("age",), {"sex": labels})
    return build_encoder(IdentityConfig(covariance_rank=rank), IMAGE, features)


def patterns(k: int) -> Tensor:
    """Orthonormal images (k, elements)."""
    x = torch.randn(ELEMENTS, 3, generator=torch.Generator().manual_seed(9))
    return torch.linalg.qr(x)[0].T[:k]


def fit(of: ImageEncoder, tables: Sequence[Table], z: Tensor) -> None:
    z = z - z.mean(0)
    of.set_statistics(torch.zeros(SHAPE), z.std(0, correction=0).view(SHAPE))
    fit_given_scalars(of, tables, z.view(-1, *SHAPE))


def told(of: ImageEncoder, z0: Table) -> tuple[Tensor, Tensor]:
    """Mean (n, elements) and covariance (n, elements, elements) given all scalars."""
    assert of.given is not None
    n = len(next(iter(z0.values())))
    said = of.given(z0, {v: torch.ones(n, dtype=torch.bool) for v in z0})
    gaussian = of.gaussian()
    factors = gaussian.factors.flatten(1).double()
    j = said.mean.shape[1]
    own = factors[j:].T @ factors[j:] + gaussian.unique.flatten().double().diag()
    return said.mean @ factors[:j], factors[:j].T @ said.covariance @ factors[:j] + own


def noise(n: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, ELEMENTS, generator=torch.Generator().manual_seed(seed))


def test_a_curve_and_a_product_are_found() -> None:
    """Latents that grow with the square of age's rank, and with age in one sex only, in 1,200
    subjects: the mean at nine new points, along either, within a tenth of how it varies."""
    one, two = 8 * patterns(2)

    def truth(z0: Table) -> Tensor:
        age = z0["age"]
        return 4 * torch.special.ndtr(age).square() * one + age * z0["sex"][:, :1] * two

    z0, of = subjects(1200), encoder()
    fit(of, [z0], truth(z0) + noise(1200, 1))
    ages = torch.linspace(-1.5, 1.5, 9)[:, None]
    asked = {"age": ages, "sex": F.one_hot(torch.arange(9) % 2, 2).float()}
    middle = truth(z0).mean(0)
    along = patterns(2).T.double()
    expected = (truth(asked) - middle).double() @ along
    error = (told(of, asked)[0] @ along - expected).square().mean(0).sqrt()
    assert bool((error / expected.std(0) < 0.1).all())


def test_with_few_subjects_a_line_stays_a_line() -> None:
    """120 subjects who age steadily: the second differences of the mean along age are a tenth of
    what it moves, and what it moves is right within a fifth."""
    z0, of, image = subjects(120), encoder(), 6 * patterns(1)
    fit(of, [z0], z0["age"] @ image + noise(120, 2))
    ages = torch.tensor([[-1.2], [0.0], [1.2]])
    asked = {"age": ages, "sex": torch.tensor([[1.0, 0.0]]).expand(3, 2)}
    along = told(of, asked)[0] @ image[0].double() / 36
    assert float(along[2] - along[0]) == pytest.approx(2.4, rel=0.2)
    assert abs(float(along[2] - 2 * along[1] + along[0])) < 0.24


@pytest.mark.parametrize("n", [12, 40, 200])
def test_no_subject_is_more_than_a_tenth_of_the_mean_at_its_scalars(n: int) -> None:
    """Leverage: by how much the mean moves when the subject's own latents do. With it, latents that
    have nothing to do with scalars leave nothing of a subject in its mean."""
    z0, z = subjects(n), noise(n, 3)
    phi = ScalarFeatures(("age",), {"sex": 2}).of(z0)
    phi, groups = phi - phi.mean(0), ScalarFeatures(("age",), {"sex": 2}).groups
    found = smooth_regression(phi, z - z.mean(0), groups)
    assert float(found.leverage.max()) + 1 / n <= 1 / FEWEST
    of = encoder()
    fit(of, [z0], z)
    z = (z - z.mean(0)).double()
    mean = told(of, z0)[0]
    share = (mean * z).sum(1) / z.square().sum(1)
    assert float(share.max()) < 1 / FEWEST


def test_of_a_subject_no_more_is_found_in_its_mean_than_the_leverage_says() -> None:
    """60 subjects that age: what the mean at a subject's scalars holds of what is its own is below
    a tenth, and on average a twentieth more than of what is a new subject's."""
    n, image = 60, 8 * patterns(1)
    z0, of = subjects(n), encoder()
    own, others = noise(n, 4), noise(n, 5)
    fit(of, [z0], z0["age"] @ image + own)
    mean = told(of, z0)[0]

    def share(x: Tensor) -> Tensor:
        x = (x - x.mean(0) - (x - x.mean(0)) @ patterns(1).T @ patterns(1)).double()
        return (mean * x).sum(1) / x.square().sum(1)

    assert float(share(own).max()) < 1 / FEWEST
    assert float(share(own).mean() - share(others).mean()) < 0.05


@pytest.mark.parametrize(("people", "shown"), [(1, False), (9, False), (10, True)])
def test_a_label_that_few_subjects_have_says_nothing(people: int, shown: bool) -> None:
    """Of 200 subjects, whose latents differ by noise alone, but for those of one label, which are
    one and the same image far from all others."""
    n = 200
    sex = torch.arange(n) % 2
    sex[:people] = 2
    z0 = {**subjects(n), "sex": F.one_hot(sex, 3).float()}
    z = noise(n, 6, 0.1)
    theirs = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(7))
    z[:people] = theirs
    of = encoder(labels=3)
    fit(of, [z0], z)
    asked = {"age": torch.zeros(1, 1), "sex": torch.eye(3)[[2]]}
    share = float(told(of, asked)[0][0] @ theirs.double() / theirs.square().sum())
    assert share > 0.4 if shown else abs(share) < 0.05


def test_the_spread_along_a_direction_follows_scalars() -> None:
    """Standard deviations that double within a standard deviation of age, and two patterns whose
    correlation changes its sign with sex: 2,000 subjects, within a fifth."""
    n, k = 2000, 3
    z0, of = subjects(n), encoder()
    generator = torch.Generator().manual_seed(8)
    a, b, c = torch.randn(k, n, 1, generator=generator)
    sign = 2 * z0["sex"][:, :1] - 1
    weights = torch.cat([2 ** z0["age"] * a, b, 0.8 * sign * b + 0.6 * c], 1)
    fit(of, [z0], weights * torch.tensor([4.0, 9, 7]) @ patterns(k) + noise(n, 9, 0.2))
    asked = {"age": torch.tensor([[-1.0], [0], [1], [0]]), "sex": torch.eye(2)[[0, 0, 0, 1]]}
    projected = patterns(k).double() @ told(of, asked)[1] @ patterns(k).T.double()
    std = projected.diagonal(dim1=1, dim2=2).sqrt()
    for row, expected in enumerate([2.0, 4.0, 8.0]):
        assert float(std[row, 0]) == pytest.approx(expected, rel=0.2)
    correlation = projected[:, 1, 2] / std[:, 1] / std[:, 2]
    assert float(correlation[1]) == pytest.approx(0.8, abs=0.15)
    assert float(correlation[3]) == pytest.approx(-0.8, abs=0.15)


def test_over_the_cohort_the_covariance_is_what_it_is() -> None:
    """Of whatever spread and mean is found, the moments over the training set add up to its own."""
    n = 1500
    z0, of = subjects(n), encoder()
    weights = torch.randn(n, 2, generator=torch.Generator().manual_seed(8))
    weights[:, :1] *= 2 ** z0["age"]
    z = weights * 5 @ patterns(2) + z0["age"].square() @ (3 * patterns(3)[2:]) + noise(n, 9, 0.3)
    fit(of, [z0], z)
    assert of.given is not None
    said = of.given(z0, {v: torch.ones(n, dtype=torch.bool) for v in z0})
    j, gaussian = said.mean.shape[1], of.gaussian()
    total = said.covariance.mean(0) + said.mean.T @ said.mean / n
    there = gaussian.factors[:j].flatten(1).abs().sum(1) > 0
    assert torch.allclose(total[there][:, there], torch.eye(int(there.sum())).double(), atol=1e-6)
    along = patterns(3).double()
    factors = gaussian.factors.flatten(1).double() @ along.T
    got = factors.T @ factors + along * gaussian.unique.flatten() @ along.T
    expected = torch.cov((z.double() @ along.T).T, correction=0)
    scale = expected.diagonal().sqrt()
    assert float(((got - expected) / scale / scale[:, None]).abs().max()) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_spread_that_is_the_same_for_all_is_left_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    phi, c = torch.randn(150, 5, generator=generator), torch.randn(150, 12, generator=generator)
    assert unequal_directions((phi - phi.mean(0)).double(), c.double(), 8)[1] == 0


def test_nothing_depends_on_how_many_rows_are_read_at_once(monkeypatch: pytest.MonkeyPatch):
    z0 = subjects(130)
    z = z0["age"] @ (5 * patterns(1)) + noise(130, 1)
    means = []
    for rows in (64, 7):
        monkeypatch.setattr(given_scalars, "_ROWS", rows)
        of = encoder()
        fit(of, [z0], z)
        means.append(told(of, z0)[0])
    torch.testing.assert_close(*means, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_of_a_few_subjects_nothing_is_said(n: int) -> None:
    z0, of = subjects(n), encoder()
    fit(of, [z0], noise(n, 1))
    mean, covariance = told(of, z0)
    assert not bool(mean.any())
    assert bool(covariance.isfinite().all())


def test_missing_scalars_are_drawn_given_the_others() -> None:
    """A third of the ages missing, which go with sex: their draws have the prior's moments given
    sex, and known values stay; the effect of age is found."""
    n = 900
    prior = ScalarPrior(
        [2], [0.5, 0.5], [-0.7, -0.7], [[0, 0], [0, 0]], [0], [[-0.8, 0.8]], [[0.36]]
    )
    law = ScalarLaw(["age"], {"sex": 2}, prior)
    z0 = subjects(n)
    age = 0.6 * z0["age"] + 0.8 * (2 * z0["sex"][:, 1:] - 1)
    z = age @ (6 * patterns(1)) + noise(n, 1)
    there = torch.arange(n) % 3 > 0
    observed = {"age": there, "sex": torch.ones(n, dtype=torch.bool)}
    seen = {"age": torch.where(there[:, None], age, 0), "sex": z0["sex"]}
    tables = completed(law, seen, observed)
    assert len(tables) > 1
    assert all(bool((x["age"][there] == age[there]).all()) for x in tables)
    for sex, mean in enumerate((-0.8, 0.8)):
        rows = ~there & (z0["sex"][:, sex] == 1)
        drawn = torch.stack([x["age"][rows] for x in tables])
        assert float(drawn.mean()) == pytest.approx(mean, abs=4 * 0.6 / drawn.numel() ** 0.5)
        assert float(drawn.std()) == pytest.approx(0.6, rel=0.1)
    of = encoder()
    fit(of, tables, z)
    asked = {"age": torch.tensor([[-1.0], [1.0]]), "sex": torch.eye(2)[[0, 0]]}
    along = told(of, asked)[0] @ patterns(1)[0].double()
    assert float(along[1] - along[0]) == pytest.approx(12, rel=0.1)
