"""What images say of all scalars: the posterior that it states, and nothing where none is seen."""

from __future__ import annotations

import math

import pytest
import torch

from metavoxel.posterior.conditional_gaussian import Mixture
from metavoxel.posterior.evidence import Evidence, evidence_width
from metavoxel.posterior.prior import ScalarPrior
from random_laws import KINDS, normal, random_evidence, random_prior, seeded

COUNTS = (2, 3)


def independent(prior: ScalarPrior) -> ScalarPrior:
    """The same frequencies of labels; N(0, 1) numbers; and nothing says anything of anything."""
    nothing = ScalarPrior.independent(len(prior.offset), prior.counts).as_dict()
    f = prior.frequencies
    return ScalarPrior(**{**nothing, "frequencies": f, "unary": f.log()})


def stated(evidence: Evidence, prior: ScalarPrior) -> Mixture:
    return independent(prior).factor().times(evidence.factor()).posterior(prior.counts)


@pytest.fixture
def prior() -> ScalarPrior:
    return random_prior(3, COUNTS, seeded(1))


@pytest.mark.parametrize(("numbers", "counts"), KINDS)
def test_it_is_the_posterior_if_all_were_independent_over_the_cohort(numbers, counts):
    """Its means, variances and probabilities, and what it leaves, are those of Bayes' rule."""
    prior = random_prior(numbers, counts, seeded())
    evidence = random_evidence(4, prior, seeded(2))
    found = stated(evidence, prior)
    torch.testing.assert_close(found.probabilities, evidence.probabilities)
    torch.testing.assert_close(found.expectation, evidence.mean)
    torch.testing.assert_close(found.variance, evidence.left)
    assert bool(((evidence.left > 0) & (evidence.left <= 1)).all())


def test_the_outputs_of_a_network_are_what_they_are_called(prior):
    """Means as they are, variances as logits of what is left, exponents as logarithms, logits that
    tilt the frequencies."""
    D, numbers = 5, 3
    alone, together = evidence_width(numbers, COUNTS)
    output = torch.zeros(1, alone + together).double()
    nothing = Evidence.read(output, numbers, prior.frequencies, COUNTS)
    torch.testing.assert_close(nothing.left, torch.tensor(2.0).sigmoid().double().expand(1, 3))
    torch.testing.assert_close(nothing.probabilities[0], prior.frequencies)
    torch.testing.assert_close(nothing.exponents, torch.ones(1, 3).double())
    output[0, 0], output[0, numbers], output[0, 2 * numbers] = 1.5, -2.0, -0.2
    output[0, 3 * numbers] = 0.7
    some = Evidence.read(output, numbers, prior.frequencies, COUNTS)
    assert float(some.mean[0, 0]) == 1.5
    assert float(some.left[0, 0]) == pytest.approx(0.5)
    assert float(some.exponents[0, 0]) == pytest.approx(math.exp(-0.2))
    odds, before = (p[0, 0] / p[0, 1] for p in (some.probabilities, nothing.probabilities))
    assert float(odds / before) == pytest.approx(torch.tensor(0.7).double().exp().item())
    assert some.shift.shape == (1, numbers, D)


@pytest.mark.parametrize("size", [1e-6, 1.0, 30.0, 1e3])
def test_any_output_is_a_distribution(size, prior):
    """Finite and positive definite, however far a network goes."""
    output = size * normal(50, sum(evidence_width(3, COUNTS)), generator=seeded(3))
    evidence = Evidence.read(output, 3, prior.frequencies, COUNTS)
    for sharing in (0.0, 1.0):
        joint = prior.factor(evidence.left.clamp(max=1) ** sharing).times(evidence.factor())
        assert bool((torch.linalg.eigvalsh(joint.precision) > 0).all())
        found = joint.posterior(COUNTS)
        for part in (found.log_weight.exp(), found.expectation, found.variance, found.log_mass):
            assert bool(part.isfinite().all())
        torch.testing.assert_close(found.log_weight.logsumexp(1), torch.zeros(50).double())


