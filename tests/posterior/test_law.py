"""One coherent law: every conditional of the scalars follows from the same joint distribution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from metavoxel.posterior.evidence import Evidence
from metavoxel.posterior.law import Calibration, ScalarLaw
from random_laws import random_evidence, random_prior, seeded

NUMBERS, LABELS = ("age", "weight"), {"sex": 2, "diagnosis": 3}
NAMES = (*NUMBERS, *LABELS)
N = 3  # records
FINE = torch.linspace(-10, 10, 401, dtype=torch.float64)


def make_law(sharing: float = 0.7) -> ScalarLaw:
    law = ScalarLaw(NUMBERS, LABELS, random_prior(2, (2, 3), seeded(1)))
    law.calibration = Calibration(dict.fromkeys(NAMES, 1.0), sharing=sharing)
    return law


@pytest.fixture
def law() -> ScalarLaw:
    return make_law()


@pytest.fixture
def evidence(law: ScalarLaw) -> Evidence:
    return random_evidence(N, law.prior, seeded(6))


@pytest.fixture
def z0(law: ScalarLaw) -> dict[str, Tensor]:
    """Values of all scalars, of records that the prior draws."""
    drawn = law.posterior(None, {}, 1).draw(N, seeded(3))
    return {v: x[0] for v, x in drawn.items()}


def these(names) -> dict[str, Tensor]:
    return {v: torch.full((N,), v in names) for v in NAMES}


def subsets(names):
    names = tuple(names)
    return [s for k in range(len(names) + 1) for s in itertools.combinations(names, k)]


def only(z: dict[str, Tensor], names) -> dict[str, Tensor]:
    return {v: z[v] for v in names}


def density(law: ScalarLaw, posterior, name: str, at: Tensor) -> Tensor:
    """The density of an embedded number, from the slope of its distribution function."""
    step = 1e-4
    ends = [posterior.below(name, at.double().flatten() + sign * step) for sign in (-1, 1)]
    return ((ends[1] - ends[0]) / (2 * step)).diagonal().log()


PAIRS = [
    (a, b) for a, b in itertools.combinations(subsets(NAMES), 2) if a and b and not set(a) & set(b)
]


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_chain_rule_holds_both_ways(a, b, seen, law, evidence, z0):
    """log p(a | c) + log p(b | a, c) = log p(b | c) + log p(a | b, c), for every known c."""
    evidence = evidence.where(torch.full((N,), seen), law.prior.frequencies)

    def likelihood(asked, known) -> Tensor:
        return law.log_likelihood(evidence, z0, these(known), these(asked))

    for c in subsets(v for v in NAMES if v not in (*a, *b)):
        one_way = likelihood(a, c) + likelihood(b, (*a, *c))
        torch.testing.assert_close(one_way, likelihood(b, c) + likelihood(a, (*b, *c)))
        torch.testing.assert_close(one_way, likelihood((*a, *b), c))


@pytest.mark.parametrize("known", subsets(NAMES))
def test_the_likelihood_is_that_of_the_stated_distributions(known, law, evidence, z0):
    """Of every scalar that is asked alone: its probability, or the slope of its CDF."""
    posterior = law.posterior(evidence, only(z0, known), N)
    for v in (v for v in NAMES if v not in known):
        found = law.log_likelihood(evidence, z0, these(known), these([v]))
        if v in LABELS:
            expected = (posterior.probabilities(v) * z0[v]).sum(1).log()
        else:
            expected = density(law, posterior, v, z0[v])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_squared_error_is_that_of_the_numbers_that_are_there(law, evidence, z0):
    found = law.squared_error(
        evidence, z0 | {"weight": torch.full((N, 1), torch.nan)}, these(["age"])
    )
    torch.testing.assert_close(found, (evidence.mean[:, 0] - z0["age"][:, 0]).square())


def test_the_likelihood_teaches_all_but_fixed_means(law, evidence, z0):
    parts = {k: x.detach().requires_grad_() for k, x in vars(evidence).items()}
    taught = Evidence(**parts)
    known, asked = these(["sex"]), these(["age", "weight", "diagnosis"])
    likelihood = law.log_likelihood(taught.of_fixed_means(), z0, known, asked).sum()
    (mean, *others), names = parts.values(), [*parts][1:]
    assert torch.autograd.grad(likelihood, mean, allow_unused=True, retain_graph=True)[0] is None
    reached = torch.autograd.grad(likelihood, others)
    assert all(bool(x.any()) for x in reached), names


@pytest.mark.parametrize("known", [k for k in subsets(NAMES) if len(k) < len(NAMES)])
def test_the_likelihood_integrates_to_1_over_what_is_asked(known, law, evidence, z0):
    """Over all labels, and a grid of every number that is asked."""
    asked = [v for v in NAMES if v not in known]
    axes = [torch.eye(LABELS[v]).double() if v in LABELS else FINE[::5, None] for v in asked]
    index = torch.cartesian_prod(*(torch.arange(len(x)) for x in axes)).view(-1, len(axes))
    n = len(index)
    z = {v: z0[v][:1].double().expand(n, -1) for v in known}
    z |= {v: axis[index[:, i]] for i, (v, axis) in enumerate(zip(asked, axes, strict=True))}
    one = Evidence(**{k: x[:1].expand(n, *x.shape[1:]) for k, x in vars(evidence).items()})
    flags = {v: torch.full((n,), v in known) for v in NAMES}
    others = {v: ~x for v, x in flags.items()}
    total = law.log_likelihood(one, z, flags, others).logsumexp(0).exp()
    cell = float(FINE[5] - FINE[0]) ** sum(v in NUMBERS for v in asked)
    assert float(total) * cell == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_known_is_marginalised(name, law, evidence, z0):
    """p(v | c) is the sum over the labels of p(label | c) p(v | label, c), whatever else is c."""
    for label, c in itertools.product(LABELS, subsets(NAMES)):
        if label in c or name in c or label == name:
            continue
        known, K = only(z0, c), LABELS[label]
        weight = law.posterior(evidence, known, N).probabilities(label)
        told = [
            law.posterior(evidence, known | {label: row.expand(N, K)}, N)
            for row in torch.eye(K).double()
        ]

        def stated(posterior) -> Tensor:
            if name in LABELS:
                return posterior.probabilities(name)
            return posterior.below(name, torch.linspace(-3, 3, 13))

        summed = sum(weight[:, k, None] * stated(told[k]) for k in range(K))
        torch.testing.assert_close(summed, stated(law.posterior(evidence, known, N)))


def test_a_number_that_is_not_known_is_marginalised(law, evidence, z0):
    """p(diagnosis | sex) is the integral over age of p(age | sex) p(diagnosis | age, sex)."""
    known = only(z0, ["sex"])
    below = law.posterior(evidence, known, N).below("age", FINE)
    mass, middle = below.diff(dim=1), (FINE[1:] + FINE[:-1]) / 2
    told = torch.stack([
        law.posterior(evidence, known | {"age": x.expand(N, 1)}, N).probabilities("diagnosis")
        for x in middle
    ], 1)  # fmt: skip
    summed = torch.einsum("bm,bmk->bk", mass, told)
    expected = law.posterior(evidence, known, N).probabilities("diagnosis")
    torch.testing.assert_close(summed, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("known", [(), ("age",), ("diagnosis",), ("weight", "sex")])
def test_draws_have_the_stated_frequencies(known, law, evidence, z0):
    """10,000 of each record: labels in four standard errors, numbers by their whole CDF."""
    n = 10_000
    posterior = law.posterior(evidence, only(z0, known), N)
    drawn = posterior.draw(n, seeded())
    for v in (v for v in NAMES if v not in known):
        if v in LABELS:
            p, share = posterior.probabilities(v), drawn[v].double().mean(1)
        else:
            levels = torch.linspace(-2, 2, 9).double()
            p = posterior.below(v, levels)
            share = (drawn[v] <= levels).double().mean(1)
        error = (p * (1 - p).clamp_min(0) / n).sqrt()
        assert bool(((share - p).abs() < 4 * error + 1e-6).all())
        mean = drawn[v].double()
        away = (mean.mean(1) - posterior.mean(v)).abs()
        assert bool((away < 4 * mean.std(1) / n**0.5 + 1e-6).all())


def test_draws_are_joint(law, evidence, z0):
    """Of the draws with one diagnosis, ages are distributed as given the diagnosis."""
    n, levels = 20_000, torch.linspace(-2, 2, 9).double()
    drawn = law.posterior(evidence, {}, N).draw(n, seeded(5))
    for k in range(3):
        row = torch.eye(3)[k].expand(N, 3)
        p = law.posterior(evidence, {"diagnosis": row}, N).below("age", levels)
        for i in range(N):
            ages = drawn["age"][i, drawn["diagnosis"][i, :, k] == 1]
            share = (ages <= levels).double().mean(0)
            assert bool(((share - p[i]).abs() < 4 * (p[i] * (1 - p[i]) / len(ages)).sqrt()).all())


def test_records_may_know_different_things(law, evidence, z0):
    """Each of a batch is answered as it is alone."""
    known = {v: torch.tensor([v in c for c in ((), ("age", "sex"), ("diagnosis",))]) for v in NAMES}
    asked = {v: torch.tensor([v in c for c in (("sex",), ("weight",), NAMES)]) for v in NAMES}
    asked = {v: x & ~known[v] for v, x in asked.items()}
    found = law.log_likelihood(evidence, z0, known, asked)
    for i in range(N):
        row = Evidence(**{k: x[i : i + 1] for k, x in vars(evidence).items()})
        of_one = {v: x[i : i + 1] for v, x in z0.items()}
        alone = law.log_likelihood(
            row, of_one, *({v: x[i : i + 1] for v, x in flags.items()} for flags in (known, asked))
        )
        torch.testing.assert_close(found[i], alone[0])


def test_without_images_it_is_the_cohort_s_prior(law, z0):
    nothing = random_evidence(N, law.prior, seeded(2)).where(
        torch.zeros(N).bool(), law.prior.frequencies
    )
    for known in subsets(NAMES):
        none, seen = (law.posterior(e, only(z0, known), N) for e in (None, nothing))
        torch.testing.assert_close(none.mixture.probabilities, seen.mixture.probabilities)
        torch.testing.assert_close(none.mixture.expectation, seen.mixture.expectation)


def test_what_is_missing_may_be_anything(law, evidence, z0):
    known, asked = these(["age"]), these(["diagnosis"])
    before = law.log_likelihood(evidence, z0, known, asked)
    other = z0 | {"weight": torch.full((N, 1), torch.nan), "sex": torch.full((N, 2), torch.nan)}
    torch.testing.assert_close(law.log_likelihood(evidence, other, known, asked), before)


def test_nothing_asked_is_certain(law, evidence, z0):
    said = law.log_likelihood(evidence, z0, these(["age"]), these([]))
    torch.testing.assert_close(said, torch.zeros(N).double())


def test_another_prior_multiplies_the_odds(law, evidence, z0):
    """Of the label whose frequencies are stated, by the ratio of its old and new odds, whatever
    else is known; of all else given the label nothing changes."""
    stated = np.array([0.9, 0.06, 0.04])
    prior = law.prior.reweighed({1: stated.tolist()})
    weights = torch.from_numpy(stated) / law.prior.frequencies[2:]
    for known in subsets(["age", "weight", "sex"]):
        before, after = (
            law.posterior(evidence, only(z0, known), N, prior=p).probabilities("diagnosis")
            for p in (None, prior)
        )
        expected = before * weights
        torch.testing.assert_close(after, expected / expected.sum(1, keepdim=True))
    told = [
        law.posterior(evidence, only(z0, ["diagnosis"]), N, prior=p).mixture for p in (None, prior)
    ]
    torch.testing.assert_close(told[0].expectation, told[1].expectation)


def test_calibration_is_by_name(law, evidence):
    """A temperature of one number leaves the information about the other as it was."""
    law.calibration = Calibration({**dict.fromkeys(NAMES, 1.0), "weight": 4.0, "sex": 2.0})
    less = law.calibrated(evidence)
    ratio = less.precision / evidence.precision
    torch.testing.assert_close(ratio[:, 0, 0], torch.ones(N).double())
    torch.testing.assert_close(ratio[:, 1, 1], torch.full((N,), 0.25).double())
    torch.testing.assert_close(less.logits[:, :2], evidence.logits[:, :2] / 2)
    torch.testing.assert_close(less.logits[:, 2:], evidence.logits[:, 2:])


def test_a_prior_of_other_scalars_is_refused():
    with pytest.raises(ValueError):
        ScalarLaw(NUMBERS, LABELS, random_prior(2, (2, 2), seeded()))
