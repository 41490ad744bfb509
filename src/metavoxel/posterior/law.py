"""Bayes' rule for all scalars at once: p(scalars | images, anything known) in one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from metavoxel.posterior.conditional_gaussian import ConditionalGaussian, Mixture
from metavoxel.posterior.evidence import Evidence, evidence_width
from metavoxel.posterior.prior import ScalarPrior

State = Mapping[str, Tensor]

_STATES = 32  # joint states of the labels whose distribution functions are in memory at once


@dataclass(frozen=True)
class Calibration:
    """Constants of the law, fitted to evidence about subjects that its network did not see.

    The likelihood that images state counts to the power of 1 / temperature, by scalar.
    `shifts[number][scalar]` multiplies what an image says of the number for one label of the scalar
    rather than another (default: 1). `sharing` multiplies the exponents by which the prior's
    couplings apply beside images: at 0 the prior counts in full, and what an image shows of two
    variables counts twice; the larger, the more an image speaks for itself.
    """

    temperatures: Mapping[str, float]
    shifts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sharing: float = 1.0


class ScalarLaw(nn.Module):
    """The joint distribution of embedded scalars: a prior, and evidence that multiplies it.

    `numbers` names the scalars that are embedded as one number each, N(0, 1) over the cohort;
    `labels` maps those that are embedded as one-hot rows to their number of labels.
    """

    def __init__(
        self, numbers: Sequence[str], labels: Mapping[str, int], prior: ScalarPrior | None = None
    ) -> None:
        super().__init__()
        self.numbers, self.labels = tuple(numbers), dict(labels)
        counts = tuple(self.labels.values())
        self.prior = prior or ScalarPrior.independent(len(self.numbers), counts)
        if len(self.prior.offset) != len(self.numbers) or self.prior.counts != counts:
            raise ValueError("the prior is not of these scalars")
        self.calibration = Calibration(dict.fromkeys((*numbers, *labels), 1.0))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.numbers, *self.labels)

    @property
    def widths(self) -> tuple[int, int]:
        """Outputs of a network that states evidence: of each scalar alone, of several together."""
        return evidence_width(len(self.numbers), tuple(self.labels.values()))

    def read(self, output: Tensor, seen: Tensor) -> Evidence:
        """The evidence that an output (B, sum of `widths`) states, where images are `seen` (B,)."""
        prior = self.prior
        evidence = Evidence.read(output, len(self.numbers), prior.frequencies, prior.counts)
        return evidence.where(seen, prior.frequencies)

    def calibrated(self, evidence: Evidence) -> Evidence:
        """The evidence, as sure as the calibration lets it be."""
        fitted, like, prior = self.calibration, evidence.mean, self.prior
        numbers = like.new_tensor([fitted.temperatures[v] for v in self.numbers])
        labels = like.new_tensor([fitted.temperatures[v] for v in self.labels])
        shifts = like.new_ones(len(self.numbers), len(self.labels))
        for i, v in enumerate(self.numbers):
            for j, w in enumerate(self.labels):
                shifts[i, j] = fitted.shifts.get(v, {}).get(w, 1.0)
        return evidence.calibrated(numbers, labels, shifts, prior.frequencies, prior.counts)

    def posterior(
        self,
        evidence: Evidence | None,
        known: State,
        n: int,
        generator: torch.Generator | None = None,
        prior: ScalarPrior | None = None,
    ) -> ScalarPosterior:
        """p(scalars | images, known scalars) of n records, known[name] (n, k) embedded.

        No evidence: no image is known. `prior` replaces the cohort's.
        """
        prior = prior or self.prior
        every = torch.ones(n, dtype=torch.bool, device=prior.offset.device)
        joint = prior.factor(None if evidence is None else self.kept(evidence))
        joint = joint if evidence is None else joint.times(evidence.factor())
        joint = self._given(joint, known, dict.fromkeys(known, every), n)
        return ScalarPosterior(self, joint.posterior(prior.counts, generator))

    def log_likelihood(
        self,
        evidence: Evidence,
        z0: State,
        known: Mapping[str, Tensor],
        asked: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """log p(asked | images, known), (B,), a density of the embedded numbers.

        `z0[name]` (B, k) holds embedded values; `known[name]` and `asked[name]` (B,) say which.
        `kept` (B, V) stands in for how far the prior's couplings apply.
        """
        kept = self.kept(evidence) if kept is None else kept
        both = {v: known[v] | asked[v] for v in self.names}
        more = self._posterior(evidence, z0, both, kept, generator)
        return more.log_mass - self._posterior(evidence, z0, known, kept, generator).log_mass

    def squared_error(self, evidence: Evidence, z0: State, there: Mapping[str, Tensor]) -> Tensor:
        """The squared errors of the evidence's means, (B,): the sum over the numbers that are
        `there[name]` (B,)."""
        x, known = self._packed(self.numbers, z0, there, len(evidence.mean))
        return torch.where(known, evidence.mean - x, 0).square().sum(1)

    def _posterior(
        self,
        evidence: Evidence,
        z0: State,
        known: Mapping[str, Tensor],
        kept: Tensor,
        generator: torch.Generator | None,
    ) -> Mixture:
        joint = self.prior.factor(kept).times(evidence.factor())
        given = self._given(joint, z0, known, len(evidence.mean))
        return given.posterior(self.prior.counts, generator)

    def kept(self, evidence: Evidence, sharing: float | Tensor | None = None) -> Tensor:
        """How far every number's couplings in the prior apply beside images, (B, V)."""
        sharing = self.calibration.sharing if sharing is None else sharing
        return evidence.left.clamp(max=1).pow(sharing * evidence.exponents)

    def _given(
        self, joint: ConditionalGaussian, z0: State, known: Mapping[str, Tensor], n: int
    ) -> ConditionalGaussian:
        """The factor of what is unknown where `known[name]` (n,) says whose value z0 is known."""
        x, y = (self._packed(names, z0, known, n) for names in (self.numbers, self.labels))
        return joint.given_numbers(*x).given_labels(*y)

    def _packed(
        self,
        names: Sequence[str] | Mapping[str, int],
        z0: State,
        known: Mapping[str, Tensor],
        n: int,
    ) -> tuple[Tensor, Tensor]:
        """The named values side by side (n, k), 0 where unknown, and which are known (n, k)."""
        like = self.prior.offset
        values, there = [like.new_zeros(n, 0)], [like.new_zeros(n, 0, dtype=torch.bool)]
        for v in names:
            width = self.labels.get(v, 1)
            is_known = known[v].to(like.device) if v in known else there[0].new_zeros(n)
            z = z0[v].to(like) if v in z0 else like.new_zeros(n, width)
            values.append(torch.where(is_known[:, None], z, 0))
            there.append(is_known[:, None].expand(-1, width))
        return torch.cat(values, 1), torch.cat(there, 1)


