"""Random conditional Gaussians, priors and evidence, and brute force on a grid to judge them by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metavoxel.posterior.conditional_gaussian import ConditionalGaussian, all_states
from metavoxel.posterior.evidence import Evidence, evidence_width
from metavoxel.posterior.prior import ScalarPrior

# Trapezoids integrate a Gaussian of SD s to rounding if its cells are narrower than s / 2.
GRID = torch.linspace(-10, 10, 121, dtype=torch.float64)
KINDS = [(2, (2, 3)), (2, ()), (0, (2, 3)), (1, (3,)), (1, ()), (0, (2,))]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_factor(
    n: int, numbers: int, counts: Sequence[int], generator: torch.Generator
) -> ConditionalGaussian:
    """n factors; given the labels every number has an SD of at most 1."""
    D = sum(counts)
    pair, root = (normal(n, k, k, generator=generator) for k in (D, numbers))
    return ConditionalGaussian(
        normal(n, generator=generator),
        normal(n, D, generator=generator),
        pair + pair.mT,
        normal(n, numbers, generator=generator),
        normal(n, numbers, D, generator=generator) / 2,
        root @ root.mT / 2 + torch.eye(numbers).double(),
    )


def random_prior(numbers: int, counts: Sequence[int], generator: torch.Generator) -> ScalarPrior:
    """Coupled scalars; over the cohort every number has mean 0 and variance 1."""
    D = sum(counts)
    owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor([*counts]).long())
    pair = normal(D, D, generator=generator) * (owners[:, None] != owners)
    unary, slopes = normal(D, generator=generator) / 2, normal(numbers, D, generator=generator)
    root = normal(numbers, numbers, generator=generator) / 2 + torch.eye(numbers).double()
    states = all_states(counts)
    weight = (states @ unary + ((states @ (pair + pair.T)) * states).sum(1) / 2).softmax(0)
    frequencies = weight @ states
    labels = torch.einsum("m,md,me->de", weight, states, states) - frequencies.outer(frequencies)
    within = root @ root.T
    scale = (within + slopes @ labels @ slopes.T).diagonal().rsqrt()
    slopes = scale[:, None] * slopes
    within = scale[:, None] * within * scale
    offset = -slopes @ frequencies
    return ScalarPrior(counts, frequencies, unary, pair + pair.T, offset, slopes, within)


def random_evidence(n: int, prior: ScalarPrior, generator: torch.Generator) -> Evidence:
    """Evidence about the scalars of a prior, as a network of random outputs would state it."""
    numbers = len(prior.offset)
    output = normal(n, sum(evidence_width(numbers, prior.counts)), generator=generator)
    return Evidence.read(output, numbers, prior.frequencies, prior.counts)


def log_value(factor: ConditionalGaussian, row: int, x: Tensor, y: Tensor) -> Tensor:
    """The logarithm of one row of a factor at numbers x (P, V) and labels y (M, D): (P, M)."""
    constant, unary, pair, linear, shift, precision = (
        part.expand(max(row + 1, len(part)), *part.shape[1:])[row] for part in vars(factor).values()
    )
    of_labels = constant + y @ unary + ((y @ pair) * y).sum(1) / 2
    of_numbers = x @ linear - ((x @ precision) * x).sum(1) / 2
    return of_numbers[:, None] + x @ shift @ y.T + of_labels


def patterns(numbers: int, counts: Sequence[int]) -> Iterator[tuple[list[bool], list[bool]]]:
    """Every choice of which numbers and which labels are known."""
    for known in itertools.product([False, True], repeat=numbers + len(counts)):
        yield [*known[:numbers]], [*known[numbers:]]


class BruteForce:
    """One row of a factor, summed over a grid of its unknown numbers and the states of its labels.

    `x` (V,) and `y` (D,) are the values of what is known.
    """

    def __init__(
        self,
        factor: ConditionalGaussian,
        row: int,
        counts: Sequence[int],
        x: Tensor,
        x_known: Sequence[bool],
        y: Tensor,
        y_known: Sequence[bool],
    ) -> None:
        axes = [x[i : i + 1] if known else GRID for i, known in enumerate(x_known)]
        points = torch.meshgrid(*axes, indexing="ij") if axes else ()
        self.x = torch.stack([p.flatten() for p in points], 1) if axes else GRID.new_zeros(1, 0)
        states = all_states(counts)
        fits = torch.ones(len(states), dtype=torch.bool)
        for i, known in enumerate(y_known):
            own = slice(sum(counts[:i]), sum(counts[: i + 1]))
            fits &= (states[:, own] == y[own]).all(1) | (not known)
        self.y = states[fits]
        cell = math.log(float(GRID[1] - GRID[0])) * (len(axes) - sum(x_known))
        scores = log_value(factor, row, self.x, self.y) + cell
        self.log_mass = scores.logsumexp((0, 1))
        self.weight = (scores - self.log_mass).exp()

    @property
    def probabilities(self) -> Tensor:
        return self.weight.sum(0) @ self.y

    @property
    def expectation(self) -> Tensor:
        return self.weight.sum(1) @ self.x

    @property
    def second_moment(self) -> Tensor:
        """E[x x'], (V, V)."""
        return torch.einsum("p,pv,pw->vw", self.weight.sum(1), self.x, self.x)

    @property
    def together(self) -> Tensor:
        """E[x y'], (V, D)."""
        return torch.einsum("pm,pv,md->vd", self.weight, self.x, self.y)
