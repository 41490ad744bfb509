"""Coherence of the answers in an experiment: of every training whose scalars have one law."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from metavoxel.evaluation.coherence import coherence, coherence_rows
from metavoxel.evaluation.experiment.coded import as_numbers, codings
from metavoxel.evaluation.experiment.pieces import Piece
from metavoxel.evaluation.experiment.work import Experiment, Run, bound, training_of
from metavoxel.evaluation.law_answers import answers_about
from metavoxel.files.json import read_object
from metavoxel.files.writing import atomic_write
from metavoxel.model import best_device
from metavoxel.model_files import json_text
from metavoxel.model_folder import load_model


def judging(experiment: Experiment) -> Iterator[Piece]:
    """A piece for every training whose law is asked for scalars, and run."""
    for training, system in _asked(experiment).items():
        for run in experiment.runs:
            yield _judgement(experiment, training, system, run)


def coherences(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """By training, by run: what `coherence` found."""
    out: dict[str, dict[str, Any]] = {}
    for training, system in _asked(experiment).items():
        for run in experiment.runs:
            path = _path(experiment, system, run)
            done = experiment.done(_judgement(experiment, training, system, run))
            if done and path.is_file():
                out.setdefault(training, {})[str(run)] = read_object(path)
    return out


def coherence_table(found: dict[str, Any]) -> list[list[str]]:
    """Measures down, runs across."""
    figures = {
        run: {title: x for title, x, _ in coherence_rows(each)} for run, each in found.items()
    }
    titles = dict.fromkeys(title for each in figures.values() for title in each)
    rows = [[title, *(each.get(title, "–") for each in figures.values())] for title in titles]
    return [["", *figures], *rows]


def _asked(experiment: Experiment) -> dict[str, str]:
    """The trainings whose law is taught to state scalars given images, each with a system of it."""
    out: dict[str, str] = {}
    for name, plan in experiment.config.systems.items():
        if plan.training is None or plan.training in out:
            continue
        config = experiment.run_config(plan.training, experiment.runs[0])
        diffusion, variables = config.model.diffusion, config.variables
        assert variables is not None  # read_experiment has seen to it
        images, scalars = [*variables.images], [*variables.scalars]
        taught = diffusion.times.build().supports(scalars, images, images, scalars)
        if diffusion.scalars == "posterior" and images and scalars and taught:
            out[plan.training] = name
    return out


def _judgement(experiment: Experiment, training: str, system: str, run: Run) -> Piece:
    do = bound(_judge, experiment, training, system, run)
    needs = (training_of(training, run),)
    key = lambda: experiment.answers(system, run).key  # noqa: E731 - one expression, like `do`
    return Piece(f"coherence of {training}, {run}", do, key, needs)


def _judge(experiment: Experiment, training: str, system: str, run: Run, console: Console) -> None:
    model = load_model(experiment.model(training, run), best_device())
    _, _, test = experiment.tables(run)
    table = as_numbers(test, codings(experiment.schema, model.schema))
    kept = experiment.answers(system, run)
    found = coherence(answers_about(model, table, run.seed, kept), run.seed)
    with atomic_write(_path(experiment, system, run)) as temporary:
        temporary.write_text(json_text(found, indent=1))


def _path(experiment: Experiment, system: str, run: Run) -> Path:
    return experiment.answers(system, run).folder / "coherence.json"
