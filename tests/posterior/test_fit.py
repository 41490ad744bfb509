"""The prior that is fitted to a table: the distribution that the table is of, whatever its gaps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.posterior.conditional_gaussian import Mixture, all_states
from metavoxel.posterior.fit import _independent, fit_prior
from metavoxel.posterior.prior import ScalarPrior
from random_laws import KINDS, normal, random_prior, seeded

COUNTS = (2, 3)
SEX, DIAGNOSIS = slice(0, 2), slice(2, 5)
Rows = tuple[Tensor, Tensor, Tensor, Tensor]  # numbers, which are known, labels, which are known


def table(prior: ScalarPrior, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """n records of a prior: numbers (n, V) and one-hot labels (n, D)."""
    x, y = prior.factor().posterior(prior.counts).draw(n, g)
    return x[0], y[0]


def gaps(n: int, numbers: int, counts: tuple[int, ...], share: float, g: torch.Generator):
    """Which values are there if a share is missing at random: of numbers, and of one-hot rows."""
    there = torch.rand(n, numbers + len(counts), generator=g) >= share
    wide = [there[:, numbers + i, None].expand(-1, k) for i, k in enumerate(counts)]
    return there[:, :numbers], torch.cat([there[:, :0], *wide], 1)


def whole(prior: ScalarPrior) -> Mixture:
    return prior.factor().posterior(prior.counts)


def correlation(prior: ScalarPrior) -> Tensor:
    """Of all numbers and labels, (V + D, V + D)."""
    found = whole(prior)
    features = torch.cat([found.mean[0], found.states[0]], 1)
    weight = found.log_weight[0].exp()
    away = features - weight @ features
    covariance = torch.einsum("m,mi,mj->ij", weight, away, away)
    V = len(prior.offset)
    covariance[:V, :V] += prior.covariance
    scale = covariance.diagonal().rsqrt()
    return scale[:, None] * covariance * scale


def everything(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


@pytest.fixture(scope="module")
def cohort() -> tuple[ScalarPrior, ScalarPrior, int]:
    """A distribution, what is fitted to 4,000 records of which a third is missing, and how many
    records have any two values."""
    truth, g, n = random_prior(2, COUNTS, seeded(3)), seeded(4), 4000
    x, y = table(truth, n, g)
    x_known, y_known = gaps(n, 2, COUNTS, 1 / 3, g)
    # What is not there may be anything.
    x[~x_known], y[~y_known] = 1e3, 0.5
    return truth, fit_prior(x, x_known, y, y_known, COUNTS), n * 4 // 9


def test_the_joint_frequencies_of_labels_are_those_of_the_records(cohort):
    truth, fitted, pairs = cohort
    p = whole(truth).log_weight.exp()
    error = (p * (1 - p) / pairs).sqrt()
    assert bool(((whole(fitted).log_weight.exp() - p).abs() < 4 * error).all())


def test_numbers_given_labels_are_those_of_the_records(cohort):
    """Means within four standard errors of the records that have both labels and the number."""
    truth, fitted, pairs = cohort
    records = whole(truth).log_weight.exp()[0] * pairs * 2 / 3
    error = (truth.covariance.diagonal() / records[:, None]).sqrt()
    assert bool(((whole(fitted).mean[0] - whole(truth).mean[0]).abs() < 4 * error).all())


def test_the_covariance_given_labels_is_that_of_the_records(cohort):
    truth, fitted, pairs = cohort
    S = truth.covariance
    error = ((S.square() + S.diagonal().outer(S.diagonal())) / pairs).sqrt()
    assert bool(((fitted.covariance - S).abs() < 4 * error).all())


def test_numbers_alone_have_the_closed_form_of_two_records_more():
    """The penalty is that of V + D records whose elements are N(0, 1) and independent."""
    x = normal(5, 2, generator=seeded(5)) @ torch.tensor([[1.0, 0.9], [0, 0.5]]).double() + 0.5
    none = x.new_zeros(5, 0)
    fitted = fit_prior(x, everything(x), none, everything(none), ())
    offset = x.sum(0) / (5 + 2)
    moment = x.T @ x + 2 * torch.eye(2).double()
    torch.testing.assert_close(fitted.offset, offset, atol=1e-3, rtol=0)
    expected = moment / (5 + 2) - offset.outer(offset)
    torch.testing.assert_close(fitted.covariance, expected, atol=1e-3, rtol=0)


def test_a_label_alone_has_its_frequencies_of_one_record_of_each_more():
    y = F.one_hot(torch.tensor([0, 0, 0, 0, 1]), 3).double()
    none = y.new_zeros(5, 0)
    fitted = fit_prior(none, everything(none), y, everything(y), (3,))
    frequencies = torch.tensor([5, 2, 1]).double() / 8
    torch.testing.assert_close(fitted.frequencies, frequencies)
    expected = (y.sum(0) + 3 * frequencies) / (5 + 3)
    torch.testing.assert_close(whole(fitted).probabilities[0], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("numbers", "counts"), KINDS)
def test_the_penalty_is_the_likelihood_of_an_independent_record(numbers, counts):
    """By enumeration: labels as frequent as they are; numbers N(0, 1), given any labels."""
    prior = random_prior(numbers, counts, seeded(2))
    states = all_states(counts)
    logits = states @ prior.unary + ((states @ prior.pair) * states).sum(1) / 2
    weight = torch.ones(len(states)).double()
    for own in torch.arange(sum(counts)).split([*counts]) if counts else ():
        weight = weight * (states[:, own] @ prior.frequencies[own])
    mean, inverse = prior.offset + states @ prior.slopes.T, torch.linalg.inv(prior.covariance)
    away = inverse.trace() + torch.einsum("mv,vw,mw->m", mean, inverse, mean)
    expected = weight @ logits.log_softmax(0) - (away.mean() + prior.covariance.logdet()) / 2
    torch.testing.assert_close(_independent(prior), expected)


def test_five_records_say_little():
    """Numbers that are the same and labels that are the same, in five records: a coupling is no
    surer than the seven independent records of the penalty let it be."""
    x = normal(5, 1, generator=seeded(6)).repeat(1, 2)
    y = torch.cat([F.one_hot(torch.tensor([0, 1, 0, 1, 0]), 2)] * 2, 1).double()
    fitted = fit_prior(x, everything(x), y, everything(y), (2, 2))
    found = correlation(fitted)
    assert 0 < float(found[0, 1]) < 0.6  # 5 / (5 + 6) and less
    assert 0 < float(found[2, 4]) < 0.6
    assert float(whole(fitted).log_weight.exp().min()) > 0.05


def test_records_that_say_nothing_leave_the_independent_prior():
    x, y = normal(50, 2, generator=seeded(7)), torch.zeros(50, 5).double()
    fitted = fit_prior(x, ~everything(x), y, ~everything(y), COUNTS)
    nothing = ScalarPrior.independent(2, COUNTS)
    for name, part in fitted.named_buffers():
        if name != "unary":  # up to a constant for each label
            torch.testing.assert_close(part, nothing.get_buffer(name), atol=1e-4, rtol=0)
    torch.testing.assert_close(whole(fitted).log_weight, whole(nothing).log_weight)


def test_it_does_not_matter_how_labels_and_variables_are_ordered(cohort):
    truth, _, _ = cohort
    g = seeded(8)
    x, y = table(truth, 60, g)
    x_known, y_known = gaps(60, 2, COUNTS, 0.3, g)
    one = fit_prior(x, x_known, y, y_known, COUNTS)
    turned, swapped = [4, 3, 2, 1, 0], [1, 0]
    other = fit_prior(
        x[:, swapped], x_known[:, swapped], y[:, turned], y_known[:, turned], COUNTS[::-1]
    )
    places = [1, 0, 6, 5, 4, 3, 2]
    torch.testing.assert_close(
        correlation(other)[places][:, places], correlation(one), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(
        whole(other).probabilities[0, turned], whole(one).probabilities[0], atol=1e-3, rtol=0
    )


def constant(x: Tensor, y: Tensor) -> Rows:
    x[:, 0] = 0.3
    return x, everything(x), y, everything(y)


def collinear(x: Tensor, y: Tensor) -> Rows:
    x[:, 1] = -x[:, 0]
    return x, everything(x), y, everything(y)


def a_number_that_is_a_label(x: Tensor, y: Tensor) -> Rows:
    x[:, 0] = 2 * y[:, 0] - 1
    return x, everything(x), y, everything(y)


def labels_that_are_one(x: Tensor, y: Tensor) -> Rows:
    y[:, DIAGNOSIS] = F.pad(y[:, SEX], (0, 1))
    return x, everything(x), y, everything(y)


def a_label_that_nobody_has(x: Tensor, y: Tensor) -> Rows:
    y[:, DIAGNOSIS] = F.one_hot(y[:, DIAGNOSIS].argmax(1) % 2, 3).double()
    return x, everything(x), y, everything(y)


def a_variable_that_nobody_has(x: Tensor, y: Tensor) -> Rows:
    x_known, y_known = everything(x), everything(y)
    x_known[:, 0] = y_known[:, SEX] = False
    return x, x_known, y, y_known


def never_two_together(x: Tensor, y: Tensor) -> Rows:
    one = torch.arange(len(x)) % 4
    x_known = torch.stack([one == 0, one == 1], 1)
    y_known = (one == 2)[:, None].repeat(1, 5)
    y_known[:, DIAGNOSIS] = (one == 3)[:, None]
    return x, x_known, y, y_known


def far_away(x: Tensor, y: Tensor) -> Rows:
    x[0] = torch.tensor([40.0, -40.0])
    return x, everything(x), y, everything(y)


def one_record(x: Tensor, y: Tensor) -> Rows:
    return x[:1], everything(x[:1]), y[:1], everything(y[:1])


def none(x: Tensor, y: Tensor) -> Rows:
    return x[:0], everything(x[:0]), y[:0], everything(y[:0])


ODD = [
    constant, collinear, a_number_that_is_a_label, labels_that_are_one, a_label_that_nobody_has,
    a_variable_that_nobody_has, never_two_together, far_away, one_record, none,
]  # fmt: skip


def check(fitted: ScalarPrior) -> None:
    for part in fitted.buffers():
        assert bool(part.isfinite().all())
    assert bool((torch.linalg.eigvalsh(fitted.covariance) > 0).all())
    found = whole(fitted)
    torch.testing.assert_close(found.log_mass, torch.zeros(1).double())
    assert bool((found.probabilities > 0).all())


@pytest.mark.parametrize("odd", ODD, ids=lambda f: f.__name__)
def test_an_odd_table_has_a_prior_too(odd: Callable[[Tensor, Tensor], Rows], cohort):
    truth, _, _ = cohort
    check(fit_prior(*odd(*table(truth, 40, seeded(9))), COUNTS))


def test_a_label_that_nobody_has_is_rare_and_not_impossible(cohort):
    truth, _, _ = cohort
    fitted = fit_prior(*a_label_that_nobody_has(*table(truth, 40, seeded(9))), COUNTS)
    assert 0.002 < float(whole(fitted).probabilities[0, 4]) < 0.05


@pytest.mark.parametrize("odd", [never_two_together, a_variable_that_nobody_has])
def test_what_is_never_known_together_is_not_coupled(odd: Callable[[Tensor, Tensor], Rows], cohort):
    truth, _, _ = cohort
    found = correlation(fit_prior(*odd(*table(truth, 400, seeded(9))), COUNTS)).abs()
    owners = torch.tensor([0, 1, 2, 2, 3, 3, 3])
    other = owners[:, None] != owners
    alone = [0, 2, 3] if odd is a_variable_that_nobody_has else [*range(7)]
    assert float((found * other)[alone].max()) < 0.05


def test_the_shape_of_a_number_is_no_label():
    """A number of two values and a label, independent and known of different subjects but for four:
    a mixture over the missing labels would explain the two values by them."""
    draw = seeded(3)
    n, both = 400, 4
    x = torch.where(torch.rand(n, 1, generator=draw) < 0.5, -1.0, 1.0)
    y = torch.nn.functional.one_hot((torch.rand(n, generator=draw) < 0.5).long(), 2)
    x_known, y_known = torch.zeros(n, 1).bool(), torch.zeros(n, 2).bool()
    x_known[: n // 2 + both // 2], y_known[n // 2 - both // 2 :] = True, True
    prior = fit_prior(x, x_known, y, y_known, (2,))
    apart = float((prior.slopes[0, 0] - prior.slopes[0, 1]).abs())
    assert apart < 1.5, apart  # 2 if the label were the number
    assert float(prior.covariance) > 0.4
