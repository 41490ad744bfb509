"""The prior of all scalars: density, couplings beside images, other frequencies of labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metavoxel.posterior import conditional_gaussian
from metavoxel.posterior.conditional_gaussian import Mixture, all_states
from metavoxel.posterior.prior import ScalarPrior
from random_laws import KINDS, log_value, normal, random_prior, seeded

COUNTS = (2, 3)
SEX, DIAGNOSIS = slice(0, 2), slice(2, 5)


@pytest.fixture
def prior() -> ScalarPrior:
    return random_prior(3, COUNTS, seeded(1))


def total_covariance(found: Mixture) -> Tensor:
    """Of the numbers over all states of the labels, (B, V, V)."""
    weight = found.log_weight.exp()
    away = found.mean - found.expectation[:, None]
    between = torch.einsum("bm,bmv,bmw->bvw", weight, away, away)
    return between + torch.linalg.inv(found.root @ found.root.mT)


@pytest.mark.parametrize(("numbers", "counts"), KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_however_far_couplings_apply_the_marginals_stay(numbers, counts, seed):
    """The density integrates to 1, labels are as frequent, numbers have mean 0 and variance 1."""
    prior, g = random_prior(numbers, counts, seeded(seed)), seeded(seed + 10)
    kept = torch.rand(20, numbers, generator=g, dtype=torch.float64)
    kept[:4] = kept[:4].round()  # some apply in full, others not at all
    factor = prior.factor(kept)
    assert bool((torch.linalg.eigvalsh(factor.precision) > 0).all())
    found = factor.posterior(counts)
    torch.testing.assert_close(found.log_mass, torch.zeros(20).double())
    torch.testing.assert_close(found.probabilities, prior.frequencies.expand(20, -1))
    torch.testing.assert_close(found.expectation, torch.zeros(20, numbers).double())
    variance = total_covariance(found).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(variance, torch.ones(20, numbers).double())


def test_couplings_that_apply_in_full_are_the_cohort_s(prior):
    """log p(y) + log N(x; offset + slopes y, covariance), whether `kept` is 1 or is not given."""
    x, y = normal(5, 3, generator=seeded(2)), all_states(COUNTS)
    logits = y @ prior.unary + ((y @ prior.pair) * y).sum(1) / 2
    given = torch.distributions.MultivariateNormal(
        prior.offset + y @ prior.slopes.T, prior.covariance
    )
    expected = given.log_prob(x[:, None]) + logits.log_softmax(0)
    for factor in (prior.factor(), prior.factor(torch.ones(1, 3).double())):
        torch.testing.assert_close(log_value(factor, 0, x, y), expected)


def test_couplings_that_do_not_apply_leave_independent_numbers_and_joint_labels(prior):
    found = prior.factor(torch.zeros(1, 3).double()).posterior(COUNTS)
    one = torch.eye(3).double()
    torch.testing.assert_close(found.mean, torch.zeros(1, 6, 3).double())
    torch.testing.assert_close(found.root[0], one)
    whole = prior.factor().posterior(COUNTS)
    torch.testing.assert_close(found.log_weight, whole.log_weight)  # labels say as much of labels


def test_each_number_s_couplings_apply_as_far_as_its_own_and_the_other_s(prior):
    """Cov(i, j) = kept_i kept_j of the cohort's; a number that keeps none is told nothing."""
    kept = torch.tensor([[0.3, 1.0, 0.0]]).double()
    found = total_covariance(prior.factor(kept).posterior(COUNTS))
    whole = total_covariance(prior.factor().posterior(COUNTS))
    scale = kept[:, :, None] * kept[:, None]
    expected = scale * whole + (1 - kept**2).diag_embed()
    torch.testing.assert_close(found, expected)


def test_a_label_can_have_any_other_frequencies(prior):
    stated = [0.8, 0.15, 0.05]
    before = prior.as_dict()
    other = prior.reweighed({1: stated})
    assert prior.as_dict() == before
    now, was = other.factor().posterior(COUNTS), prior.factor().posterior(COUNTS)
    torch.testing.assert_close(now.probabilities[0, DIAGNOSIS], torch.tensor(stated).double())
    torch.testing.assert_close(now.log_mass, torch.zeros(1).double())
    torch.testing.assert_close(now.mean, was.mean)  # numbers given the labels
    torch.testing.assert_close(now.root, was.root)
    table, old = (m.log_weight.exp().view(2, 3) for m in (now, was))
    torch.testing.assert_close(table / table.sum(0), old / old.sum(0))  # sex given the diagnosis
    torch.testing.assert_close(other.frequencies, prior.frequencies)


