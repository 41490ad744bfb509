"""Counter-based randomness: what is random at step k is a function of (seed, k), and of no state.

So a run that was killed continues bit for bit from its weights and its step, with no generator to
save.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def mixed(*counters: int) -> int:
    """One well-mixed 63-bit seed from non-negative counters, such as (seed, step)."""
    state = np.random.SeedSequence(list(counters)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(*counters: int) -> torch.Generator:
    """A CPU generator for these counters."""
    return torch.Generator().manual_seed(mixed(*counters))


def uniform(seed: int, *names: str) -> float:
    """A number in [0, 1) that depends on the seed and the names alone."""
    digest = hashlib.sha256("\n".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def rows_of_step(n: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Which of n records make the batch of this step, shape (batch_size,).

    Every record is seen once before any is seen again, in a new order on every pass.
    """
    places = torch.arange(step * batch_size, (step + 1) * batch_size)
    orders = {
        int(p): torch.randperm(n, generator=generator(seed, int(p))) for p in (places // n).unique()
    }
    return torch.stack([orders[int(i) // n][int(i) % n] for i in places])
