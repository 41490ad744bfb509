"""The heads that read one scalar: off the bottleneck features, and off the latents themselves."""

from __future__ import annotations

import math

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn


def _block(dims: int, groups: int, channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(groups, channels),
        nn.SiLU(),
        Conv[Conv.CONV, dims](channels, out, 3, padding=1),
    )


class ScalarHead(nn.Module):
    """Two (GroupNorm, SiLU, Conv) blocks with a skip connection, then global average pooling."""

    def __init__(self, dims: int, channels: int, hidden: int, out: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _block(dims, groups, channels, hidden), _block(dims, groups, hidden, out)
        )
        # A 1x1 convolution commutes with the pooling; after it, it is this and costs nothing.
        self.skip = nn.Linear(channels, out)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, ...) -> (B, out)."""
        return self.blocks(features).flatten(2).mean(-1) + self.skip(features.flatten(2).mean(-1))


class LinearReadOut(nn.Module):
    """A linear function of whole latent images, an own weight for every element; 0 at first.

    Convolutions and pooling have to learn where in the brain a feature lies, which takes far more
    scans than a small cohort has; there, linear models of all voxels are the ones to beat.
    """

    def __init__(self, elements: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, elements))

    def forward(self, images: Tensor) -> Tensor:
        """Latent images (B, c, ...) -> (B, out)."""
        x = images.flatten(1)
        # Adam moves every weight as far, whatever their number; this bounds how far the sum moves.
        return x @ self.weight.to(x.dtype).T / math.sqrt(x.shape[1])


class LocalReadOut(nn.Module):
    """A linear function of every element's neighbourhood, other for other times; 0 at first.

    How noise and signal differ between neighbours is much the same all over the image and, at one
    time, nearly linear: the U-Net behind its normalisations takes thousands of steps to say it.
    """

    def __init__(self, dims: int, shown: int, out: int, embedding: int) -> None:
        super().__init__()
        hidden = 4 * out
        self.neighbourhood = Conv[Conv.CONV, dims](shown, hidden, 3, padding=1, bias=False)
        self.gain = nn.Linear(embedding, hidden)
        self.out = Conv[Conv.CONV, dims](hidden, out, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, images: Tensor, emb: Tensor) -> Tensor:
        """Images (B, shown, *grid) and the embedding of their times (B, embedding)."""
        h = self.neighbourhood(images)
        gain = 1 + self.gain(nn.functional.silu(emb))
        return self.out(h * gain.view(*gain.shape, *[1] * (h.ndim - 2)))
