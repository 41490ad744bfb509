"""How times and scalar values enter the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def sinusoidal(t: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """The transformer's embedding of integer times t (B,), shape (B, channels)."""
    half = channels // 2
    rates = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """One embedding of all the times: the sum of a small network per variable.

    With one shared time (the paper) this is a time embedding like any other; with a time per
    variable it also says which variables are known, asked or marginalised.
    """

    def __init__(self, names: Sequence[str], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.networks = nn.ModuleDict(
            {
                v: nn.Sequential(
                    nn.Linear(channels // 4, channels), nn.SiLU(), nn.Linear(channels, channels)
                )
                for v in names
            }
        )

    def forward(self, t: Mapping[str, Tensor]) -> Tensor:
        """t[name] (B,) -> (B, channels)."""
        each = [net(sinusoidal(t[v], self.channels // 4)) for v, net in self.networks.items()]
        return torch.stack(each).sum(0) / math.sqrt(len(each))


class ScalarTokens(nn.Module):
    """One cross-attention token per scalar: its noisy value and its time."""

    def __init__(self, sizes: Mapping[str, int], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.value = nn.ModuleDict({v: nn.Linear(k, channels) for v, k in sizes.items()})
        self.time = nn.ModuleDict({v: nn.Linear(channels, channels) for v in sizes})

    def forward(self, z: Mapping[str, Tensor], t: Mapping[str, Tensor]) -> Tensor:
        """z[name] (B, k) and t[name] (B,) -> (B, scalars, channels)."""
        tokens = [
            self.value[v](z[v]) + self.time[v](sinusoidal(t[v], self.channels)) for v in self.value
        ]
        return torch.stack(tokens, dim=1)


def rescaled_state(z: Tensor) -> Tensor:
    """A categorical state (B, K) as one scalar in [-1, 1] (section 3.2), a continuous one as it is.

    The first label is -1 and the last state is +1. Shape (B, 1).
    """
    states = z.shape[-1]
    if states == 1:
        return z
    places = torch.linspace(-1, 1, states, device=z.device, dtype=z.dtype)
    return (z * places).sum(-1, keepdim=True)
