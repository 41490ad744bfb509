"""The joint distribution of all scalars over the cohort, and its couplings beside an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metavoxel.posterior.conditional_gaussian import ConditionalGaussian


class ScalarPrior(nn.Module):
    """p(x, y) of embedded numbers x (V,) and one-hot labels y (D,): a regression on a table.

    log p(y) = unary'y + y' pair y / 2 - log Z over the joint states of the labels, and
    x | y ~ N(offset + slopes y, covariance). Over the cohort every number is about N(0, 1), and
    `frequencies` (D,) are the labels'. Raises ValueError if the
    shapes do not fit, or the covariance is not positive definite.
    """

    frequencies: Tensor
    unary: Tensor
    pair: Tensor
    offset: Tensor
    slopes: Tensor
    covariance: Tensor

    def __init__(
        self,
        counts: Sequence[int],
        frequencies: Sequence[float] | Tensor,
        unary: Sequence[float] | Tensor,
        pair: Sequence[Sequence[float]] | Tensor,
        offset: Sequence[float] | Tensor,
        slopes: Sequence[Sequence[float]] | Tensor,
        covariance: Sequence[Sequence[float]] | Tensor,
    ) -> None:
        super().__init__()
        V, D = len(offset), sum(counts)
        self.counts = tuple(counts)
        for name, values, shape in (
            ("frequencies", frequencies, (D,)),
            ("unary", unary, (D,)),
            ("pair", pair, (D, D)),
            ("offset", offset, (V,)),
            ("slopes", slopes, (V, D)),
            ("covariance", covariance, (V, V)),
        ):
            x = torch.as_tensor(values, dtype=torch.float64)
            if x.numel() != torch.Size(shape).numel():
                raise ValueError(f"{name} must have shape {shape}")
            self.register_buffer(name, x.reshape(shape))
        if bool(torch.linalg.cholesky_ex(self.covariance).info):
            raise ValueError("the covariance is that of no distribution")

    @classmethod
    def independent(cls, numbers: int, counts: Sequence[int]) -> ScalarPrior:
        """Numbers N(0, 1), labels all as frequent, and nothing says anything of anything."""
        D = sum(counts)
        shares = [1 / k for k in counts for _ in range(k)]
        unary = torch.tensor(shares, dtype=torch.float64).log()
        zero = torch.zeros(max(numbers, D), max(numbers, D), dtype=torch.float64)
        one = torch.eye(numbers, dtype=torch.float64)
        return cls(counts, shares, unary, zero[:D, :D], zero[0, :numbers], zero[:numbers, :D], one)

    def as_dict(self) -> dict[str, Any]:
        """What it is made of, as plain numbers."""
        return {"counts": [*self.counts], **{k: x.tolist() for k, x in self.named_buffers()}}

    def factor(self, kept: Tensor | None = None) -> ConditionalGaussian:
        """The density of the numbers sqrt(1 - kept^2) e + kept x and of the labels.

        `kept` (B, V) in [0, 1] says how far every number's couplings apply: at 1 it is the cohort's
        distribution, at 0 the number is N(0, 1), whatever the others are. Between the two it is
        coupled as if it had been measured with noise e ~ N(0, 1), so that its marginal stays.
        """
        V = len(self.offset)
        kept = self.offset.new_ones(1, V) if kept is None else kept
        one = torch.eye(V).to(self.offset)
        covariance = kept[:, :, None] * (self.covariance - one) * kept[:, None] + one
        offset, slopes = kept * self.offset, kept[:, :, None] * self.slopes
        root = torch.linalg.cholesky(covariance)
        precision = torch.cholesky_inverse(root)
        weighed = precision @ slopes
        linear = torch.einsum("bvw,bw->bv", precision, offset)
        volume = root.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = -(offset * linear).sum(1) / 2 - volume - self._log_normaliser()
        return ConditionalGaussian(
            constant - V * torch.tensor(2 * torch.pi).log().to(constant) / 2,
            self.unary - torch.einsum("bvd,bv->bd", slopes, linear),
            self.pair - slopes.mT @ weighed,
            linear,
            weighed,
            precision,
        )

    def reweighed(self, frequencies: Mapping[int, Sequence[float]]) -> ScalarPrior:
        """The prior in which the labels at these places have other marginals, by iterative
        proportional fitting (Deming and Stephan, 1940). What depends on them, given them, stays,
        and so do `frequencies`, which evidence is stated against."""
        out = ScalarPrior(**self.as_dict()).to(self.offset.device)
        for _ in range(100 if len(frequencies) > 1 else 1):
            for place, wanted in frequencies.items():
                start = sum(self.counts[:place])
                own = slice(start, start + self.counts[place])
                generator = torch.Generator().manual_seed(0)
                now = out.factor().posterior(self.counts, generator).probabilities[0, own]
                out.unary[own] += (now.new_tensor(wanted).clamp_min(1e-12) / now).log()
        return out

    def _log_normaliser(self) -> Tensor:
        """log Z of the labels' table."""
        none = self.offset.new_zeros
        table = ConditionalGaussian(
            none(1),
            self.unary[None],
            self.pair[None],
            none(1, 0),
            none(1, 0, len(self.unary)),
            none(1, 0, 0),
        )
        return table.posterior(self.counts, torch.Generator().manual_seed(0)).log_mass
