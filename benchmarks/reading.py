"""What one network learns of a scalar from images, from decoded latents, and from latents.

    python benchmarks/reading.py PLAN EXPERIMENT [--training ours] [--question "age | image"]

EXPERIMENT is the folder in which `metavoxel experiment PLAN` trained the model whose autoencoder is
used. The ResNet, its settings and its people are those of the plan's first specialist of that kind.
Latents are spread over the image's grid, so that all see the same network; they cannot be flipped
or turned, so images are read with augmentation and without. Told are the training and the
validation people; nobody of the test fold is looked at.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track
from torch.nn.functional import interpolate

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.experiment.config import read_experiment
from metavoxel.evaluation.experiment.work import Experiment
from metavoxel.evaluation.membership import encoded, reconstructed
from metavoxel.evaluation.scores import over_subjects
from metavoxel.evaluation.specialists.config import SpecialistConfig
from metavoxel.evaluation.specialists.training import train_specialist
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model
from metavoxel.schema import Schema
from metavoxel.training.augment import Augmentation

NONE = Augmentation(flip=0, motion=0, rotation=0, translation=0, intensity=0)


def main(plan: Path, folder: Path, training: str, question: str) -> None:
    experiment = Experiment(read_experiment(plan), plan.parent, folder)
    run = experiment.runs[0]
    model = load_model(experiment.model(training, run))
    train, validation, _ = experiment.tables(run)
    config = resnet_of(experiment, question)
    print("| what is read | augmented | training error | validation error |\n|---|---|---|---|")
    ways = list(inputs(model, experiment.schema, train, validation))
    for name, schema, tables in track(ways, "Network"):
        fitted, chosen = tables
        for augmentation in (config.augmentation, NONE) if name != "latents" else (NONE,):
            with tempfile.TemporaryDirectory() as temporary:
                settings = config.model_copy(update={"augmentation": augmentation})
                specialist = train_specialist(
                    settings, schema, fitted, chosen, Path(temporary), run.seed
                )
            errors = []
            for table in tables:
                answers = specialist.answers(table)
                (v, point) = next(iter(answers.points.items()))
                errors.append(over_subjects(np.abs(point - table.scalars[v])))
            augmented = "no" if augmentation == NONE else "yes"
            print(f"| {name} | {augmented} | {errors[0]} | {errors[1]} |", flush=True)


def resnet_of(experiment: Experiment, question: str) -> SpecialistConfig:
    everyone = [s for plan in experiment.config.systems.values() for s in plan.specialists]
    first = next(s for s in everyone if s.network == "resnet")
    return SpecialistConfig.model_validate(first.model_dump() | {"question": question})


def inputs(
    model: MetaVoxel, schema: Schema, *tables: Table
) -> Iterator[tuple[str, Schema, list[Table]]]:
    """What is read, the schema that says so, and the tables with it for images."""
    (v, kind), *_ = schema.images.items()
    yield "images", schema, [*tables]
    decoded = [replace(t, images={v: reconstructed(model, v, t.images[v])}) for t in tables]
    yield "decoded latents", schema, decoded
    spread = [replace(t, images={v: latents(model, v, t.images[v])}) for t in tables]
    several = kind.model_copy(update={"channels": spread[0].images[v].shape[1]})
    yield (
        "latents",
        schema.model_copy(update={"variables": {**schema.variables, v: several}}),
        spread,
    )


def latents(model: MetaVoxel, name: str, images: np.ndarray) -> np.ndarray:
    """The latents (n, c, *grid) of images, every element as large as the voxels that it is of."""
    z = encoded(model, name, images)
    return interpolate(z, size=images.shape[2:]).numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--training", default="ours")
    parser.add_argument("--question", default="age | image")
    arguments = parser.parse_args()
    main(arguments.plan, arguments.experiment, arguments.training, arguments.question)
