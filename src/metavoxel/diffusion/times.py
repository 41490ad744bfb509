"""Distributions of training times: one for all (the paper), or one per variable, as in questions.

A question at inference puts the known variables at t = 0, the marginalised ones at T, and moves the
asked ones from T to 0. `SharedTimes` never trains such states; independent uniform times almost
never do. `CornerTimes` draws questions instead.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from metavoxel.diffusion.joint import Times


class TimeSampler(Protocol):
    """Draws the training times of a batch."""

    def __call__(
        self,
        n: int,
        images: Sequence[str],
        scalars: Sequence[str],
        T: int,
        generator: torch.Generator | None,
    ) -> Times:
        """Integer times in 0 ... T, shape (n,), for `images` and for `scalars`."""
        ...

    def supports(
        self,
        asked: Collection[str],
        known: Collection[str],
        images: Collection[str],
        scalars: Collection[str],
    ) -> bool:
        """Whether the times drawn are meant to teach the question `asked` | `known`."""
        ...

    def validated(self, draw: int) -> TimeSampler:
        """The sampler of a validation's `draw`, counted from 0: some draws must ask for images."""
        ...


def uniform_times(n: int, T: int, generator: torch.Generator | None) -> Tensor:
    """Uniform over 1 ... T, stratified over the batch for low variance (Kingma et al., 2021)."""
    offset = torch.rand((), generator=generator)
    order = torch.randperm(n, generator=generator)
    u = (offset + order / n) % 1
    return (u * T).long().clamp(0, T - 1) + 1


@dataclass(frozen=True)
class SharedTimes:
    """One uniform t for all variables of a record (the paper)."""

    def __call__(
        self,
        n: int,
        images: Sequence[str],
        scalars: Sequence[str],
        T: int,
        generator: torch.Generator | None,
    ) -> Times:
        t = uniform_times(n, T, generator)
        return dict.fromkeys((*images, *scalars), t)

    def validated(self, draw: int) -> TimeSampler:
        return self

    def supports(
        self,
        asked: Collection[str],
        known: Collection[str],
        images: Collection[str],
        scalars: Collection[str],
    ) -> bool:
        return True


@dataclass(frozen=True)
class IndependentTimes:
    """One uniform t per variable, all independent."""

    def __call__(
        self,
        n: int,
        images: Sequence[str],
        scalars: Sequence[str],
        T: int,
        generator: torch.Generator | None,
    ) -> Times:
        return {v: uniform_times(n, T, generator) for v in (*images, *scalars)}

    def validated(self, draw: int) -> TimeSampler:
        return self

    def supports(
        self,
        asked: Collection[str],
        known: Collection[str],
        images: Collection[str],
        scalars: Collection[str],
    ) -> bool:
        return True


@dataclass(frozen=True)
class CornerTimes:
    """Times drawn as questions: every variable is known (0), marginalised (T) or asked (between).

    The images of a batch are known together with probability `known_images` (by batch, so that such
    a batch can leave out the network's decoder); else each is at T with probability
    `absent_images`, otherwise at the record's time. Of the scalars, and of the images where there
    are several, a fraction drawn from the arcsine law is known, which gives every number of known
    ones, none and all above the others, its share. The rest of the scalars sit at T for a `corner`
    of the records, and for the others at the record's time or, one half, at a time of their own;
    some of them at T.
    """

    known_images: float = 0.5
    absent_images: float = 0.3
    corner: float = 0.5

    def __call__(
        self,
        n: int,
        images: Sequence[str],
        scalars: Sequence[str],
        T: int,
        generator: torch.Generator | None,
    ) -> Times:
        def coin(p: float | Tensor, size: int = n) -> Tensor:
            return torch.rand(size, generator=generator) < p

        shared, alone = uniform_times(n, T, generator), coin(0.5)
        # Without scalars, known images would leave nothing to ask.
        images_known = bool(coin(self.known_images, 1)) and len(scalars) > 0
        known, absent = _arcsine(n, generator), _arcsine(n, generator)
        at_corner = coin(self.corner)
        times: Times = {}
        clean = torch.zeros(n, dtype=torch.long)
        for v in images:
            t = torch.where(coin(self.absent_images), torch.full((n,), T), shared)
            if len(images) > 1:  # questions such as "FLAIR | T1w" know some of the images
                t = torch.where(coin(known), clean, t)
            times[v] = clean if images_known else t
        for v in scalars:
            t = torch.where(alone, uniform_times(n, T, generator), shared)
            t = torch.where(at_corner | coin(absent), torch.full((n,), T), t)
            times[v] = torch.where(coin(known), clean, t)
        return times

    def validated(self, draw: int) -> TimeSampler:
        """Fields known at every other draw: chance might leave one of the two out of a few."""
        return replace(self, known_images=float(draw % 2)) if 0 < self.known_images < 1 else self

    def supports(
        self,
        asked: Collection[str],
        known: Collection[str],
        images: Collection[str],
        scalars: Collection[str],
    ) -> bool:
        return True


@dataclass(frozen=True)
class ConditionalTimes:
    """A conditional model of the images: the scalars are its conditions and never diffuse.

    All scalars of a record are known (0) or, with probability `dropped`, none is (T), as
    classifier-free guidance trains (Ho and Salimans, 2022, who drop 0.1 to 0.2). The images are at
    one uniform t. So it learns "images | all scalars" and "images", and no other question.
    """

    dropped: float = 0.1

    def __call__(
        self,
        n: int,
        images: Sequence[str],
        scalars: Sequence[str],
        T: int,
        generator: torch.Generator | None,
    ) -> Times:
        shared = uniform_times(n, T, generator)
        conditions = T * (torch.rand(n, generator=generator) < self.dropped).long()
        return dict.fromkeys(images, shared) | dict.fromkeys(scalars, conditions)

    def validated(self, draw: int) -> TimeSampler:
        return self

    def supports(
        self,
        asked: Collection[str],
        known: Collection[str],
        images: Collection[str],
        scalars: Collection[str],
    ) -> bool:
        return set(asked) <= set(images) and set(known) in (set(), set(scalars))


def _arcsine(n: int, generator: torch.Generator | None) -> Tensor:
    """Draws of Beta(1/2, 1/2), shape (n,)."""
    return torch.sin(torch.rand(n, generator=generator) * torch.pi / 2) ** 2
