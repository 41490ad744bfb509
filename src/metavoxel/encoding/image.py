"""Images between [0, 1] and the space they diffuse in (section 3.1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, final

import torch
from einops import rearrange
from monai.networks.nets import AutoencoderKL
from pydantic import Field, model_validator
from torch import Tensor, nn

from metavoxel.errors import MetaVoxelError
from metavoxel.linear_gaussian.given_scalars import GivenScalars, ScalarFeatures
from metavoxel.linear_gaussian.images import FactorGaussian
from metavoxel.memory_format import channels_last
from metavoxel.schema import Image
from metavoxel.settings import Strict


class EncodingConfig(Strict):
    """What every encoding has."""

    covariance_rank: int = Field(
        default=32,
        ge=0,
        description="directions in which the elements of the latent vary together, kept with their "
        "mean and std for the LMMSE estimate that the network corrects; 0: elements independent",
    )


class IdentityConfig(EncodingConfig):
    """No autoencoder: the voxels themselves diffuse. For small images."""

    kind: Literal["identity"] = "identity"


class KLConfig(EncodingConfig):
    """The KL-regularised autoencoder of LDM, in 2D or 3D."""

    kind: Literal["kl"] = "kl"
    factor: Literal[2, 4, 8] = Field(
        default=4,
        description="how many times smaller the latent grid is, per axis; the paper takes 8",
    )
    patch: Literal[1, 2, 4] = Field(
        default=2,
        description="voxels per axis folded into channels before the first convolution, counted "
        "in the factor; 1 is the paper, 2 makes training on a CPU several times cheaper",
    )
    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(32, 64), description="width of every level; log2(factor / patch) + 1 levels"
    )
    latent_channels: int = Field(default=8, ge=1, description="channels of the latent")
    residual_blocks: int = Field(default=1, ge=1, description="residual blocks per level")
    groups: int = Field(default=16, ge=1, description="groups of the group normalisation")
    shortcut: bool = Field(
        default=True,
        description="a linear path beside the network, from blocks of factor voxels per axis to "
        "the latent and back, begun at their principal components: training starts from a "
        "recognisable image; false is the paper",
    )
    attention: bool = Field(
        default=False, description="self-attention on the coarsest level, as in LDM"
    )

    @model_validator(mode="after")
    def _levels_agree(self) -> KLConfig:
        if self.patch > self.factor:
            raise ValueError(f"patch {self.patch} is larger than factor {self.factor}")
        levels = int(math.log2(self.factor // self.patch)) + 1
        if len(self.channels) != levels:
            raise ValueError(
                f"factor {self.factor} with patch {self.patch} needs {levels} widths in channels, "
                f"not {len(self.channels)}"
            )
        uneven = [width for width in self.channels if width % self.groups]
        if uneven:
            raise ValueError(f"channels must be multiples of groups ({self.groups}): {uneven[0]}")
        return self


ImageEncoding = Annotated[IdentityConfig | KLConfig, Field(discriminator="kind")]

# Of an element of z. Where the training images never vary, one that does must be within reach.
_LEAST_STD = 0.05


class ImageEncoder(nn.Module, ABC):
    """Images x (B, C, *grid) in [0, 1] <-> latents z (B, c, *latent grid) of mean 0, variance 1.

    z is the latent less its mean image, in units of one scale for all elements, such that the
    variance is 1 on average. A kind of encoder is `embed` and `render`; all else follows from the
    two.

    What the latents of the training set are like is kept in buffers, which are saved with the
    weights: the mean and std of every element and the directions in which elements vary together;
    if images follow scalars, also `effects` (R, c, *latent grid), the directions in which the mean
    of z moves with them, and `given`, how far it moves and how the spread changes.
    """

    latent_mean: Tensor
    latent_std: Tensor
    latent_factors: Tensor
    effects: Tensor | None

    def __init__(
        self,
        latent_channels: int,
        factor: int,
        grid: Sequence[int],
        rank: int,
        scalars: ScalarFeatures | None,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.factor = factor
        elements = (latent_channels, *self.latent_shape(grid))
        self.register_buffer("latent_mean", torch.zeros(elements))
        self.register_buffer("latent_std", torch.ones(elements))
        self.register_buffer("latent_factors", torch.zeros(rank, *elements))
        self.given = None if scalars is None else GivenScalars(scalars, rank)
        directions = None if self.given is None else len(self.given.directions)
        self.register_buffer(
            "effects", None if directions is None else torch.zeros(directions, *elements)
        )

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """x (B, C, *grid) in [0, 1] -> latents (B, c, *latent grid) before standardisation."""

    @abstractmethod
    def render(self, latent: Tensor) -> Tensor:
        """Latents before standardisation -> images, about [0, 1], not clamped."""

    @final
    def encode(self, x: Tensor) -> Tensor:
        """x (B, C, *grid) in [0, 1] -> z (B, c, *latent grid)."""
        return (self.embed(x) - self.latent_mean) / self._scale

    @final
    def decode(self, z: Tensor) -> Tensor:
        """z (B, c, *latent grid) -> x (B, C, *grid), clamped to [0, 1]."""
        return self.render(z * self._scale + self.latent_mean).clamp(0, 1)

    @final
    def reconstruct(self, x: Tensor) -> Tensor:
        """x (B, C, *grid) in [0, 1] -> what is left of it after encoding and decoding."""
        return self.render(self.embed(x)).clamp(0, 1)

    @final
    def latent_shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The latent grid of an image grid. Raises MetaVoxelError if the factor does not fit."""
        require_divisible(grid, self.factor)
        return tuple(size // self.factor for size in grid)

    @final
    def set_statistics(self, mean: Tensor, std: Tensor, factors: Tensor | None = None) -> None:
        """Store what the latents are like before standardisation.

        Their mean and std (c, *latent grid), and factors (k, c, *latent grid), k up to the rank of
        the encoding: the sum of their squares must be below the variance.
        """
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)
        self.latent_factors.zero_()
        if factors is not None:
            self.latent_factors[: len(factors)] = factors
        if self.effects is not None:
            self.effects.zero_()

    @final
    def set_effects(self, effects: Tensor, factors: Tensor) -> None:
        """Store the directions (R, c, *latent grid) in which the mean of z moves with scalars, and
        those in which elements of z vary together beside it, (k, c, *latent grid), k up to the
        rank, of which the first are those of `given`."""
        assert self.effects is not None
        self.effects.zero_()
        self.effects[: len(effects)] = effects
        self.latent_factors.zero_()
        self.latent_factors[: len(factors)] = factors * self._scale

    @final
    def gaussian(self) -> FactorGaussian:
        """The Gaussian of z over the training set; its variance is small in the background. Its
        first factors are the effects of the scalars, if any."""
        variance = (self.latent_std / self._scale).clamp_min(_LEAST_STD).square()
        factors = self.latent_factors / self._scale
        if self.effects is not None:
            factors = torch.cat([self.effects, factors])
        own = variance - factors.square().sum(0)
        return FactorGaussian(factors, own.clamp_min(_LEAST_STD**2))

    @property
    def _scale(self) -> Tensor:
        """One scale for all elements, as LDM's scale factor: the root of the mean variance.

        A scale of each element's own would blow up the background, and noise would drown the
        channels that carry the anatomy as late as those that carry texture.
        """
        return self.latent_std.square().mean().sqrt().clamp_min(1e-6)