@dataclass(frozen=True, eq=False)
class ScalarPosterior:
    """p(scalars | images, known scalars) of B records. A known scalar is not to be asked for."""

    law: ScalarLaw
    mixture: Mixture

    def probabilities(self, name: str) -> Tensor:
        """Of the labels of one scalar, (B, K)."""
        return self.mixture.probabilities[:, self._place(name)]

    def below(self, name: str, x: Tensor) -> Tensor:
        """P(number <= x) of one embedded number at each of m values x (m,): (B, m)."""
        i, m = self.law.numbers.index(name), self.mixture
        std, x = m.variance[:, i].sqrt()[:, None, None], x.to(m.mean)
        total = x.new_zeros(len(m.log_weight), len(x))
        for weight, mean in zip(
            m.log_weight.exp().split(_STATES, 1), m.mean[:, :, i].split(_STATES, 1), strict=True
        ):
            standard = (x - mean[..., None]) / std
            total += (weight[..., None] * torch.special.ndtr(standard)).sum(1)
        return total

    def mean(self, name: str) -> Tensor:
        """E[z_0] of one scalar, embedded, (B, k)."""
        if name in self.law.labels:
            return self.probabilities(name)
        i = self.law.numbers.index(name)
        return self.mixture.expectation[:, i : i + 1]

    def draw(self, n: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """n joint draws of each record: embedded values (B, n, k), float32, by scalar."""
        x, y = self.mixture.draw(n, generator)
        out = {v: x[:, :, i : i + 1] for i, v in enumerate(self.law.numbers)}
        out |= {v: y[:, :, self._place(v)] for v in self.law.labels}
        return {v: z.float() for v, z in out.items()}

    def _place(self, name: str) -> slice:
        names = [*self.law.labels]
        start = sum(self.law.labels[v] for v in names[: names.index(name)])
        return slice(start, start + self.law.labels[name])