def test_nothing_is_said_where_nothing_is_seen(prior):
    evidence = random_evidence(4, prior, seeded(4))
    seen = torch.tensor([True, False, True, False])
    some = evidence.where(seen, prior.frequencies)
    torch.testing.assert_close(some.left[~seen], torch.ones(2, 3).double())
    torch.testing.assert_close(some.probabilities[~seen], prior.frequencies.expand(2, -1))
    found = prior.factor(some.left).times(some.factor()).posterior(COUNTS)
    alone = prior.factor().posterior(COUNTS)
    for i in range(4):
        same = [
            torch.allclose(found.probabilities[i], alone.probabilities[0]),
            torch.allclose(found.mean[i], alone.mean[0]),
            torch.allclose(found.root[i], alone.root[0]),
        ]
        assert same == [not bool(seen[i])] * 3
    whole = evidence.where(torch.ones(4).bool(), prior.frequencies)
    for a, b in zip(vars(whole).values(), vars(evidence).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_knowing_a_label_moves_a_number_by_the_shift(prior):
    """Explaining away: E[x | image, label] is the stated mean and the label's own shift, less that
    which was expected of it."""
    evidence = random_evidence(3, prior, seeded(5))
    joint = independent(prior).factor().times(evidence.factor())
    told = torch.tensor([False, False, True, True, True]).expand(3, -1)
    given = []
    for label in range(3):
        y = torch.zeros(3, 5).double()
        y[:, 2 + label] = 1
        given.append(joint.given_labels(y, told).posterior(COUNTS))
    of_sex = torch.einsum("bvd,bd->bv", evidence.shift[..., :2], evidence.probabilities[:, :2])
    for label, found in enumerate(given):
        sex = torch.einsum("bvd,bd->bv", evidence.shift[..., :2], found.probabilities[:, :2])
        other = torch.einsum("bvd,bd->bv", evidence.shift[..., 2:], evidence.probabilities[:, 2:])
        moved = evidence.shift[..., 2 + label] - other + sex - of_sex
        torch.testing.assert_close(found.expectation - evidence.mean, moved)
        torch.testing.assert_close(found.variance, evidence.left)


def test_knowing_a_number_moves_another_that_was_stated_with_it():
    """Two numbers of which an image shows the sum: when one is larger the other is smaller."""
    one = torch.ones(1, 1).double()
    evidence = Evidence(
        0 * one.expand(1, 2), 4 * torch.ones(1, 2, 2).double(), one.expand(1, 2),
        one.new_zeros(1, 2, 0), one.new_zeros(1, 0), one.new_zeros(1, 0),
    )  # fmt: skip
    joint = ScalarPrior.independent(2, ()).factor().times(evidence.factor())
    known = torch.tensor([[True, False]])
    found = joint.given_numbers(torch.tensor([[1.0, 0]]).double(), known).posterior(())
    torch.testing.assert_close(found.expectation[0, 1], torch.tensor(-4 / 5).double())
    torch.testing.assert_close(found.variance[0, 1], torch.tensor(1 / 5).double())


def test_a_temperature_of_one_changes_nothing(prior):
    evidence = random_evidence(3, prior, seeded(6))
    same = evidence.calibrated(
        torch.ones(3), torch.ones(2), torch.ones(3, 2), prior.frequencies, COUNTS
    )
    for a, b in zip(vars(evidence).values(), vars(same).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_temperature_is_a_power_of_the_likelihood(prior):
    """Of what is said alone, without shifts; of joint precisions, the matrix between its roots."""
    evidence = random_evidence(3, prior, seeded(7))
    alone = evidence.precision.diagonal(dim1=1, dim2=2).diag_embed()
    evidence = Evidence(**{**vars(evidence), "precision": alone, "shift": 0 * evidence.shift})
    numbers, labels = torch.tensor([2.0, 1, 4]).double(), torch.tensor([3.0, 1.0])
    less = evidence.calibrated(numbers, labels, torch.ones(3, 2), prior.frequencies, COUNTS)
    before, after = evidence.factor(), less.factor()
    torch.testing.assert_close(after.linear, before.linear / numbers)
    torch.testing.assert_close(after.precision, before.precision / numbers)
    torch.testing.assert_close(after.unary, before.unary / torch.tensor([3.0] * 2 + [1.0] * 3))
    tilts = [(x.probabilities / prior.frequencies).log() for x in (less, evidence)]
    now, was = (tilt[:, 0] - tilt[:, 1] for tilt in tilts)
    torch.testing.assert_close(3 * now, was)


@pytest.mark.parametrize("factor", [0.5, 2.0, 1e6])
def test_any_temperature_leaves_a_distribution(factor, prior):
    """The hotter, the nearer to the prior."""
    evidence = random_evidence(3, prior, seeded(8))
    less = evidence.calibrated(
        torch.full((3,), factor),
        torch.full((2,), factor),
        torch.ones(3, 2),
        prior.frequencies,
        COUNTS,
    )
    assert bool((torch.linalg.eigvalsh(less.precision) > -1e-9).all())
    if factor > 1e5:
        found = stated(less, prior)
        torch.testing.assert_close(found.variance, torch.ones(3, 3).double(), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.expectation, 0 * evidence.mean, atol=1e-3, rtol=0)
        near = prior.frequencies.expand(3, -1)
        torch.testing.assert_close(found.probabilities, near, atol=1e-5, rtol=0)


def test_without_shifts_a_label_says_nothing_more_of_a_number(prior):
    """Under the independent prior: what the image says of a number is then the same for all."""
    evidence = random_evidence(3, prior, seeded(9))
    alike = evidence.calibrated(
        torch.ones(3), torch.ones(2), torch.zeros(3, 2), prior.frequencies, COUNTS
    )
    found = stated(alike, prior)
    torch.testing.assert_close(found.mean, evidence.mean[:, None].expand_as(found.mean))
