"""The joint denoiser f(z_t, t): the LDM U-Net made 3D, with a head per scalar (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from monai.networks.layers.factories import Dropout
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn

from metavoxel.denoiser.config import DenoiserConfig
from metavoxel.denoiser.embedding import ScalarTokens, TimeEmbedding, rescaled_state
from metavoxel.denoiser.heads import ScalarHead
from metavoxel.denoiser.linear import LinearParts
from metavoxel.denoiser.reader import Reader
from metavoxel.errors import MetaVoxelError
from metavoxel.memory_format import channels_last


@dataclass(frozen=True)
class Layout:
    """What the network must know of the variables, and no more.

    `images` maps an image to (channels of its input, channels of its
    prediction); all share the latent grid `grid`. `scalars` maps a scalar to the width of what is
    shown of it. `heads` maps what is read off the bottleneck to the width of its output: that which
    linear maps of the images add to, and the rest. `channels` are those of all images together,
    decoded.
    """

    images: Mapping[str, tuple[int, int]]
    scalars: Mapping[str, int]
    heads: Mapping[str, tuple[int, int]]
    grid: tuple[int, ...]
    channels: int = 1


@dataclass(frozen=True, eq=False)
class Clean:
    """The records `rows` (n,) of a batch whose images are all known, and these images decoded
    (n, channels, *image grid), in [0, 1]."""

    rows: Tensor
    images: Tensor


class JointUNet(nn.Module):
    """Reads the whole noisy record, every variable at its own time, and predicts every variable.

    Scalars enter twice: as constant input channels and as tokens for cross-attention. The images'
    predictions are the U-Net's output; each scalar, or the evidence about all of them, has a head
    on the bottleneck. When no field is asked for, the decoder half is left out, which is most of
    the cost.
    """

    def __init__(self, layout: Layout, config: DenoiserConfig) -> None:
        super().__init__()
        self.layout = layout
        self._check(layout, config)
        dims, width = len(layout.grid), config.channels[0]
        shown = sum(shown for shown, _ in layout.images.values())
        predicted = sum(out for _, out in layout.images.values())
        self.backbone = DiffusionModelUNet(
            spatial_dims=dims,
            in_channels=shown + len(layout.scalars),
            out_channels=predicted,
            channels=config.channels,
            num_res_blocks=config.residual_blocks,
            attention_levels=tuple(
                i in config.attention_levels for i in range(len(config.channels))
            ),
            norm_num_groups=config.groups,
            num_head_channels=config.head_channels,
            with_conditioning=bool(layout.scalars),
            cross_attention_dim=config.token_channels if layout.scalars else None,
        )
        del self.backbone.time_embed  # ours takes one time per variable
        self.time = TimeEmbedding([*layout.images, *layout.scalars], 4 * width)
        self.tokens = (
            ScalarTokens(layout.scalars, config.token_channels) if layout.scalars else None
        )
        self.dropout = Dropout[Dropout.DROPOUT, dims](config.dropout)
        self.heads = nn.ModuleDict(
            {
                v: ScalarHead(
                    dims, config.channels[-1], config.scalar_head_channels, sum(out), config.groups
                )
                for v, out in layout.heads.items()
            }
        )
        self.linear = (
            LinearParts(shown, predicted, layout.grid, layout.scalars, layout.heads, 4 * width)
            if config.linear_parts
            else None
        )
        self.reader = (
            Reader(dims, layout.channels, layout.scalars, layout.heads, 4 * width, config.reader)
            if config.reader is not None and layout.scalars
            else None
        )
        channels_last(self)

    def forward(
        self,
        z: Mapping[str, Tensor],
        t: Mapping[str, Tensor],
        asked: Collection[str] | None = None,
        clean: Clean | None = None,
    ) -> dict[str, Tensor]:
        """Predict the `asked` images and heads (all of them by default).

        z[name]: (B, c, *grid) for images, (B, k) for scalars; t[name]: (B,) integers. `clean` is
        what the reader reads, if there is one.
        """
        asked = [*self.layout.images, *self.layout.heads] if asked is None else asked
        emb, context = self.time(t), self.tokens(z, t) if self.tokens is not None else None
        images = torch.cat([z[v] for v in self.layout.images], dim=1)
        bottleneck, skips = self._encode(self._input(images, z), emb, context)
        pooled = self.dropout(bottleneck)
        predictions = {v: self.heads[v](pooled) for v in self.heads if v in asked}
        if self.linear is not None:
            for v, term in self.linear.scalars(images, z, emb, asked).items():
                predictions[v] = predictions[v] + term
        if self.reader is not None and clean is not None:
            scalars = torch.cat([z[v] for v in self.layout.scalars], dim=1)
            read = self.reader(clean.images, scalars[clean.rows], emb[clean.rows], asked)
            for v, term in read.items():
                predictions[v] = predictions[v].float().index_add(0, clean.rows, term)
        if any(v in asked for v in self.layout.images):
            output = self._decode(bottleneck, skips, emb, context)
            if self.linear is not None:
                output = output + self.linear.images(images, z, emb)
            parts = output.split([out for _, out in self.layout.images.values()], dim=1)
            predictions.update(zip(self.layout.images, parts, strict=True))
        return {v: predictions[v] for v in asked}

    def _input(self, images: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        shape = (len(images), 1, *self.layout.grid)
        ones = (1,) * len(self.layout.grid)
        constants = [
            rescaled_state(z[v]).view(-1, 1, *ones).expand(shape) for v in self.layout.scalars
        ]
        return torch.cat([images, *constants], dim=1)

    def _encode(
        self, x: Tensor, emb: Tensor, context: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        h = self.backbone.conv_in(x)
        skips = [h]
        for block in self.backbone.down_blocks:
            h, residuals = block(hidden_states=h, temb=emb, context=context)
            skips.extend(residuals)
        return self.backbone.middle_block(hidden_states=h, temb=emb, context=context), skips

    def _decode(
        self, h: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor | None
    ) -> Tensor:
        for block in self.backbone.up_blocks:
            count = len(block.resnets)  # type: ignore[arg-type]  # MONAI's blocks: a ModuleList
            skips, residuals = skips[:-count], skips[-count:]
            h = block(hidden_states=h, res_hidden_states_list=residuals, temb=emb, context=context)
        return self.backbone.out(h)

    @staticmethod
    def _check(layout: Layout, config: DenoiserConfig) -> None:
        if not layout.images:
            raise MetaVoxelError("The schema has no image; the U-Net needs at least one.")
        levels = range(len(config.channels))
        if any(i not in levels for i in config.attention_levels):
            raise MetaVoxelError(
                f"denoiser.attention_levels {list(config.attention_levels)} must name levels of "
                f"denoiser.channels, 0 to {len(levels) - 1}."
            )
        halvings = 2 ** (len(config.channels) - 1)
        if any(n % halvings for n in layout.grid):
            good = [halvings * math.ceil(n / halvings) for n in layout.grid]
            raise MetaVoxelError(
                f"denoiser.channels has {len(config.channels)} levels, so every axis of the latent "
                f"grid {list(layout.grid)} must be a multiple of {halvings}. Use fewer levels, or "
                f"an image shape whose latent grid is {good}."
            )
        grouped = (*config.channels, config.scalar_head_channels)
        attending = [config.channels[i] for i in config.attention_levels] + [config.channels[-1]]
        if any(c % config.groups for c in grouped) or any(
            c % config.head_channels for c in attending
        ):
            raise MetaVoxelError(
                "denoiser.channels and denoiser.scalar_head_channels must be multiples of "
                f"denoiser.groups ({config.groups}), and the channels of levels with attention of "
                f"denoiser.head_channels ({config.head_channels})."
            )
