"""The run configuration: one YAML file from which a model follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from metavoxel.data.bids import Cohort
from metavoxel.data.columns import subject_column
from metavoxel.data.splits import Split, column_split, fold_split, fraction_split
from metavoxel.errors import MetaVoxelError
from metavoxel.files.yaml import read_yaml
from metavoxel.model_config import ModelConfig
from metavoxel.schema import Schema
from metavoxel.settings import Strict, explain
from metavoxel.training.augment import Augmentation
from metavoxel.training.autoencoder import AutoencoderTraining


class FractionSplit(Strict):
    """Train / validation / test by fractions of the subjects; the paper's 89 / 1 / 10 %."""

    kind: Literal["fractions"] = "fractions"
    train: float = Field(default=0.89, gt=0, le=1, description="share of the subjects to train on")
    validation: float = Field(default=0.01, gt=0, lt=1, description="share that picks the epoch")
    test: float = Field(default=0.10, ge=0, lt=1, description="share that is never touched")
    seed: int = Field(default=0, ge=0)

    def in_fold(self, fold: int) -> dict[str, int]:
        """What another fold of an experiment changes: the draw."""
        return {"seed": fold}

    def make(self, cohort: Cohort) -> Split:
        return fraction_split(cohort.subjects, self.seed, (self.train, self.validation, self.test))


class FoldSplit(Strict):
    """One of k folds is the test fold; a share of the others is the validation split."""

    kind: Literal["folds"] = "folds"
    folds: int = Field(default=5, ge=2, description="number of folds")
    fold: int = Field(default=0, ge=0, description="the fold to test on, from 0")
    validation: float = Field(default=0.1, gt=0, lt=1, description="share of the other folds")
    seed: int = Field(default=0, ge=0)

    def in_fold(self, fold: int) -> dict[str, int]:
        """What another fold of an experiment changes."""
        return {"fold": fold}

    def make(self, cohort: Cohort) -> Split:
        return fold_split(cohort.subjects, self.folds, self.fold, self.seed, self.validation)


class ColumnSplit(Strict):
    """The subjects of some values of a column are the test fold, as when a site is left out."""

    kind: Literal["column"] = "column"
    column: str = Field(description="of participants.tsv, such as site; it need be no variable")
    test: tuple[str, ...] = Field(
        default=(), description="values to test on; by default the one that `fold` numbers"
    )
    fold: int = Field(
        default=0, ge=0, description="which of the column's values, in sorted order, from 0"
    )
    validation: float = Field(default=0.1, gt=0, lt=1, description="share of the other subjects")
    seed: int = Field(default=0, ge=0, description="of who validates")

    @model_validator(mode="after")
    def _either(self) -> ColumnSplit:
        if self.test and self.fold:
            raise ValueError(f"test names the values to test on, so fold {self.fold} says nothing")
        return self

    def in_fold(self, fold: int) -> dict[str, int]:
        """What another fold of an experiment changes: the value left out, or who validates."""
        return {"seed": fold} if self.test else {"fold": fold}

    def make(self, cohort: Cohort) -> Split:
        values = subject_column(cohort.root, self.column)
        test = self.test or (self._value([values[s] for s in cohort.subjects if s in values]),)
        return column_split(cohort.subjects, values, self.column, test, self.seed, self.validation)

    def _value(self, values: Sequence[str]) -> str:
        found = sorted({*values})
        if self.fold >= len(found):
            raise MetaVoxelError(
                f'There is no fold {self.fold}: column "{self.column}" has {len(found)} values '
                f"({', '.join(found)}), numbered from 0."
            )
        return found[self.fold]


SplitConfig = Annotated[FractionSplit | FoldSplit | ColumnSplit, Field(discriminator="kind")]


class JointTraining(Strict):
    """The joint stage: the denoiser on frozen encodings (Eq. 5)."""

    steps: int = Field(default=10_000, ge=1, description="optimiser steps")
    batch_size: int = Field(default=16, ge=1, description="records per step and device")
    learning_rate: float = Field(default=3e-4, gt=0, description="AdamW; the paper leaves it open")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW")
    warmup_steps: int = Field(default=100, ge=0, description="linear warm-up; cosine decay follows")
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="of the averaged weights that are kept"
    )
    copies: int = Field(
        default=8, ge=1, description="encodings cached per image: one as it is, the rest augmented"
    )
    augmentation: Augmentation = Field(default_factory=Augmentation)
    validate_every: int = Field(default=500, ge=1, description="steps between validations")
    checkpoint_every: int = Field(
        default=200, ge=1, description="steps between checkpoints for --resume"
    )
    validation_draws: int = Field(
        default=8, ge=1, description="draws of (t, noise) per validation record"
    )
    calibration_folds: int = Field(
        default=5,
        ge=0,
        description="folds of the cross-fit that calibrates answers about scalars: of them, as "
        "many as take half of the training's time again are answered by networks that were trained "
        "on the others; 0: no calibration",
    )
    answer_samples: int = Field(
        default=8,
        ge=0,
        description="samples per validation record behind the logged CRPS, where scalars diffuse; "
        "0 turns the logged answers off",
    )
    answer_steps: int = Field(
        default=10,
        ge=1,
        description="reverse steps behind the logged CRPS, where scalars diffuse",
    )
    answers_every: int = Field(default=4, ge=1, description="validations between logged answers")


class TrainingConfig(Strict):
    """Both stages."""

    seed: int = Field(default=0, ge=0, description="seed of everything random in training")
    precision: Literal["auto", "32", "bf16"] = Field(
        default="auto",
        description="bf16 runs the network under autocast, the loss stays in float32; "
        "auto: bf16 where the machine has instructions for it",
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads; all by default")
    split: SplitConfig = Field(default_factory=FractionSplit)
    hidden: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="share of the scalar values of the training records that are hidden, to see "
        "what missing ones cost; the seed draws them, so those of 0.3 are among those of 0.6",
    )
    complete_rows_only: bool = Field(
        default=False,
        description="drop training records with anything missing (for comparison only)",
    )
    autoencoder: AutoencoderTraining = Field(default_factory=AutoencoderTraining)
    joint: JointTraining = Field(default_factory=JointTraining)

    def check(self, schema: Schema) -> None:
        """Raises MetaVoxelError if an image lacks the axis that augmentation flips."""
        for stage, settings in {"autoencoder": self.autoencoder, "joint": self.joint}.items():
            axis = settings.augmentation.flip_axis
            for v, image in schema.images.items():
                if axis is not None and axis >= image.spatial_dims:
                    raise MetaVoxelError(
                        f"training.{stage}.augmentation.flip_axis is {axis}, but {v} is "
                        f"{image.spatial_dims}D: name an axis below {image.spatial_dims}."
                    )


class RunConfig(Strict):
    """What `metavoxel train --config` reads."""

    variables: Schema | None = Field(
        default=None, alias="schema", description="inferred from the BIDS folder if left out"
    )
    resolution: float | None = Field(
        default=None, gt=0, description="voxel size in millimetres of an inferred schema"
    )
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def read_config(path: Path | str) -> RunConfig:
    """Read a run configuration. Raises MetaVoxelError naming the file and key at fault."""
    data = read_yaml(path)
    if isinstance(data, dict) and "variables" in data and "schema" not in data:
        raise MetaVoxelError(
            f"{path}: this is a schema, not a run configuration. Put it under a key, schema."
        )
    try:
        config = RunConfig.model_validate({} if data is None else data)
    except ValidationError as error:
        raise explain(error, str(path)) from None
    config.model.check()
    return config
