"""The evidence of images about all scalars at once: the network's output as a likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.posterior.conditional_gaussian import ConditionalGaussian

_UNSURE = 2.0  # before training an image says little: 0.88 of a number's variance is left
_LEAST = 1e-4  # share of a number's variance that an image leaves at least
_LESS = 0.1  # share of their gradient that variances, exponents, loadings and shifts teach
_STEEPEST = 5.0  # logarithm of the exponent by which couplings apply, at most
_RANK = 2  # directions in which what is left of several numbers goes together


def evidence_width(numbers: int, counts: Sequence[int]) -> tuple[int, int]:
    """Outputs of a network that states evidence: those of each scalar alone (means, variances,
    exponents, logits), and those of what an image says of several together."""
    D, rank = sum(counts), _rank(numbers)
    return 3 * numbers + D, numbers * (rank + D)


def _rank(numbers: int) -> int:
    return min(_RANK, numbers - 1) if numbers else 0


@dataclass(frozen=True, eq=False)
class Evidence:
    """The posterior of numbers and labels given images, if all were independent over the cohort.

    x | y ~ N(mean + shift (y - p), (I + precision)^-1) and p(y) proportional to
    exp(logits'y) times the labels' frequencies, p its probabilities. A number's couplings in the
    prior apply beside the images by the share of its variance that they leave, to the power of its
    exponent. Shapes: mean and exponents (B, V), precision (B, V, V) positive semidefinite, shift
    (B, V, D), logits and p (B, D).
    """

    mean: Tensor
    precision: Tensor
    exponents: Tensor
    shift: Tensor
    logits: Tensor
    probabilities: Tensor

    @classmethod
    def read(
        cls, output: Tensor, numbers: int, frequencies: Tensor, counts: Sequence[int]
    ) -> Evidence:
        """From the output of a network, (B, width); `frequencies` (D,) are the labels'."""
        D, rank = len(frequencies), _rank(numbers)
        sizes = (numbers, numbers, numbers, D, numbers * rank, numbers * D)
        mean, *rest, logits, loadings, shift = output.double().split(sizes, 1)
        variance, powers, loadings, shift = (_less_taught(x) for x in (*rest, loadings, shift))
        left = F.logsigmoid(variance + _UNSURE).clamp_min(math.log(_LEAST)).exp()
        loadings = loadings.view(len(output), numbers, rank)
        return cls(
            mean,
            (1 / left - 1).diag_embed() + loadings @ loadings.mT,
            powers.clamp(-_STEEPEST, _STEEPEST).exp(),
            shift.view(len(output), numbers, D),
            logits,
            probabilities(logits, frequencies, counts),
        )

    def of_fixed_means(self) -> Evidence:
        """The same, whose means no gradient reaches."""
        return replace(self, mean=self.mean.detach())

    @property
    def left(self) -> Tensor:
        """The share of every number's variance that the images leave, (B, V)."""
        one = torch.eye(self.mean.shape[1]).to(self.precision)
        return torch.cholesky_inverse(torch.linalg.cholesky(one + self.precision)).diagonal(
            dim1=1, dim2=2
        )

    def factor(self) -> ConditionalGaussian:
        """The likelihood of x and y that it states: its posterior over the independent prior."""
        Q = self.precision + torch.eye(self.mean.shape[1]).to(self.precision)
        centre = self.mean - torch.einsum("bvd,bd->bv", self.shift, self.probabilities)
        linear = torch.einsum("bvw,bw->bv", Q, centre)
        weighed = Q @ self.shift
        return ConditionalGaussian(
            self.mean.new_zeros(len(self.mean)),
            self.logits - torch.einsum("bvd,bv->bd", self.shift, linear),
            -self.shift.mT @ weighed,
            linear,
            weighed,
            self.precision,
        )

    def where(self, seen: Tensor, frequencies: Tensor) -> Evidence:
        """Nothing, where `seen` (B,) is false."""
        some = seen.to(self.mean)
        return Evidence(
            self.mean * some[:, None],
            self.precision * some[:, None, None],
            self.exponents,
            self.shift * some[:, None, None],
            self.logits * some[:, None],
            torch.where(seen[:, None], self.probabilities, frequencies),
        )

    def calibrated(
        self,
        numbers: Tensor,
        labels: Tensor,
        shifts: Tensor,
        frequencies: Tensor,
        counts: Sequence[int],
    ) -> Evidence:
        """The likelihood to the power of one over temperatures, of `numbers` (V,) and of the logits
        of `labels` (L,); what it says of a number for one label rather than another times `shifts`
        (V, L).

        So the surer an image is of a number, the less its mean moves towards that of the cohort.
        """
        one = torch.eye(self.mean.shape[1]).to(self.precision)
        root = numbers.rsqrt()
        widths = torch.tensor([*counts], dtype=torch.long, device=self.mean.device)
        precision = root[:, None] * self.precision * root
        sides = torch.cat(
            [self.mean[..., None], shifts.repeat_interleave(widths, 1) * self.shift], 2
        )
        said = ((one + self.precision) @ sides) / numbers[:, None]
        mean, shift = torch.linalg.solve(one + precision, said).split([1, sides.shape[2] - 1], 2)
        logits = self.logits / labels.repeat_interleave(widths)
        tilted = probabilities(logits, frequencies, counts)
        return Evidence(mean[..., 0], precision, self.exponents, shift, logits, tilted)


def _less_taught(x: Tensor) -> Tensor:
    """x, with a share of its gradient."""
    return x.detach() + _LESS * (x - x.detach())


def probabilities(logits: Tensor, frequencies: Tensor, counts: Sequence[int]) -> Tensor:
    """Of every label, (B, D), where logits (B, D) tilt the labels' frequencies (D,)."""
    tilted = (logits + frequencies.log()).split([*counts], 1) if counts else ()
    return torch.cat([logits[:, :0], *(x.softmax(1) for x in tilted)], 1)
