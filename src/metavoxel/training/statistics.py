"""What a training set is like: the mean, the spread, and what varies together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from metavoxel.encoding.image import ImageEncoder

MOST_SCANS = 1024  # that the covariance is estimated from: its memory and time are bounded
_MOST_RECORDS = 4096  # likewise of scalars: each may lack others than the next
_ROUNDS = 200  # of expectation and maximisation, if they do not settle before
_ROWS = 64  # read from disk at once
_LEAST = 1e-9  # variance of a label that nobody has
_SETTLED = 1e-5  # the largest change of a correlation in a round


@torch.no_grad()
def fit_statistics(encoder: ImageEncoder, volumes: Tensor, chunk: int = 8) -> None:
    """Store the latents' statistics over volumes (N, C, *grid), in one pass."""
    device = encoder.latent_mean.device
    encoder.eval()
    total, square, kept = torch.tensor(0.0), torch.tensor(0.0), []
    stride = -(-len(volumes) // MOST_SCANS)
    for i, x in enumerate(chunks(volumes, device, chunk)):
        latent = encoder.embed(x).double().cpu()
        total, square = total + latent.sum(0), square + latent.square().sum(0)
        kept.append(latent[-i * chunk % stride :: stride].float())
    mean = total / len(volumes)
    std = (square / len(volumes) - mean.square()).clamp_min(0).sqrt()
    if not bool(std.any()):  # of a single image, nothing can be said
        std = torch.ones_like(std)
    mean, std = mean.float(), std.float()
    factors = factors_of(torch.cat(kept) - mean, std, len(encoder.latent_factors))
    encoder.set_statistics(mean.to(device), std.to(device), factors.to(device))


def factors_of(x: Tensor, std: Tensor, rank: int) -> Tensor:
    """The directions in which the centred x (N, ...) varies together, in its own units."""
    return std * shared_factors(torch.where(std > 0, x / std, 0), rank)


def shared_factors(x: Tensor, rank: int) -> Tensor:
    """The directions in which the elements of x (N, ...), of variance 1, vary together.

    F (k, ...) of the correlation F' F + diag(...): the `rank` leading principal components, or as
    many as there are, of the correlation matrix that Ledoit and Wolf (2004) shrink towards the
    identity. The shrinkage leaves each element a variance of its own, and the more the fewer scans
    there are. Works on the N x N products of scans; the elements are too many for a matrix.
    """
    flat = x.flatten(1).double()
    n = len(flat)
    products = flat @ flat.T / n  # as many non-zero eigenvalues as the covariance, the same ones
    kept = 1 - shrinkage(products, flat.shape[1])
    variance, vectors = torch.linalg.eigh(products)
    k = min(rank, n - 1)
    variance, vectors = variance[n - k :].flip(0), vectors[:, n - k :].flip(1)
    factors = (kept / n) ** 0.5 * vectors.T @ flat  # of squared length `kept` times the variance
    real = variance > 1e-9 * variance.sum()  # the others are rounding
    return factors[real].view(-1, *x.shape[1:]).float()


def shrinkage(products: Tensor, elements: int) -> float:
    """Ledoit and Wolf's weight of the identity, from the products x x' / N of N centred scans.

    In terms of the N x N matrix G = x x' / N, tr S^2 = |G|^2 and |x_i|^2 = N G_ii.
    """
    n, p = len(products), elements
    square = float(products.square().sum()) / p  # |S|^2, in their norm with its 1 / p
    scale = float(products.trace()) / p
    distance = square - scale**2  # of S from the nearest multiple of the identity
    fourth = float((n * products.diagonal()).square().sum()) / p
    error = (fourth / n - square) / n  # of S from the truth, as estimated
    return 1.0 if distance <= 0 else min(max(error, 0.0), distance) / distance


def fit_normal(
    x: Tensor, observed: Tensor, independent: float | None = None
) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of records x (n, D), of which `observed` (n, D) says what is
    there, by expectation and maximisation (Dempster, Laird and Rubin, 1977).

    The covariance is that of the records and of so many more, D by default, whose elements have
    their variances and are independent (the mode under an inverse Wishart prior): with few records,
    and elements seldom known together, it stays away from what they cannot tell.
    """
    rows = observed.any(1).nonzero()[:, 0]
    rows = rows[:: -(-len(rows) // _MOST_RECORDS) or 1]
    there = observed[rows]
    count = there.sum(0).clamp_min(1)
    x = torch.where(there, x[rows].double(), 0)
    mean = x.sum(0) / count
    std = (torch.where(there, x - mean, 0).square().sum(0) / count).sqrt()
    std = torch.where(std > 0, std, 1)
    x = torch.where(there, (x - mean) / std, 0)
    more = len(mean) if independent is None else independent
    identity = torch.eye(len(mean), dtype=torch.float64)
    centre, correlation = torch.zeros_like(mean), identity
    for _ in range(_ROUNDS):
        before = correlation
        filled, left = _expected(x, there, centre, correlation)
        centre = filled.mean(0) if len(filled) else centre
        around = filled - centre
        correlation = (around.T @ around + left + more * identity) / (len(x) + more)
        if float((correlation - before).abs().max()) < _SETTLED:
            break
    return mean + std * centre, std[:, None] * correlation * std


def _expected(x: Tensor, there: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """x (n, D) with what is not there as expected, and the covariance that this leaves out, summed
    over the records."""
    filled, left = x.clone(), torch.zeros_like(covariance)
    patterns, of = there.unique(dim=0, return_inverse=True)
    for i, known in enumerate(patterns):
        lacking, rows = ~known, of == i
        between = covariance[known][:, lacking]
        weights = torch.linalg.solve(covariance[known][:, known], between)
        expected = mean[lacking] + (x[rows][:, known] - mean[known]) @ weights
        filled[rows.nonzero(), lacking.nonzero()[:, 0]] = expected
        spread = covariance[lacking][:, lacking] - between.T @ weights
        places = lacking.nonzero()[:, 0]
        left[places[:, None], places] += int(rows.sum()) * spread
    return filled, left


def chunks(volumes: Tensor, device: torch.device, size: int = 8) -> Iterator[Tensor]:
    """Volumes (N, C, *grid), a few at a time, as float in [0, 1]."""
    return (unit_range(x).to(device) for x in volumes.split(size))


def unit_range(volumes: Tensor) -> Tensor:
    """uint8 in [0, 255], or float in [0, 1], as float in [0, 1]."""
    return volumes.float() / 255 if volumes.dtype == torch.uint8 else volumes.float()
