"""What an experiment is made of: one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.specialists.config import MultitaskConfig, SpecialistConfig
from metavoxel.files.yaml import read_yaml
from metavoxel.inference.limits import MOST_SAMPLES
from metavoxel.inference.query import parse_question
from metavoxel.settings import Strict, explain
from metavoxel.training.config import RunConfig, read_config


class Simulation(Strict):
    """A simulated cohort, made when the experiment first runs (`metavoxel simulate`)."""

    subjects: int = Field(ge=10, description="number of subjects")
    seed: int = Field(default=0, ge=0)
    resolution: float = Field(default=4.0, gt=0, description="voxel size in mm")
    missing: float = Field(default=0.0, ge=0, lt=1, description="share of the cells left n/a")
    slices: bool = Field(default=False, description="2D: one axial slice a subject")


class TrainingPlan(Strict):
    """A joint model that is trained, once for every fold and seed."""

    config: Path = Field(description="run configuration, relative to the experiment's file")
    variables: tuple[str, ...] | None = Field(
        default=None, description="these of the configuration's variables only; all by default"
    )
    autoencoder: str | None = Field(
        default=None, description="another training, whose autoencoder of the same fold is used"
    )
    set: dict[str, Any] = Field(
        default_factory=dict,
        description="what differs from the configuration, such as {training.joint.steps: 500}",
    )

    def run_config(
        self, folder: Path, fold: int, seed: int, common: Mapping[str, Any]
    ) -> RunConfig:
        """The run configuration of a fold; `common` is what differs in every training.

        Raises MetaVoxelError naming the key at fault.
        """
        path = folder / self.config
        known = read_config(path).variables or ()
        data: dict[str, Any] = dict(read_yaml(path) or {})
        if self.variables is not None:
            unknown = [v for v in self.variables if v not in known]
            if unknown:
                raise MetaVoxelError(f'{path}: there is no variable "{unknown[0]}".')
            variables = data["schema"]["variables"]
            data["schema"] = {"variables": {v: variables[v] for v in self.variables}}
        try:
            for key, value in {**common, **self.set, "training.seed": seed}.items():
                _put(data, key.split("."), value)
            split = RunConfig.model_validate(data).training.split
            data["training"]["split"] = split.model_dump() | split.in_fold(fold)
            config = RunConfig.model_validate(data)
        except ValidationError as error:
            raise explain(error, str(path)) from None
        config.model.check()
        return config


class SystemPlan(Strict):
    """What answers questions: a training, asked in some way; or specialists, one a question; or
    one multi-task specialist."""

    training: str | None = Field(default=None, description="name of the training")
    samples: int = Field(
        default=0, ge=0, le=MOST_SAMPLES, description="samples an answer; 0: one evaluation"
    )
    sampling: dict[str, Any] = Field(
        default_factory=dict, description="what differs from the model's sampling settings"
    )
    questions: tuple[str, ...] | None = Field(
        default=None, description="these of the experiment's questions only; all by default"
    )
    specialists: tuple[SpecialistConfig, ...] = ()
    multitask: MultitaskConfig | None = Field(
        default=None, description="one network for all questions that ask scalars of all images"
    )
    weights: Literal["best", "last", "both"] = Field(
        default="best",
        description="of specialists: averaged weights of the step that validation chose, or of the "
        "last step; both: the mean of what these two networks answer",
    )
    hidden: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="share of the scalar values of the training records that is hidden from "
        "specialists: the very values that training.hidden hides from a training of the same seed",
    )

    def settings(self, own: SamplingConfig) -> SamplingConfig:
        """The sampling settings of a model whose own are given. Raises MetaVoxelError."""
        try:
            return SamplingConfig.model_validate(own.model_dump() | self.sampling)
        except ValidationError as error:
            raise explain(error, "the experiment's sampling settings") from None


class AnatomyPlan(Strict):
    """What is read off the images that are asked for by group, by a reader of real images."""

    columns: tuple[str, ...] = Field(min_length=1, description="such as ventricle_volume")
    table: Path | None = Field(
        default=None, description="where they are, relative to the cohort; participants.tsv"
    )
    along: str = Field(description="the given continuous variable that they change with")
    per: float = Field(default=10.0, gt=0, description="of its units")


class ImagesPlan(Strict):
    """Generated images, and what is measured of them."""

    trainings: tuple[str, ...] = Field(description="of which models")
    count: int = Field(
        default=30, ge=4, le=MOST_SAMPLES, description="generated by each model of a fold"
    )
    extractor: str = Field(
        default="gist", description="of the features behind the Fréchet distance, MMD and KID"
    )
    given: tuple[str, ...] = Field(
        default=(),
        description="scalars given when images are drawn by group, with values of test subjects",
    )
    conditional: tuple[str, ...] = Field(
        default=(), description="models asked for images by group (Figure D.5)"
    )
    memorisation: tuple[str, ...] = Field(
        default=(), description="models whose images are held beside their training images"
    )
    anatomy: AnatomyPlan | None = None


class ExperimentConfig(Strict):
    """What `metavoxel experiment` reads."""

    title: str
    cohort: Path | Simulation = Field(description="BIDS folder, or a simulated cohort's settings")
    folds: tuple[int, ...] = Field(
        default=(0,), description="folds of the split, from 0; by a column: its values in order"
    )
    seeds: tuple[int, ...] = Field(default=(0,), description="seeds of the training")
    set: dict[str, Any] = Field(
        default_factory=dict,
        description="what differs from the configuration of every training, before its own `set`",
    )
    trainings: dict[str, TrainingPlan]
    systems: dict[str, SystemPlan]
    questions: tuple[str, ...] = Field(description='such as "age | image, sex"')
    reference: str = Field(description="the system that the others are compared with")
    margins: dict[str, float] = Field(
        default_factory=dict,
        description="by scalar: how much worse than another system the reference may be and still "
        "be called no worse, in the variable's unit or as a share of right labels; set before "
        "looking",
    )
    baselines: bool = Field(default=True, description="population mean, and ridge on the voxels")
    images: ImagesPlan | None = None

    def check(self, where: str) -> None:
        """Refuse names that nobody has. Raises MetaVoxelError."""

        def known(names: dict[str, Any], wanted: list[str | None], what: str) -> None:
            for name in wanted:
                if name is not None and name not in names:
                    raise MetaVoxelError(f'{where}: there is no {what} "{name}".')

        known(self.trainings, [t.autoencoder for t in self.trainings.values()], "training")
        known(self.trainings, [s.training for s in self.systems.values()], "training")
        known(self.systems, [self.reference], "system")
        if self.images is not None:
            plan = self.images
            known(
                self.trainings, [*plan.trainings, *plan.conditional, *plan.memorisation], "training"
            )
            drawn = dict.fromkeys(plan.trainings)
            known(drawn, [*plan.memorisation], "training among those of images.trainings,")
            if plan.anatomy is not None:
                known(dict.fromkeys(plan.given), [plan.anatomy.along], "given variable")
        asked = {v for text in self.questions for v in parse_question(text).asked}
        known(dict.fromkeys(asked), [*self.margins], "question that asks for")
        for name, margin in self.margins.items():
            if not margin > 0:
                raise MetaVoxelError(
                    f"{where}: the margin of {name} is {margin:g}. Set it above 0."
                )
        for name, system in self.systems.items():
            kinds = system.training, system.specialists or None, system.multitask
            if sum(kind is not None for kind in kinds) != 1:
                raise MetaVoxelError(
                    f"{where}: give {name} either a training or specialists or multitask."
                )
            if system.training is not None and system.hidden:
                raise MetaVoxelError(
                    f"{where}: {name} has a training, which hides values itself. Set "
                    "training.hidden there."
                )
            known(dict.fromkeys(self.questions), [*(system.questions or ())], "question")
            known(
                dict.fromkeys(self.questions), [s.question for s in system.specialists], "question"
            )


def read_experiment(path: Path) -> ExperimentConfig:
    """Read an experiment. Raises MetaVoxelError naming the file and key at fault."""
    try:
        config = ExperimentConfig.model_validate(read_yaml(path))
    except ValidationError as error:
        raise explain(error, str(path)) from None
    config.check(str(path))
    return config


def _put(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for i, key in enumerate(keys[:-1]):
        inner = data.get(key) or {}
        if not isinstance(inner, dict):
            above = ".".join(keys[: i + 1])
            raise MetaVoxelError(
                f'There is no key {".".join(keys)} to set: {above} is "{inner}". Set {above}.'
            )
        data[key] = dict(inner)
        data = data[key]
    data[keys[-1]] = value
