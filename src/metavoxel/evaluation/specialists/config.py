"""The settings of specialists: how a network is trained, and what it is to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from metavoxel.errors import MetaVoxelError
from metavoxel.inference.query import Question, parse_question
from metavoxel.schema import Schema
from metavoxel.settings import Strict
from metavoxel.training.augment import Augmentation

Network = Literal["densenet", "vit", "resnet"]
Weights = Literal["best", "last"]  # averaged: of the step that validation chose, or the last one

# What served best of what was tried, where it differs from the fields: docs/howto/specialists.md.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "densenet": {"learning_rate": 1e-3, "dropout": 0.0, "ema_decay": 0.95},
    "vit": {"learning_rate": 3e-4, "weight_decay": 0.1, "centred": False},
    "resnet": {"dropout": 0.2, "centred": False},
}


class DenseNetSize(Strict):
    """MONAI's DenseNet; blocks (6, 12, 24, 16), 64 features and growth 32 are DenseNet121."""

    blocks: tuple[int, ...] = Field(
        default=(6, 12, 24),
        min_length=1,
        description="layers per block; the last ones are left out where the grid is too small",
    )
    init_features: int = Field(default=32, ge=1, description="channels of the first convolution")
    growth_rate: int = Field(default=16, ge=1, description="channels that every layer adds")
    norm: Literal["batch", "group"] = Field(
        default="batch",
        description="batch is DenseNet121's; group does not depend on the batch size",
    )
    stem_pooling: bool = Field(default=True, description="halve the grid after the first layer")

    @model_validator(mode="after")
    def _groups_divide(self) -> DenseNetSize:
        channels = self.init_features
        for layers in self.blocks:  # a transition halves what a block adds up to
            if self.norm == "group" and (channels % 4 or self.growth_rate % 4):
                raise ValueError("norm group needs channels in fours: choose other widths or batch")
            channels = (channels + layers * self.growth_rate) // 2
        return self


class ViTSize(Strict):
    """MONAI's vision transformer, with a class token."""

    patch: int = Field(default=8, ge=1, description="voxels along an edge; the image is padded")
    hidden_size: int = Field(default=192, ge=1, description="width; a multiple of the heads")
    layers: int = Field(default=6, ge=1, description="transformer blocks")
    heads: int = Field(default=6, ge=1, description="attention heads")
    positions: Literal["learnable", "sincos"] = Field(
        default="learnable", description="embedding of a patch's place: learnt, or fixed waves"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> ViTSize:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {self.heads}")
        if self.positions == "sincos" and self.hidden_size % 12:
            # A sine and a cosine for each of two or three axes.
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 12, as waves need"
            )
        return self


class ResNetSize(Strict):
    """MONAI's ResNet of basic blocks; (2, 2, 2, 2) at 64 channels is ResNet18, ones ResNet10."""

    layers: tuple[int, int, int, int] = Field(
        default=(1, 1, 1, 1), description="basic blocks of each of the four stages"
    )
    width: int = Field(default=32, ge=1, description="channels of the first stage, then doubled")
    stem_pooling: bool = Field(default=True, description="halve the grid after the first layer")
    joint_features: int = Field(
        default=64, ge=1, description="units that read the image's features and the known scalars"
    )

    @property
    def features(self) -> int:
        """Channels of the last stage."""
        return 8 * self.width


class NetworkTraining(Strict):
    """How the network of a specialist is trained, whatever it is to answer."""

    steps: int = Field(default=400, ge=1, description="optimiser steps")
    batch_size: int = Field(default=8, ge=2, description="records per step")
    learning_rate: float = Field(default=5e-4, gt=0, description="AdamW")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW")
    warmup_steps: int = Field(default=20, ge=0, description="linear warm-up; cosine decay follows")
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="in every layer; resnet: before its answer"
    )
    ema_decay: float = Field(default=0.98, ge=0, lt=1, description="of the averaged weights")
    validate_every: int = Field(
        default=20, ge=1, description="steps between validations, which pick the weights"
    )
    checkpoint_every: int = Field(default=100, ge=1, description="steps between checkpoints")
    centred: bool = Field(
        default=True,
        description="subtract the training images' mean image, for images in one space",
    )
    augmentation: Augmentation = Field(
        default=Augmentation(rotation=3, translation=3, intensity=0.05),
        description="drawn anew for every image of every step",
    )
    precision: Literal["auto", "32", "bf16"] = Field(
        default="auto", description="as of the joint model; auto: bf16 where it is sound and fast"
    )
    resnet: ResNetSize = Field(default_factory=ResNetSize)

    def check_augmentation(self, schema: Schema) -> None:
        """Raises MetaVoxelError if the images lack the axis that is flipped."""
        name, image = next(iter(schema.images.items()))  # all images of a schema share one grid
        axis = self.augmentation.flip_axis
        if axis is not None and axis >= image.spatial_dims:
            raise MetaVoxelError(
                f"augmentation.flip_axis is {axis}, but {name} is {image.spatial_dims}D: name an "
                f"axis below {image.spatial_dims}."
            )


class SpecialistConfig(NetworkTraining):
    """One network trained for one question; what is left out has the network's own default."""

    network: Network = Field(
        description="densenet and vit see known scalars as constant channels; resnet joins them at "
        "the feature level, as BRAID"
    )
    question: str = Field(description='one scalar, given an image, as "age | image, sex"')
    densenet: DenseNetSize = Field(default_factory=DenseNetSize)
    vit: ViTSize = Field(default_factory=ViTSize)

    @model_validator(mode="before")
    @classmethod
    def _tuned(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {**_DEFAULTS.get(str(data.get("network")), {}), **data}

    @field_validator("question")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            return str(parse_question(value))
        except MetaVoxelError as error:
            raise ValueError(str(error)) from None

    def checked(self, schema: Schema) -> Question:
        """The question. Raises MetaVoxelError if no specialist can answer it, or be augmented."""
        question = parse_question(self.question).check(schema)
        if len(question.asked) != 1 or question.asked[0] not in schema.scalars:
            raise MetaVoxelError(
                f'"{question}": a specialist answers one scalar. Ask for one of '
                f"{', '.join(schema.scalars)}."
            )
        if not any(v in schema.images for v in question.given):
            raise MetaVoxelError(
                f'"{question}": a specialist reads an image. Add {" or ".join(schema.images)} to '
                "the right of the bar."
            )
        self.check_augmentation(schema)
        return question


class MultitaskConfig(NetworkTraining):
    """One ResNet for every question about scalars that gives the images.

    What is left out has the default of the specialist of that network.
    """

    dropout: float = Field(default=0.2, ge=0, lt=1, description="before its answers")
    centred: bool = Field(default=False, description="subtract the training images' mean image")
    validation_draws: int = Field(
        default=4, ge=1, description="subsets of known scalars of each validation record"
    )


def check_multitask_question(
    question: Question, scalars: Sequence[str], images: Sequence[str]
) -> None:
    """Raises MetaVoxelError unless a question asks for scalars and gives every image."""
    if any(v not in scalars for v in question.asked):
        raise MetaVoxelError(
            f'"{question}": the multi-task specialist answers scalars. Ask for '
            f"{', '.join(scalars)}."
        )
    if missing := [v for v in images if v not in question.given]:
        raise MetaVoxelError(
            f'"{question}": the multi-task specialist reads every image. Add {", ".join(missing)} '
            "to the right of the bar."
        )
