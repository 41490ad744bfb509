"""The joint process: one diffusion over every variable of a record (Eq. 1-5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metavoxel.diffusion.forward import Forward, over_axes
from metavoxel.diffusion.parameterization import Noisy

State = dict[str, Tensor]  # z[name], shape (B, ...)
Times = dict[str, Tensor]  # t[name], shape (B,), integer


@dataclass(frozen=True, eq=False)
class JointForward:
    """One forward process a variable, each at its own time; the paper's is one time for all.

    `shapes[name]` is the shape of z_0 of one record, without the batch axis.
    """

    variables: Mapping[str, Forward]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def T(self) -> int:
        return next(iter(self.variables.values())).schedule.T

    def __iter__(self):
        return iter(self.variables)

    @property
    def images(self) -> list[str]:
        """The variables with a grid; the others are scalars."""
        return [v for v in self if len(self.shapes[v]) > 1]

    def noise(
        self, n: int, generator: torch.Generator | None, names: Iterable[str] | None = None
    ) -> State:
        """The noise of the named variables (default: all) for n records, on the CPU."""
        names = self.variables if names is None else names
        return {v: self.variables[v].noise(n, self.shapes[v], generator) for v in names}

    def prior(
        self, n: int, generator: torch.Generator | None, names: Iterable[str] | None = None
    ) -> State:
        """z_T of the named variables, for n records."""
        return {
            v: self.variables[v].prior(noise)
            for v, noise in self.noise(n, generator, names).items()
        }

    def noised(self, z0: State, t: Times, noise: State) -> State:
        """z_t ~ q(z_t | z_0), variable by variable."""
        return {v: self.variables[v].noised(z0[v], t[v], noise[v]) for v in z0}


def joint_loss(
    noisy: Mapping[str, Noisy],
    predictions: State,
    z0: State,
    t: Times,
    noise: State,
    observed: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 5: the sum over variables of each one's mean loss over the records.

    A record counts for a variable if the value is observed and was noised (t > 0); a value that is
    missing, or known and clean, carries no loss. Returns the total, and for every variable the mean
    over the records that counted (NaN if none did).
    """
    total, parts = torch.zeros(()), {}
    for v, prediction in predictions.items():
        counts = observed[v] & (t[v] > 0)
        # A missing value may be NaN in z0. Masking the loss alone would still let it reach the
        # gradient, as 0 * NaN.
        target = torch.where(over_axes(counts, z0[v]) > 0, z0[v], torch.zeros_like(z0[v]))
        each = noisy[v].loss(prediction, target, noise[v])
        each = torch.where(counts, each, torch.zeros_like(each))
        total = total.to(each.device) + each.mean()
        parts[v] = (each.sum() / counts.sum()).detach()
    return total, parts
