"""What a training set is like: the mean, the spread, and what varies together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from metavoxel.encoding.image import ImageEncoder

MOST_SCANS = 1024  # that the covariance is estimated from: its memory and time are bounded


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
    factors = shared_factors(torch.cat(kept) - mean, len(encoder.latent_factors))
    encoder.set_statistics(mean.to(device), std.to(device), factors.to(device))


def shared_factors(x: Tensor, rank: int) -> Tensor:
    """The directions in which the elements of the centred x (N, ...) vary together.

    F (k, ...) of the covariance F' F + diag(...): the `rank` leading principal components, or as
    many as there are, of the covariance that Ledoit and Wolf (2004) shrink towards a multiple of
    the identity. The shrinkage leaves each element a variance of its own, and the more the fewer
    scans there are. Elements keep their scale: in units of its own, one that a single scan moves
    would be a direction, and the direction that scan. Works on the N x N products of scans; the
    elements are too many for a matrix.
    """
    flat = x.flatten(1).float()
    n = len(flat)
    # As many non-zero eigenvalues as the covariance, the same ones.
    products = (flat @ flat.T).double() / n
    kept = 1 - shrinkage(products, flat.shape[1])
    variance, vectors = torch.linalg.eigh(products)
    k = min(rank, n - 1)
    variance, vectors = variance[n - k :].flip(0), vectors[:, n - k :].flip(1)
    # Of squared length `kept` times the variance.
    factors = (kept / n) ** 0.5 * vectors.T.float() @ flat
    real = variance > 1e-6 * variance.sum()  # the others are rounding
    return factors[real].view(-1, *x.shape[1:])


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


def chunks(volumes: Tensor, device: torch.device, size: int = 8) -> Iterator[Tensor]:
    """Volumes (N, C, *grid), a few at a time, as float in [0, 1]."""
    return (unit_range(x).to(device) for x in volumes.split(size))


def unit_range(volumes: Tensor) -> Tensor:
    """uint8 in [0, 255], or float in [0, 1], as float in [0, 1]."""
    return volumes.float() / 255 if volumes.dtype == torch.uint8 else volumes.float()
