"""Noise schedules: how much of z_0 is left at each time t = 0 ... T."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """The cumulative signal alpha_bar(t) = prod_{s<=t} (1 - beta_s), for t = 0 ... T.

    `table` has T + 1 entries in float64; alpha_bar(0) = 1, so that t = 0 is clean data and t = T is
    the noisiest state. Between neighbours, beta_t = 1 - alpha_bar(t) / alpha_bar(t - 1).
    """

    table: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        table = self.table
        if table.ndim != 1 or len(table) < 2 or table[0] != 1 or (table.diff() > 0).any():
            raise ValueError("alpha_bar must fall from 1, one entry per time")

    @property
    def T(self) -> int:
        return len(self.table) - 1

    @property
    def zero_terminal_snr(self) -> bool:
        return bool(self.table[-1] == 0)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha_bar at integer times t, of any shape, as float32."""
        return self._on(t.device)[t]

    def _on(self, device: torch.device) -> Tensor:
        """The table as float32, copied to a device once: it is looked up many times a step."""
        if device not in self._copies:
            self._copies[device] = self.table.float().to(device)
        return self._copies[device]

    def beta(self, t: int) -> float:
        """beta_t of Eq. 1 and 4, for t = 1 ... T."""
        return float(1 - self.table[t] / self.table[t - 1])


def from_betas(betas: Tensor) -> Schedule:
    """The schedule whose step t has variance betas[t - 1]."""
    survived = torch.cumprod(1 - betas.double(), 0)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), survived]))


def linear(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Betas equally spaced (Ho et al., 2020)."""
    return from_betas(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


def scaled_linear(T: int, beta_start: float = 0.0015, beta_end: float = 0.0205) -> Schedule:
    """Square roots of beta equally spaced, the LDM schedule (Rombach et al., 2022)."""
    return from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2)


def cosine(T: int, offset: float = 0.008) -> Schedule:
    """alpha_bar follows a squared cosine down to 0 (Nichol and Dhariwal, 2021; D3PM)."""
    t = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    table = torch.cos((t + offset) / (1 + offset) * torch.pi / 2) ** 2
    table = table / table[0]
    table[-1] = 0.0
    return Schedule(table)


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and scale sqrt(alpha_bar) until nothing of z_0 is left at T (Lin et al., 2024, Alg. 1).

    The first step keeps its noise; only alpha_bar(T) = 0 is new. Needed for answers in one
    evaluation: the network's prediction at T is then a function of the known variables alone.
    """
    root = schedule.table.sqrt()
    first, last = root[1].clone(), root[-1].clone()
    root = torch.cat([root[:1], (root[1:] - last) * first / (first - last)])
    table = root**2
    table[-1] = 0.0
    return Schedule(table)
