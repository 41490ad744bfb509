"""The settings of the network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from metavoxel.settings import Strict

# Half of a time's embedding are sines, half are cosines.
Even = Annotated[int, Field(ge=2, multiple_of=2)]


class ReaderConfig(Strict):
    """A full-resolution image head: a ResNet10 that predicts scalars from known images, decoded."""

    width: int = Field(
        default=32, ge=8, multiple_of=8, description="channels of the first stage, then doubled"
    )
    features: int = Field(
        default=64, ge=1, description="units that join the image's features with the record's rest"
    )
    dropout: float = Field(
        default=0.2, ge=0, lt=1, description="of the image's features, and of the joint ones"
    )


class DenoiserConfig(Strict):
    """The LDM U-Net in 2D or 3D, with a head per scalar on its bottleneck (section 3.2)."""

    channels: tuple[Even, ...] = Field(
        default=(64, 128), min_length=1, description="width of every level"
    )
    residual_blocks: int = Field(default=1, ge=1, description="residual blocks per level")
    attention_levels: tuple[int, ...] = Field(
        default=(),
        description="levels with self- and cross-attention, 0 is the finest; the bottleneck "
        "always has them",
    )
    head_channels: int = Field(default=32, ge=1, description="channels of one attention head")
    groups: int = Field(default=16, ge=1, description="groups of the group normalisation")
    token_channels: Even = Field(
        default=64, description="width of a variable's cross-attention token"
    )
    scalar_head_channels: int = Field(default=64, ge=1, description="width inside a scalar's head")
    linear_parts: bool = Field(
        default=True,
        description="whether linear maps stand beside the U-Net, from images and from scalars to "
        "scalars, between neighbours in an image, and from scalars to images, or the U-Net alone "
        "(the paper)",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of bottleneck channels that training hides from the scalars' heads",
    )
    reader: ReaderConfig | None = Field(
        default=None,
        description="a full-resolution image head: a ResNet that predicts scalars from a record's "
        "images if all of them are known; none: from the latent alone (the paper)",
    )
