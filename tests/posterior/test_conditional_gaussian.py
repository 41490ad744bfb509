"""Conditional Gaussians against brute force on a grid of the numbers and all states of labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metavoxel.posterior import conditional_gaussian
from metavoxel.posterior.conditional_gaussian import ConditionalGaussian, Mixture, all_states
from random_laws import KINDS, BruteForce, log_value, normal, patterns, random_factor, seeded

COUNTS = (2, 3)


def one_of_each(factor: ConditionalGaussian, counts: tuple[int, ...], seed: int = 5):
    """Known values for every record of a batch, one record for every pattern of what is known."""
    chosen = [*patterns(factor.linear.shape[1], counts)]
    g = seeded(seed)
    x = normal(len(chosen), factor.linear.shape[1], generator=g)
    states = all_states(counts)
    y = states[torch.randint(len(states), (len(chosen),), generator=g)]
    x_known = torch.tensor([numbers for numbers, _ in chosen]).view(x.shape).bool()
    wide = [
        [k for k, n in zip(labels, counts, strict=True) for _ in range(n)] for _, labels in chosen
    ]
    return chosen, x, x_known, y, torch.tensor(wide).view(y.shape).bool()


@pytest.mark.parametrize(("numbers", "counts"), KINDS)
def test_a_posterior_of_records_that_know_different_things_is_that_of_brute_force(numbers, counts):
    n = 2 ** (numbers + len(counts))
    factor = random_factor(n, numbers, counts, seeded())
    chosen, x, x_known, y, y_known = one_of_each(factor, counts)
    found = factor.given_numbers(x, x_known).given_labels(y, y_known).posterior(counts)
    weight = found.log_weight.exp()
    both = torch.einsum("bm,bmv,bmw->bvw", weight, found.mean, found.mean)
    inverse = torch.linalg.inv(found.root @ found.root.mT)
    torch.testing.assert_close(found.variance, inverse.diagonal(dim1=1, dim2=2))
    together = torch.einsum("bm,bmv,bmd->bvd", weight, found.mean, found.states.expand(n, -1, -1))
    for i, (of_numbers, of_labels) in enumerate(chosen):
        truth = BruteForce(factor, i, counts, x[i], of_numbers, y[i], of_labels)
        free = ~x_known[i]
        torch.testing.assert_close(found.log_mass[i], truth.log_mass)
        torch.testing.assert_close(found.probabilities[i], truth.probabilities)
        torch.testing.assert_close(found.expectation[i][free], truth.expectation[free])
        torch.testing.assert_close(
            (both + inverse)[i][free][:, free], truth.second_moment[free][:, free]
        )
        torch.testing.assert_close(together[i][free], truth.together[free])


def test_where_all_is_known_the_mass_is_the_density_itself():
    factor = random_factor(1, 2, COUNTS, seeded(1))
    x, states = normal(6, 2, generator=seeded(2)), all_states(COUNTS)
    there = factor.given_numbers(x, torch.ones_like(x).bool())
    there = there.given_labels(states, torch.ones_like(states).bool()).posterior(COUNTS)
    torch.testing.assert_close(there.log_mass, log_value(factor, 0, x, states).diagonal())


def test_a_product_of_factors_is_the_product_of_their_values():
    few, many = random_factor(1, 2, COUNTS, seeded(3)), random_factor(3, 2, COUNTS, seeded(4))
    x, y = normal(5, 2, generator=seeded(5)), all_states(COUNTS)
    for i in range(3):
        product = log_value(few, 0, x, y) + log_value(many, i, x, y)
        torch.testing.assert_close(log_value(few.times(many), i, x, y), product)
        torch.testing.assert_close(log_value(many.times(few), i, x, y), product)


def test_it_does_not_matter_in_which_order_things_become_known():
    factor = random_factor(4, 2, COUNTS, seeded(6))
    x, y = normal(4, 2, generator=seeded(7)), all_states(COUNTS)[:4]
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    label = torch.tensor([True, True, False, False, False])
    orders = [
        factor.given_numbers(x, (first | second).expand(4, -1)).given_labels(
            y, label.expand(4, -1)
        ),
        factor.given_labels(y, label.expand(4, -1))
        .given_numbers(x, second.expand(4, -1))
        .given_numbers(x, first.expand(4, -1)),
    ]
    # What is known already is a standard normal number in the factor, which integrates to 1: the
    # density of a second one is one more of the same kind.
    masses = [order.posterior(COUNTS).log_mass for order in orders]
    torch.testing.assert_close(*masses)


def test_the_gradient_of_the_mass_is_the_expectation():
    """As of every exponential family; training goes along this gradient."""
    factor = random_factor(3, 2, COUNTS, seeded(8))
    for part in vars(factor).values():
        part.requires_grad_()
    found = factor.posterior(COUNTS)
    by_linear, by_unary = torch.autograd.grad(found.log_mass.sum(), [factor.linear, factor.unary])
    torch.testing.assert_close(by_linear, found.expectation)
    torch.testing.assert_close(by_unary, found.probabilities)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_product_of_sharp_and_of_vague_factors_stays_exact(scale):
    """One number of known mean: precision-weighted, whatever the precisions."""
    one = torch.ones(1, dtype=torch.float64)
    none, nothing = one.new_zeros(1, 0), one.new_zeros(1, 0, 0)

    def said(mean: float, precision: float) -> ConditionalGaussian:
        linear = one[:, None] * mean * precision
        shift, matrix = one.new_zeros(1, 1, 0), one[:, None, None] * precision
        return ConditionalGaussian(0 * one, none, nothing, linear, shift, matrix)

    found = said(3.0, 1.0).times(said(-1.0, scale)).posterior(())
    torch.testing.assert_close(found.expectation[0, 0], one[0] * (3 - scale) / (1 + scale))
    torch.testing.assert_close(found.variance[0, 0], one[0] / (1 + scale))


def mixture(n: int = 2) -> Mixture:
    return random_factor(n, 2, COUNTS, seeded(9)).posterior(COUNTS)


def test_joint_draws_have_the_moments_of_the_mixture():
    """All first moments, and all second moments of numbers, of labels, and across, in 4 SE."""
    n, found = 40_000, mixture()
    x, y = found.draw(n, seeded())
    assert bool(((y == 0) | (y == 1)).all())
    assert bool((y[..., :2].sum(2) == 1).all()) and bool((y[..., 2:].sum(2) == 1).all())
    weight, states = found.log_weight.exp(), found.states.expand(2, -1, -1)
    features = torch.cat([found.mean, states], 2)
    expected = torch.einsum("bm,bmi,bmj->bij", weight, features, features)
    expected[:, :2, :2] += torch.linalg.inv(found.root @ found.root.mT)
    drawn = torch.cat([x, y], 2)
    products = drawn[..., :, None] * drawn[..., None, :]
    error = products.mean(1) - expected
    assert bool((error.abs() < 4 * products.std(1) / n**0.5 + 1e-12).all())
    centre = torch.cat([found.expectation, found.probabilities], 1)
    assert bool(((drawn.mean(1) - centre).abs() < 4 * drawn.std(1) / n**0.5 + 1e-12).all())
    assert abs(float(torch.corrcoef(x[..., 0])[0, 1])) < 4 / n**0.5  # records are independent


def test_numbers_drawn_with_a_label_are_those_given_the_label():
    """Number and label are drawn together, not each from its marginal."""
    n, factor = 40_000, random_factor(1, 2, COUNTS, seeded(9))
    x, y = factor.posterior(COUNTS).draw(n, seeded(1))
    for label in range(2):
        known = torch.nn.functional.one_hot(torch.tensor([label]), 5).double()
        told = torch.tensor([[True, True, False, False, False]])
        given = factor.given_labels(known, told).posterior(COUNTS).expectation[0]
        chosen = x[0][y[0, :, label] == 1]
        assert bool(((chosen.mean(0) - given).abs() < 4 * chosen.std(0) / len(chosen) ** 0.5).all())


def test_a_known_label_is_always_drawn_and_an_impossible_one_never():
    factor = random_factor(1, 1, COUNTS, seeded(10))
    y = torch.tensor([[0.0, 1, 0, 0, 0]]).double()
    found = factor.given_labels(y, torch.tensor([[True, True, False, False, False]]))
    _, drawn = found.posterior(COUNTS).draw(1000, seeded())
    assert bool((drawn[..., 1] == 1).all())
    assert found.posterior(COUNTS).probabilities[0, 0] == 0


# Beyond MOST_STATES the states are drawn.

MANY = (3, 4, 3)


def monte_carlo_error(p: Tensor, draws: Tensor) -> Tensor:
    """The standard error of probabilities p (B, D) from so many draws (B,)."""
    return (p * (1 - p).clamp_min(0) / draws[:, None]).sqrt() + 1e-12


def coupled(strength: float, counts: tuple[int, ...] = MANY) -> ConditionalGaussian:
    """Two numbers and labels that say of one another as much as `strength`."""
    factor = random_factor(2, 2, counts, seeded(11))
    return ConditionalGaussian(
        **{**vars(factor), "pair": strength * factor.pair, "shift": strength * factor.shift}
    )


def test_drawn_states_stand_for_all_where_labels_are_weakly_coupled(monkeypatch):
    factor = coupled(0.3)
    truth = factor.posterior(MANY)
    monkeypatch.setattr(conditional_gaussian, "MOST_STATES", 4)
    found = factor.posterior(MANY, seeded())
    worth = found.effective_states
    assert bool((worth > 1000).all())
    p = truth.probabilities
    error = monte_carlo_error(p, worth)
    assert bool(((found.probabilities - p).abs() < 4 * error).all())
    assert bool(((found.log_mass - truth.log_mass).abs() < 4 / worth.sqrt()).all())
    spread = torch.einsum("bm,bmv->bv", truth.log_weight.exp(), truth.mean.square())
    error = ((spread - truth.expectation.square()) / worth[:, None]).sqrt()
    assert bool(((found.expectation - truth.expectation).abs() < 4 * error).all())


def test_drawn_states_are_exact_draws_where_labels_are_independent(monkeypatch):
    factor = coupled(0.0)
    monkeypatch.setattr(conditional_gaussian, "MOST_STATES", 4)
    found = factor.posterior(MANY, seeded())
    assert found.effective_states.tolist() == pytest.approx([conditional_gaussian._SAMPLED] * 2)
    torch.testing.assert_close(found.log_mass, factor.posterior(MANY).log_mass)


def test_known_labels_are_known_among_drawn_states(monkeypatch):
    factor, y = coupled(0.3), all_states(MANY)[[7, 20]]
    known = torch.tensor([True] * 3 + [False] * 4 + [True] * 3).expand(2, -1)
    truth = factor.given_labels(y, known).posterior(MANY)
    monkeypatch.setattr(conditional_gaussian, "MOST_STATES", 4)
    found = factor.given_labels(y, known).posterior(MANY, seeded())
    torch.testing.assert_close(found.probabilities[known], y[known])
    # One label is left free, so that the proposal is exact.
    torch.testing.assert_close(found.log_mass, truth.log_mass)
    error = monte_carlo_error(truth.probabilities, found.effective_states)
    assert bool(((found.probabilities - truth.probabilities).abs() < 4 * error).all())


def ring(strength: float, tilt: float, labels: int, k: int = 4) -> ConditionalGaussian:
    """Labels of k states in a ring, neighbours likely the same, all a little likelier the first."""
    pair = torch.zeros(1, labels, k, labels, k, dtype=torch.float64)
    for i in range(labels):
        for j in {(i + 1) % labels, (i - 1) % labels}:
            pair[0, i, :, j] = strength * torch.eye(k)
    unary = torch.zeros(1, labels, k, dtype=torch.float64)
    unary[..., 0] = tilt
    D, none = labels * k, unary.new_zeros
    return ConditionalGaussian(
        none(1), unary.view(1, D), pair.view(1, D, D), none(1, 0), none(1, 0, D), none(1, 0, 0)
    )


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize("tilt", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("strength", [1.0, 3.0, 6.0, 10.0])
def test_the_error_of_drawn_states_is_as_stated_however_strongly_labels_are_coupled(
    monkeypatch, strength, tilt, labels
):
    """That of as many independent draws as they are worth; none of several likely states is lost,
    which weights that are all alike would hide."""
    factor, counts = ring(strength, tilt, labels), (4,) * labels
    truth = factor.posterior(counts)
    monkeypatch.setattr(conditional_gaussian, "MOST_STATES", 4)
    found = factor.posterior(counts, seeded())
    error = monte_carlo_error(truth.probabilities, found.effective_states)
    assert bool(((found.probabilities - truth.probabilities).abs() < 4 * error).all())
    if labels == 2:  # one given the other is exact
        assert float(found.effective_states) == pytest.approx(conditional_gaussian._SAMPLED)
        torch.testing.assert_close(found.log_mass, truth.log_mass)


def test_the_more_labels_say_of_one_another_the_fewer_draws_they_are_worth(monkeypatch):
    """Of six labels, none a function of another; at no strength is the stated error exceeded."""
    counts = (3,) * 6
    truths = [coupled(strength, counts).posterior(counts) for strength in (0.0, 0.5, 1.0)]
    monkeypatch.setattr(conditional_gaussian, "MOST_STATES", 4)
    found = [coupled(s, counts).posterior(counts, seeded()) for s in (0.0, 0.5, 1.0)]
    for one, truth in zip(found, truths, strict=True):
        error = monte_carlo_error(truth.probabilities, one.effective_states)
        assert bool(((one.probabilities - truth.probabilities).abs() < 4 * error).all())
    worth = [float(one.effective_states[0]) for one in found]
    assert worth[0] > 1.1 * worth[1] > 1.2 * worth[2]