@final
class IdentityEncoder(ImageEncoder):
    """The image itself, from [0, 1] to [-1, 1]."""

    def __init__(
        self, config: IdentityConfig, image: Image, scalars: ScalarFeatures | None = None
    ) -> None:
        super().__init__(image.channels, 1, image.shape, config.covariance_rank, scalars)

    def embed(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def render(self, latent: Tensor) -> Tensor:
        return (latent + 1) / 2


@final
class KLEncoder(ImageEncoder):
    """MONAI's AutoencoderKL behind a fixed space-to-channel stem.

    Convolutions at full resolution dominate the cost of a 3D autoencoder; the stem (`patch` > 1)
    spares them.
    """

    def __init__(
        self, config: KLConfig, image: Image, scalars: ScalarFeatures | None = None
    ) -> None:
        rank = config.covariance_rank
        super().__init__(config.latent_channels, config.factor, image.shape, rank, scalars)
        spatial_dims, channels = image.spatial_dims, image.channels
        self.patch = config.patch
        folded = channels * config.patch**spatial_dims
        self.network = AutoencoderKL(
            spatial_dims=spatial_dims,
            in_channels=folded,
            out_channels=folded,
            num_res_blocks=(config.residual_blocks,) * len(config.channels),
            channels=config.channels,
            attention_levels=(False,) * len(config.channels),
            latent_channels=config.latent_channels,
            norm_num_groups=config.groups,
            with_encoder_nonlocal_attn=config.attention,
            with_decoder_nonlocal_attn=config.attention,
        )
        # sigma begins at 0.1: at 1 its noise drowns the image for the first hundreds of steps.
        bias = self.network.get_parameter("quant_conv_log_sigma.conv.bias")
        nn.init.constant_(bias, 2 * math.log(0.1))
        channels_last(self.network)
        self.shortcut: BlockComponents | None = None
        if config.shortcut:
            self.shortcut = BlockComponents(
                config.factor, spatial_dims, channels, config.latent_channels
            )
            # The network begins as a correction of nothing to the linear path.
            blocks = self.network.decoder.get_submodule("blocks")
            last = f"decoder.blocks.{len(list(blocks.children())) - 1}"
            for layer in ("quant_conv_mu", last):
                for kind in ("weight", "bias"):
                    nn.init.zeros_(self.network.get_parameter(f"{layer}.conv.{kind}"))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std (B, c, *latent grid) of q(latent | x), before standardisation."""
        x = 2 * x - 1
        mu, sigma = self.network.encode(fold(x, self.patch))
        return (mu if self.shortcut is None else mu + self.shortcut.embed(x)), sigma

    def embed(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]

    def render(self, latent: Tensor) -> Tensor:
        x = unfold(self.network.decode(latent), self.patch)
        return ((x if self.shortcut is None else x + self.shortcut.render(latent)) + 1) / 2

    def begin(self, volumes: Iterable[Tensor]) -> None:
        """Start the linear path from data: chunks (n, C, *grid) in [0, 1]. Call before training."""
        if self.shortcut is not None:
            self.shortcut.fit(2 * x - 1 for x in volumes)


class BlockComponents(nn.Module):
    """Blocks of voxels <-> a few numbers, linearly. Begun at the blocks' principal components.

    The idea of a space-to-channel shortcut around an autoencoder is that of DC-AE (Chen et al.
    2025); that it starts from principal components rather than from block means is ours.
    """

    def __init__(self, factor: int, spatial_dims: int, channels: int, components: int) -> None:
        super().__init__()
        self.factor = factor
        block = channels * factor**spatial_dims
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.down = convolution(block, components, kernel_size=1)
        self.up = convolution(components, block, kernel_size=1)

    def embed(self, x: Tensor) -> Tensor:
        """x (B, C, *grid) in [-1, 1] -> (B, c, *grid / factor)."""
        return self.down(fold(x, self.factor))

    def render(self, latent: Tensor) -> Tensor:
        return unfold(self.up(latent), self.factor)

    @torch.no_grad()
    def fit(self, volumes: Iterable[Tensor]) -> None:
        """Set both maps to the blocks' principal components, scaled to a mean variance of 1.

        Raises MetaVoxelError if a volume is not finite.
        """
        count, total, square = 0, torch.tensor(0.0), torch.tensor(0.0)
        for x in volumes:
            blocks = fold(x, self.factor).transpose(0, 1).flatten(1).double()
            count += blocks.shape[1]
            total, square = total + blocks.sum(1).cpu(), square + (blocks @ blocks.T).cpu()
        if not bool(square.isfinite().all()):
            raise MetaVoxelError(
                "The training images hold values that are not finite numbers. Find the scan at "
                "fault and mend it, or leave it out."
            )
        mean = total / count
        variance, vectors = torch.linalg.eigh(square / count - mean[:, None] * mean)
        components = self.down.out_channels
        # A latent wider than the block keeps its surplus channels at zero.
        keep = min(components, len(mean))
        axes = vectors[:, -keep:].flip(1)
        axes = axes * torch.where(
            axes.sum(0) < 0, -1.0, 1.0
        )  # eigenvectors have no sign of their own
        # One scale for all components, so that a latent error shows alike whichever it is in.
        scale = variance[-keep:].mean().clamp_min(1e-8).sqrt()
        down, up = torch.zeros(components, len(mean)), torch.zeros(len(mean), components)
        down[:keep], up[:, :keep] = (axes / scale).T.float(), (axes * scale).float()
        self.down.weight.copy_(down.view_as(self.down.weight))
        self.up.weight.copy_(up.view_as(self.up.weight))
        self.down.bias.copy_(-(down.double() @ mean).float())
        self.up.bias.copy_(mean.float())


def fold(x: Tensor, patch: int) -> Tensor:
    """(B, C, *grid) -> (B, C * patch**d, *grid / patch): space to channels, in 2D and 3D."""
    if x.dim() == 4:
        return rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch)
    return rearrange(x, "b c (h p) (w q) (d r) -> b (c p q r) h w d", p=patch, q=patch, r=patch)


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`."""
    if x.dim() == 4:
        return rearrange(x, "b (c p q) h w -> b c (h p) (w q)", p=patch, q=patch)
    return rearrange(x, "b (c p q r) h w d -> b c (h p) (w q) (d r)", p=patch, q=patch, r=patch)


def require_divisible(grid: Sequence[int], factor: int) -> None:
    """Raise MetaVoxelError, naming the nearest grid that fits, unless `factor` divides `grid`."""
    if all(size % factor == 0 for size in grid):
        return
    nearest = [max(factor, factor * math.floor(size / factor + 0.5)) for size in grid]
    raise MetaVoxelError(
        f"The image grid {list(grid)} is not divisible by the autoencoder's factor {factor}: "
        f"set shape to {nearest} in the schema, or choose another factor."
    )


def build_encoder(
    config: IdentityConfig | KLConfig, image: Image, scalars: ScalarFeatures | None = None
) -> ImageEncoder:
    """The encoder of one image variable, which follows these features of scalars, if any. Raises
    MetaVoxelError if the factor does not fit."""
    if isinstance(config, IdentityConfig):
        return IdentityEncoder(config, image, scalars)
    return KLEncoder(config, image, scalars)
