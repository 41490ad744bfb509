"""What is linear in the record, beside the U-Net: four maps, all 0 before training.

Convolutions and pooling have to learn where in the brain a feature lies, which takes far more scans
than a small cohort has, and normalisations hide how large it is; there, linear models are the ones
to beat. The U-Net then learns what they leave.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn


class LinearParts(nn.Module):
    """Images and scalars to scalars, images and scalars to images.

    `shown` and `out` are the channels of the images' input and of their prediction;
    `scalars` maps a scalar to the width of its input; `heads` maps what is read off the
    images to the width of its output that is linear in them, and of the rest; `embedding` is the
    width of the embedding of the times.
    """

    def __init__(
        self,
        shown: int,
        out: int,
        grid: tuple[int, ...],
        scalars: Mapping[str, int],
        heads: Mapping[str, tuple[int, int]],
        embedding: int,
    ) -> None:
        super().__init__()
        elements, states = shown * math.prod(grid), sum(scalars.values())
        self.states, self.rest = [*scalars], {v: rest for v, (_, rest) in heads.items()}
        self.read_outs = nn.ModuleDict(
            {v: ReadOut(elements, width) for v, (width, _) in heads.items()}
        )
        self.regressions = nn.ModuleDict(
            {v: Effect(states, heads[v][0], (), embedding) for v in scalars if v in heads}
        )
        self.neighbourhood = Neighbourhood(len(grid), shown, out, embedding)
        self.effect = Effect(states, out, grid, embedding)

    def scalars(
        self, images: Tensor, z: Mapping[str, Tensor], emb: Tensor, asked: Collection[str]
    ) -> dict[str, Tensor]:
        """Images (B, shown, *grid) and, in z, scalars as shown, times (B, embedding) -> a term
        (B, k) of each head that is asked."""
        out = {v: read(images) for v, read in self.read_outs.items() if v in asked}
        for v in self.regressions.keys() & out.keys():
            out[v] = out[v] + self.regressions[v](self._joined(images, z), emb)
        return {v: F.pad(x, (0, self.rest[v])) for v, x in out.items()}

    def images(self, images: Tensor, z: Mapping[str, Tensor], emb: Tensor) -> Tensor:
        """The same -> a term (B, out, *grid) of the images."""
        return self.neighbourhood(images, emb) + self.effect(self._joined(images, z), emb)

    def _joined(self, images: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        none = images.new_zeros(len(images), 0)
        return torch.cat([none, *(z[v] for v in self.states)], dim=1)


class ReadOut(nn.Module):
    """A linear function of whole latent images, an own weight for every element."""

    def __init__(self, elements: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, elements))

    def forward(self, images: Tensor) -> Tensor:
        """Latent images (B, c, ...) -> (B, out)."""
        x = images.flatten(1)
        # Adam moves every weight as far, whatever their number; this bounds how far the sum moves.
        return x @ self.weight.to(x.dtype).T / math.sqrt(x.shape[1])


class Neighbourhood(nn.Module):
    """A linear function of an element's neighbourhood: one everywhere, another at other times."""

    def __init__(self, dims: int, shown: int, out: int, embedding: int) -> None:
        super().__init__()
        hidden = 4 * out  # how many filters an output mixes, in a proportion that times set
        self.filters = Conv[Conv.CONV, dims](shown, hidden, 3, padding=1, bias=False)
        self.gain = nn.Linear(embedding, hidden)
        self.out = Conv[Conv.CONV, dims](hidden, out, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, images: Tensor, emb: Tensor) -> Tensor:
        """Images (B, shown, *grid), times (B, embedding) -> (B, out, *grid)."""
        h = self.filters(images)
        gain = 1 + self.gain(F.silu(emb))
        return self.out(h * gain.view(*gain.shape, *[1] * (h.ndim - 2)))


class Effect(nn.Module):
    """A linear function of the scalars, for a scalar or for every element of the images.

    An effect of age on the brain has its places, and where the input has nothing of the image, a
    convolution does not know where it is. How much of the effect the rest of the record does not
    already show is a matter of the times.
    """

    RATE = 4  # so that effects of size 1 are in reach of a few hundred of Adam's steps

    def __init__(self, scalars: int, out: int, grid: tuple[int, ...], embedding: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(scalars, out, *grid))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images alone: torch warns of weights of no element
            self.gain = nn.Linear(embedding, scalars)

    def forward(self, scalars: Tensor, emb: Tensor) -> Tensor:
        """Scalars (B, k), times (B, embedding) -> (B, out, *grid), of a scalar (B, out)."""
        gain = self.RATE * (1 + self.gain(F.silu(emb)))
        return torch.tensordot(scalars * gain, self.weight.to(scalars.dtype), dims=1)