def test_two_labels_at_once_have_the_frequencies_that_are_stated_of_each(prior):
    """And their odds ratios, all that says how they go together, stay."""
    sex, diagnosis = [0.9, 0.1], [0.1, 0.2, 0.7]
    other = prior.reweighed({0: sex, 1: diagnosis}).factor().posterior(COUNTS)
    expected = torch.tensor([*sex, *diagnosis]).double()
    torch.testing.assert_close(other.probabilities[0], expected)
    table, old = (m.log_weight.view(2, 3) for m in (other, prior.factor().posterior(COUNTS)))
    ratios, before = (t[1] - t[0] - (t[1, 0] - t[0, 0]) for t in (table, old))
    torch.testing.assert_close(ratios, before)


def test_frequencies_that_are_the_cohort_s_change_nothing(prior):
    f = prior.frequencies.tolist()
    other = prior.reweighed({0: f[SEX], 1: f[DIAGNOSIS]}).factor().posterior(COUNTS)
    torch.testing.assert_close(other.log_weight, prior.factor().posterior(COUNTS).log_weight)


def test_a_label_that_nobody_has_is_never_expected_and_may_still_be_told(prior):
    """A share of 0 is a probability of 0 to rounding; a subject with that label is a subject."""
    other = prior.reweighed({1: [0.5, 0.5, 0.0]})
    assert float(other.factor().posterior(COUNTS).probabilities[0, 4]) < 1e-11
    y, known = torch.tensor([[0, 0, 0, 0, 1.0]]).double(), torch.tensor([[0, 0, 1, 1, 1]]).bool()
    told, was = (p.factor().given_labels(y, known).posterior(COUNTS) for p in (other, prior))
    torch.testing.assert_close(told.expectation, was.expectation)
    torch.testing.assert_close(told.probabilities, was.probabilities)
    again = other.reweighed({1: prior.frequencies[DIAGNOSIS].tolist()})
    torch.testing.assert_close(again.factor().posterior(COUNTS).probabilities[0], prior.frequencies)


def test_frequencies_of_many_labels_are_stated_the_same_every_time(prior, monkeypatch):
    """Where states are drawn, too, a question has one answer."""
    monkeypatch.setattr(conditional_gaussian, "MOST_STATES", 4)
    first, second = (prior.reweighed({1: [0.8, 0.1, 0.1]}) for _ in range(2))
    assert first.as_dict() == second.as_dict()


def test_it_comes_back_from_plain_numbers(prior):
    again = ScalarPrior(**prior.as_dict())
    assert again.as_dict() == prior.as_dict()


@pytest.mark.parametrize(("numbers", "counts"), [(2, (2, 3)), (0, (2,)), (2, ())])
def test_an_independent_prior_says_nothing(numbers, counts):
    found = ScalarPrior.independent(numbers, counts).factor().posterior(counts)
    torch.testing.assert_close(found.log_mass, torch.zeros(1).double())
    torch.testing.assert_close(found.mean, torch.zeros_like(found.mean))
    torch.testing.assert_close(found.root[0], torch.eye(numbers).double())
    even = torch.full_like(found.log_weight, 1 / found.log_weight.shape[1])
    torch.testing.assert_close(found.log_weight.exp(), even)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("unary", [0.0] * 4),
        ("covariance", [[1.0, 0, 0], [0, 1, 2], [0, 2, 1]]),
        ("covariance", [[0.0] * 3] * 3),
        ("covariance", [[float("nan")] * 3] * 3),
        ("slopes", [[0.0] * 5] * 2),
    ],
)
def test_what_is_no_distribution_is_refused(prior, part, wrong):
    with pytest.raises(ValueError):
        ScalarPrior(**{**prior.as_dict(), part: wrong})
