"""Conditional-Gaussian distributions of numbers and labels (Lauritzen and Wermuth, 1989).

Given the labels the numbers are one Gaussian, whose mean moves with the labels and whose covariance
does not. Products, conditionals and marginals of such distributions are of the same family, and all
of them are sums over the joint states of the labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_STATES = 4096  # joint states of the labels that are summed over one by one
_SAMPLED = 2048  # states drawn where there are more
_IMPOSSIBLE = -1e9  # the logarithm of a probability of 0, in a sum that multiplies it by 0
_TINY = torch.finfo(torch.float64).tiny
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class ConditionalGaussian:
    """exp(constant + unary'y + y' pair y / 2 + x'(linear + shift y) - x' precision x / 2).

    A density of numbers x (V,) and labels y, the one-hot rows of all labels side by side (D,), or a
    factor of one. Shapes, B a batch or 1: constant (B,), unary (B, D), pair (B, D, D), linear
    (B, V), shift (B, V, D), precision (B, V, V). All are float64.
    """

    constant: Tensor
    unary: Tensor
    pair: Tensor
    linear: Tensor
    shift: Tensor
    precision: Tensor

    def times(self, other: ConditionalGaussian) -> ConditionalGaussian:
        """The product of two factors."""
        parts = zip(vars(self).values(), vars(other).values(), strict=True)
        return ConditionalGaussian(*(mine + theirs for mine, theirs in parts))

    def given_numbers(self, x: Tensor, known: Tensor) -> ConditionalGaussian:
        """The density at the known numbers, as a factor of all else; x and `known` are (B, V).

        A known number is replaced by a standard normal one that nothing depends on, so that the
        records of a batch may know different ones.
        """
        k = known.to(x)
        x = torch.where(known, x, 0)
        pulled = _applied(self.precision, x)
        free = 1 - k
        return ConditionalGaussian(
            self.constant + ((self.linear - pulled / 2) * x).sum(1) - _LOG_2PI / 2 * k.sum(1),
            self.unary + _applied(self.shift.mT, x),
            self.pair,
            (self.linear - pulled) * free,
            self.shift * free[:, :, None],
            self.precision * free[:, :, None] * free[:, None] + k.diag_embed(),
        )

    def given_labels(self, y: Tensor, known: Tensor) -> ConditionalGaussian:
        """The probability of the known labels, as a factor of all else; y and `known` (B, D)."""
        excluded = torch.where(known & (y == 0), _IMPOSSIBLE, 0.0).to(self.unary)
        return self.times(_nothing_but(self, excluded))

    def posterior(self, counts: Sequence[int], generator: torch.Generator | None = None) -> Mixture:
        """The distribution that is proportional to this. `counts` are the states of each label."""
        root = torch.linalg.cholesky(self.precision)
        sides = torch.cat([self.linear[..., None], self.shift], 2)  # h_0 and the columns of H
        half = torch.linalg.solve_triangular(root, sides, upper=False)
        first, others = half[..., 0], half[..., 1:]
        # With x integrated out, log p(y) = unary'y + y'pair y / 2 + |half (1, y)|^2 / 2.
        unary = self.unary + _applied(others.mT, first)
        pair = self.pair + others.mT @ others
        volume = root.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.constant + first.square().sum(1) / 2 - volume
        constant = constant + self.linear.shape[1] * _LOG_2PI / 2
        if math.prod(counts) <= MOST_STATES:
            states, proposal = all_states(counts).to(unary)[None], unary.new_zeros(1, 1)
        else:
            states, proposal = _sampled_states(counts, unary, pair, generator)
        quadratic = ((states @ pair) * states).sum(2) / 2
        scores = _applied(states, unary) + quadratic - proposal
        mass = scores.logsumexp(1)
        solved = torch.linalg.solve_triangular(root.mT, half, upper=True)
        mean = solved[:, None, :, 0] + states @ solved[..., 1:].mT
        return Mixture(states, scores - mass[:, None], mean, root, constant + mass)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A conditional Gaussian, normalised: M joint states of the labels, a Gaussian given each.

    `states` (B or 1, M, D) are one-hot rows, `log_weight` (B, M) their log probabilities (of states
    that were drawn, importance weights), `mean` (B, M, V) the numbers' means in each; all have the
    precision root root', root (B, V, V) lower triangular. `log_mass` (B,) is the logarithm of what
    the density was divided by.
    """

    states: Tensor
    log_weight: Tensor
    mean: Tensor
    root: Tensor
    log_mass: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Of every state of every label, (B, D)."""
        return torch.einsum("bm,bmd->bd", self._weight, self._states)

    @property
    def expectation(self) -> Tensor:
        """E[x], (B, V)."""
        return torch.einsum("bm,bmv->bv", self._weight, self.mean)

    @property
    def variance(self) -> Tensor:
        """Of the numbers in each state of the labels, (B, V): the same in all."""
        inverse = torch.linalg.solve_triangular(
            self.root, torch.eye(self.root.shape[1]).to(self.root).expand_as(self.root), upper=False
        )
        return inverse.square().sum(1)

    @property
    def effective_states(self) -> Tensor:
        """Of states that were drawn, as many independent draws as they are worth, (B,)."""
        return 1 / self._weight.square().sum(1)

    def draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """n independent draws of each record: numbers (B, n, V) and one-hot labels (B, n, D)."""
        uniform = torch.rand((len(self.log_weight), n), generator=generator, dtype=torch.float64)
        below = self._weight.cumsum(1)
        chosen = torch.searchsorted(below, uniform.to(below) * below[:, -1:]).clamp(
            max=below.shape[1] - 1
        )
        noise = torch.randn(
            (*uniform.shape, self.mean.shape[2]), generator=generator, dtype=torch.float64
        ).to(self.mean)
        spread = torch.linalg.solve_triangular(self.root.mT, noise.mT, upper=True).mT
        return _taken(self.mean, chosen) + spread, _taken(self._states, chosen)

    @property
    def _weight(self) -> Tensor:
        return self.log_weight.exp()

    @property
    def _states(self) -> Tensor:
        return self.states.expand(len(self.log_weight), -1, -1)


def all_states(counts: Sequence[int]) -> Tensor:
    """Every joint state of labels of so many states each, (M, D) one-hot rows; of none (1, 0)."""
    if not counts:
        return torch.zeros(1, 0, dtype=torch.float64)
    index = torch.cartesian_prod(*(torch.arange(k) for k in counts)).view(-1, len(counts))
    return torch.cat([F.one_hot(index[:, i], k) for i, k in enumerate(counts)], 1).double()


@torch.no_grad()
def _sampled_states(
    counts: Sequence[int], unary: Tensor, pair: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """States (B, M, D) of density exp(unary'y + y'pair y / 2), drawn one label after another, and
    the log of how often each was, (B, M): importance sampling then weighs the states.

    Every label is drawn given those before it, as if those to come were independent given these.
    The proposal is exact for two labels, and for any that depend on the first alone, however much;
    else it is the poorer the more the labels say of one another: `Mixture.effective_states` tells.
    (One that knows no label's dependence, as the mean-field approximation, would settle for one of
    several likely states, and all weights be alike.)
    """
    n, ends = max(len(unary), len(pair)), [*itertools.accumulate(counts)]
    places = [slice(end - k, end) for end, k in zip(ends, counts, strict=True)]
    told = (unary + pair.diagonal(dim1=1, dim2=2) / 2)[:, None].expand(n, _SAMPLED, -1)
    drawn, log_share = [], unary.new_full((1, 1), math.log(_SAMPLED))
    for i, own in enumerate(places):
        logits = told[..., own]
        for other in places[i + 1 :]:
            between = pair[:, own, other]
            most = between.amax(2, keepdim=True)
            summed = told[..., other].softmax(2) @ (between - most).exp().mT
            logits = logits + summed.clamp_min(_TINY).log() + most.mT
        uniform = torch.rand(logits.shape, generator=generator).to(logits)
        chosen = (logits - (-uniform.clamp(1e-12).log()).log()).argmax(2)
        y = F.one_hot(chosen, logits.shape[2]).to(logits)
        log_share = log_share + (logits.log_softmax(2) * y).sum(2)
        told = told + y @ pair[:, own]
        drawn.append(y)
    return torch.cat(drawn, 2), log_share


def _applied(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (B or 1, k, l) of vectors x (B or 1, l): (B, k)."""
    return (matrix @ x[..., None])[..., 0]


def _nothing_but(like: ConditionalGaussian, unary: Tensor) -> ConditionalGaussian:
    """The factor exp(unary'y)."""
    zero = {k: torch.zeros_like(x) for k, x in vars(like).items()}
    return ConditionalGaussian(**{**zero, "unary": unary})


def _taken(values: Tensor, chosen: Tensor) -> Tensor:
    """values (B, M, k) at chosen (B, n): (B, n, k)."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))
