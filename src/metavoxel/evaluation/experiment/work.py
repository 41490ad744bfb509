"""The pieces of an experiment: what is trained, asked and generated, and where it is kept."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from metavoxel.data.bids import Cohort, read_cohort
from metavoxel.data.simulate import simulate
from metavoxel.data.splits import Split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table, as_table, identity, join
from metavoxel.evaluation.experiment.coded import as_labels, as_numbers, codings
from metavoxel.evaluation.experiment.config import ExperimentConfig, Simulation, SystemPlan
from metavoxel.evaluation.experiment.opponents import Opponent, asked_of, networks
from metavoxel.evaluation.experiment.pieces import Piece, Pieces, slug
from metavoxel.evaluation.questions import answer_question, records_with, rows_of
from metavoxel.evaluation.specialists.config import (
    MultitaskConfig,
    SpecialistConfig,
    check_multitask_question,
)
from metavoxel.evaluation.systems import (
    SIMPLE,
    Kept,
    answers_at_once,
    baseline_answers,
)
from metavoxel.files.writing import atomic_write
from metavoxel.inference.ask import ask
from metavoxel.inference.query import Question, parse_question
from metavoxel.model import MetaVoxel, best_device
from metavoxel.model_folder import load_model
from metavoxel.schema import Categorical, Schema
from metavoxel.training.config import RunConfig
from metavoxel.training.hidden import hide
from metavoxel.training.run import train
from metavoxel.version import __version__


@dataclass(frozen=True)
class Run:
    """One fold under one seed."""

    fold: int
    seed: int

    @property
    def draws(self) -> int:
        """The seed of the images that are drawn in it. Drawn from one noise, those of all folds
        would be alike: they are counted together, as if each were another."""
        return int(np.random.SeedSequence([self.seed, self.fold]).generate_state(1)[0])

    def __str__(self) -> str:
        return f"fold {self.fold}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Experiment:
    """A configuration, the folder that it came from, and the folder of its results.

    Where a piece keeps what it makes follows from the settings that it depends on: another setting
    is another place, and nothing is mistaken for what it is not.
    """

    config: ExperimentConfig
    source: Path
    out: Path
    _configs: dict[tuple[str, Run], RunConfig] = field(default_factory=dict, repr=False)

    @property
    def runs(self) -> list[Run]:
        return [Run(*each) for each in itertools.product(self.config.folds, self.config.seeds)]

    @property
    def questions(self) -> list[Question]:
        return [parse_question(text) for text in self.config.questions]

    @property
    def bids(self) -> Path:
        cohort = self.config.cohort
        return self.out / "cohort" if isinstance(cohort, Simulation) else self.source / cohort

    @cached_property
    def schema(self) -> Schema:
        """The variables of all trainings together; labels where one has labels and one codes."""
        variables: dict[str, Any] = {}
        for name in self.config.trainings:
            found = self.run_config(name, self.runs[0]).variables
            assert found is not None  # read_experiment has seen to it
            for v, kind in found.variables.items():
                if v not in variables or isinstance(kind, Categorical):
                    variables[v] = kind
        return Schema(variables=variables)

    def check(self, where: str) -> None:
        """Refuse variables that no training has. Raises MetaVoxelError."""
        named = [v for q in self.questions for v in (*q.asked, *q.given)]
        named += self.config.images.given if self.config.images is not None else ()
        for v in named:
            if v not in self.schema:
                raise MetaVoxelError(f'{where}: no training has a variable "{v}".')
        for name, plan in self.config.systems.items():
            for question in self.asked(name) if plan.multitask is not None else []:
                check_multitask_question(question, [*self.schema.scalars], [*self.schema.images])

    @cached_property
    def cohort(self) -> Cohort:
        return read_cohort(self.bids, self.schema)

    def run_config(self, training: str, run: Run) -> RunConfig:
        """The run configuration of a training, read once."""
        if (training, run) not in self._configs:
            plan = self.config.trainings[training]
            self._configs[training, run] = plan.run_config(
                self.source, run.fold, run.seed, self.config.set
            )
        return self._configs[training, run]

    def split(self, run: Run) -> Split:
        first = next(iter(self.config.trainings))
        return self.run_config(first, run).training.split.make(self.cohort)

    def tables(self, run: Run) -> tuple[Table, Table, Table]:
        """Training, validation and test records with images."""
        split = self.split(run)
        parts = [self.cohort.only(s) for s in (split.train, split.validation, split.test)]
        training, validation, test = (as_table(self.schema, part) for part in parts)
        return training, validation, test

    def opponent(
        self, plan: SystemPlan, config: SpecialistConfig | MultitaskConfig, run: Run
    ) -> Opponent:
        """A network of a system, with what it may see of the training records. Systems that differ
        in nothing that it is trained with share its folder."""
        split = self.split(run)
        seen = hide(self.cohort.only(split.train), plan.hidden, run.seed)
        training, validation = (
            as_table(self.schema, part) for part in (seen, self.cohort.only(split.validation))
        )
        named = config.question if isinstance(config, SpecialistConfig) else "every question"
        people = identity(self.cohort, [r.id for r in self.cohort.records], {*self.schema})
        facts = config.model_dump(mode="json"), plan.hidden, people, split.made, __version__
        name = f"fold-{run.fold}-seed-{run.seed}-{_digest(*facts)}"
        folder = self.out / "specialists" / slug(named) / name
        return Opponent(config, self.schema, training, validation, folder, run.seed)

    def model(self, training: str, run: Run) -> Path:
        """The model folder of a training."""
        settings = self.run_config(training, run).model_dump(mode="json", by_alias=True)
        plan, source = self.config.trainings[training], None
        if plan.autoencoder is not None:
            source = self.model(plan.autoencoder, run).name
        name = f"fold-{run.fold}-seed-{run.seed}-{_digest(settings, source)}"
        return self.out / "models" / slug(training) / name

    def answers(self, system: str, run: Run) -> Kept:
        """Where the answers of a system to the test records of a run are kept."""
        plan, records = self.config.systems.get(system), [r.id for r in self.cohort.records]
        people = identity(self.cohort, records, self._read_by(system, run))
        facts: list[Any] = [people, self.split(run).made, run.seed, __version__]
        if plan is not None:
            facts.append(plan.model_dump(mode="json", exclude={"questions"}))
            if plan.training is not None:
                facts.append(self.model(plan.training, run).name)
        folder = self.out / "answers" / slug(system) / f"fold-{run.fold}-seed-{run.seed}"
        return Kept(folder, _digest(*facts))

    def _read_by(self, system: str, run: Run) -> set[str]:
        """The variables that the answers of a system depend on."""
        plan = self.config.systems.get(system)
        if plan is None:  # the baselines answer everything
            return {*self.schema}
        if plan.multitask is not None:  # it learns from everything
            return {*self.schema}
        if plan.training is not None:
            variables = self.run_config(plan.training, run).variables
            assert variables is not None  # read_experiment has seen to it
            return {*variables}
        return {v for q in self.asked(system) for v in (*q.asked, *q.given)}

    def asked(self, system: str) -> list[Question]:
        """The questions that a system answers."""
        plan = self.config.systems.get(system)
        if plan is None:
            return self.questions
        if plan.specialists:
            return [parse_question(s.question) for s in plan.specialists]
        return [parse_question(q) for q in plan.questions or self.config.questions]

    @property
    def pieces(self) -> Path:
        """The folder of the records of what is done."""
        return self.out / "pieces"

    def done(self, piece: Piece) -> bool:
        """Whether a piece is done as the configuration is now."""
        return Pieces(self.pieces, ()).done(piece)

    def images(self, training: str, run: Run) -> Path:
        """Where the generated images of a training are kept."""
        plan = self.config.images
        asked = plan and [plan.count, plan.given, training in plan.conditional, run.draws]
        name = f"{self.model(training, run).name}-{_digest(asked)[:6]}.npz"
        return self.out / "images" / slug(training) / name


def work(experiment: Experiment) -> list[Piece]:
    """Every piece that trains, asks and generates: what a model is asked follows its training.

    A training of all folds comes before the next one, so that what is done is done in every fold.
    """
    pieces, config = [], experiment.config
    if isinstance(config.cohort, Simulation):
        key = config.cohort.model_dump_json()
        pieces.append(Piece("cohort", bound(_simulate, experiment), lambda: key))
    needs = tuple(piece.name for piece in pieces)
    for name in config.trainings:
        for run in experiment.runs:
            pieces.append(_training_piece(experiment, name, run, needs))
            pieces += _answers(experiment, name, run, needs)
            pieces += _generated(experiment, name, run)
    for run in experiment.runs:
        if config.baselines:
            do = bound(_baselines, experiment, run)
            key_of = _key_of(experiment, SIMPLE, run)
            pieces.append(Piece(f"baselines, {run}", do, key_of, needs))
        pieces += _answers(experiment, None, run, needs)
    return pieces


def _simulate(experiment: Experiment, console: Console) -> None:
    plan = experiment.config.cohort
    assert isinstance(plan, Simulation)
    simulate(experiment.bids, **plan.model_dump())


def _training_piece(experiment: Experiment, name: str, run: Run, needs: tuple[str, ...]) -> Piece:
    source = experiment.config.trainings[name].autoencoder
    own = (training_of(source, run),) if source else ()
    do = bound(_train, experiment, name, run)
    return Piece(training_of(name, run), do, _name_of(experiment.model, name, run), needs + own)


def training_of(name: str, run: Run) -> str:
    return f"train {name}, {run}"


def bound(do: Callable[..., None], *arguments: Any) -> Callable[[Console], None]:
    return lambda console: do(*arguments, console)


def _name_of(place: Callable[..., Path], *arguments: Any) -> Callable[[], str]:
    return lambda: place(*arguments).name


def _train(experiment: Experiment, name: str, run: Run, console: Console) -> None:
    """Train, or go on with, a joint model."""
    folder, plan = experiment.model(name, run), experiment.config.trainings[name]
    if folder.exists():
        return
    source = experiment.model(plan.autoencoder, run) if plan.autoencoder else None
    own = folder.with_name(f"{folder.name}.training")
    resume = (own / "run.yaml").exists()
    if source is not None and not resume:
        _link_cache(source.with_name(f"{source.name}.training") / "cache", own / "cache")
    train(
        experiment.bids,
        experiment.run_config(name, run),
        folder,
        resume=resume,
        autoencoder=source,
        console=console,
    )
    for scratch in own.glob("**/last.ckpt"):
        scratch.unlink()
    if source is not None:
        shutil.rmtree(own / "cache", ignore_errors=True)


def _link_cache(source: Path, target: Path) -> None:
    """What another training has read and encoded; where it differs, it is made anew."""
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.link(path, place)


def _answers(
    experiment: Experiment, training: str | None, run: Run, needs: tuple[str, ...]
) -> Iterator[Piece]:
    """Of the systems of a training, or of specialists."""
    for name, plan in experiment.config.systems.items():
        if plan.training == training:
            own = (training_of(training, run),) if training else ()
            do = _ask_model if training else _ask_specialists
            asked = bound(do, experiment, name, plan, run)
            yield Piece(f"ask {name}, {run}", asked, _key_of(experiment, name, run), needs + own)


def _key_of(experiment: Experiment, system: str, run: Run) -> Callable[[], str]:
    def key() -> str:
        questions = [str(question) for question in experiment.asked(system)]
        return _digest(experiment.answers(system, run).key, questions)

    return key


def _baselines(experiment: Experiment, run: Run, console: Console) -> None:
    training, validation, test = experiment.tables(run)
    kept = experiment.answers(SIMPLE, run)
    baseline_answers(experiment.schema, join(training, validation), test, kept, lambda *_: None)


def _ask_model(
    experiment: Experiment, name: str, plan: SystemPlan, run: Run, console: Console
) -> None:
    assert plan.training is not None
    model = load_model(experiment.model(plan.training, run), best_device())
    _, _, test = experiment.tables(run)
    kept, settings = experiment.answers(name, run), plan.settings(model.config.sampling)
    if plan.samples == 0 and not answers_at_once(model, settings):
        raise MetaVoxelError(
            f"{name}: this model answers by sampling; give the system a number of samples."
        )
    coded = codings(experiment.schema, model.schema)
    for question in experiment.asked(name):
        if kept.read(str(question)) is None:
            table = as_numbers(rows_of(test, records_with(question, test)), coded)
            said = answer_question(model, question, table, plan.samples, run.seed, settings)
            kept.write(str(question), as_labels(said, coded))


def _ask_specialists(
    experiment: Experiment, name: str, plan: SystemPlan, run: Run, console: Console
) -> None:
    _, _, test = experiment.tables(run)
    kept = experiment.answers(name, run)
    for config in networks(plan):
        questions = asked_of(config, experiment.asked(name))
        left = [question for question in questions if kept.read(str(question)) is None]
        if left:
            opponent = experiment.opponent(plan, config, run)
            opponent.train()
            for question in left:
                rows = rows_of(test, records_with(question, test))
                kept.write(str(question), opponent.answers(question, rows, plan.weights))


def _generated(experiment: Experiment, name: str, run: Run) -> Iterator[Piece]:
    plan = experiment.config.images
    if plan is not None and name in (*plan.trainings, *plan.conditional):
        do = bound(_generate, experiment, name, run)
        key = _name_of(experiment.images, name, run)
        yield Piece(generation(name, run), do, key, (training_of(name, run),))


def generation(name: str, run: Run) -> str:
    return f"generate {name}, {run}"


def _generate(experiment: Experiment, name: str, run: Run, console: Console) -> None:
    """Unconditional images, and images for the values of the test subjects, in their order."""
    path, plan = experiment.images(name, run), experiment.config.images
    if path.exists() or plan is None:
        return
    model = load_model(experiment.model(name, run), best_device())
    out: dict[str, np.ndarray] = {}
    if name in plan.trainings:
        out |= {f"free/{v}": x for v, x in _drawn(model, {}, plan.count, run.draws).items()}
    if name in plan.conditional:
        _, _, test = experiment.tables(run)
        rows = np.flatnonzero(np.all([~np.isnan(test.scalars[v]) for v in plan.given], axis=0))
        known = {v: test.scalars[v][rows] for v in plan.given}
        numbers = as_numbers(test, codings(experiment.schema, model.schema)).scalars
        drawn = _drawn(model, {v: numbers[v][rows] for v in known}, len(rows), run.draws)
        out |= {f"asked/{v}": x for v, x in drawn.items()}
        out |= {"rows": rows, **{f"given/{v}": x for v, x in known.items()}}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **out)


def _drawn(
    model: MetaVoxel, known: dict[str, np.ndarray], n: int, seed: int
) -> dict[str, np.ndarray]:
    """One image for each of n records, as 8 bit (n, C, *grid)."""
    given = {v: torch.from_numpy(x) for v, x in known.items()}
    drawn = ask(model, [*model.schema.images], given, n, 1, seed).samples
    return {v: (x[:, 0].clamp(0, 1) * 255).round().byte().numpy() for v, x in drawn.items()}


def _digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
