"""Settings of specialists side by side, judged on the validation people of every fold.

    python benchmarks/specialists.py SETTINGS PLAN OUT [--jobs 2]

SETTINGS is a YAML file of specialists by name, all for one question; PLAN an experiment, whose
cohort, folds and first seed are taken. Each specialist is trained in each fold and asked about that
fold's validation people, who also chose its step; nobody of a test fold is looked at. What is
trained is kept in OUT: stopped, the command goes on. The last column compares with the first
specialist, person by person.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.experiment.config import read_experiment
from metavoxel.evaluation.experiment.pieces import slug
from metavoxel.evaluation.experiment.work import Experiment
from metavoxel.evaluation.scores import over_subjects
from metavoxel.evaluation.specialists.config import SpecialistConfig
from metavoxel.evaluation.specialists.training import train_specialist
from metavoxel.schema import Schema, read_yaml


@dataclass(frozen=True)
class Training:
    """One specialist of one fold, and where it is kept."""

    config: SpecialistConfig
    schema: Schema
    training: Table
    validation: Table
    folder: Path
    seed: int


@dataclass(frozen=True)
class Found:
    """The step that was chosen, its loss, and the errors of the validation people (n,)."""

    step: int
    loss: float
    errors: np.ndarray


def main(settings: Path, plan: Path, out: Path, jobs: int) -> None:
    experiment = Experiment(read_experiment(plan), plan.parent, out)
    specialists = {k: SpecialistConfig.model_validate(x) for k, x in read_yaml(settings).items()}
    if len({config.question for config in specialists.values()}) > 1:
        raise MetaVoxelError(f"{settings}: give all specialists the same question.")
    runs = [run for run in experiment.runs if run.seed == experiment.runs[0].seed]
    parts = {run: experiment.tables(run)[:2] for run in runs}
    work = [
        Training(
            config, experiment.schema, *parts[run], out / slug(name) / slug(str(run)), run.seed
        )
        for name, config in specialists.items()
        for run in runs
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _share_cores, (jobs,)) as pool:
        found = list(track(pool.map(trained, work), "Training", len(work)))
    print(
        "| settings | steps chosen | loss | error | better than the first |\n|---|---|---|---|---|"
    )
    first = np.concatenate([x.errors for x in found[: len(runs)]])
    for i, name in enumerate(specialists):
        mine = found[i * len(runs) : (i + 1) * len(runs)]
        errors = np.concatenate([x.errors for x in mine])
        loss = np.mean([x.loss for x in mine])
        gain = over_subjects(first - errors) if i else "–"
        steps = ", ".join(str(x.step) for x in mine)
        print(f"| {name} | {steps} | {loss:.3f} | {over_subjects(errors)} | {gain} |")


def trained(this: Training) -> Found:
    """Train, or read what is trained, and ask: absolute errors of a number, 1 for a wrong label."""
    specialist = train_specialist(
        this.config, this.schema, this.training, this.validation, this.folder, this.seed
    )
    ((name, point),) = specialist.answers(this.validation).points.items()
    truth = this.validation.scalars[name]
    wrong = np.abs(point - truth) if name in this.schema.continuous else 1.0 * (point != truth)
    best = read_yaml(this.folder / "best.json")
    return Found(best["step"], best["validation/score"], wrong[~np.isnan(truth)])


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.settings, arguments.plan, arguments.out, arguments.jobs)
