"""Whether stated spreads are true of people nobody has seen: as many as it takes to tell.

    python benchmarks/new_people.py FOLDER MODEL [MODEL ...] [--people 4000] [--draws 40]
        [--given VARIABLE ...]

600 test people leave two points open in how many an interval holds, which is as much as is to be
shown. So other simulated people (2D slices, as those of configs/experiments/simulated-slices.yaml)
are drawn, and kept in FOLDER, and every model is asked for their age given the image, in one
evaluation. Beside them stands the exact posterior, stated as a normal of its spread. With --draws
the first 24 are answered by so many samples, too, whose variance should be that which is stated
(of models whose scalars diffuse nothing is stated but the mean).

With --given they are asked the age given other variables than the image, or given none. Beside the
models then stand the people themselves: the ages of those who are alike in what is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from metavoxel.data.bids import read_cohort
from metavoxel.data.simulate import simulate
from metavoxel.evaluation.cohort import Table, as_table
from metavoxel.evaluation.experiment.exact import EXACT, exact_answers
from metavoxel.evaluation.measures import continuous_scores
from metavoxel.evaluation.scores import Bootstrap
from metavoxel.evaluation.scoring import predictive_for
from metavoxel.evaluation.systems import SystemAnswers, answer
from metavoxel.model import MetaVoxel, best_device
from metavoxel.model_folder import load_model

SEED = 78  # of the people; the experiments' have 0, those that the engine was made with 77
LEVELS = (50, 80, 90, 95)
Known = Mapping[str, np.ndarray]
FEW = 24  # people of whom samples are drawn


def alike(table: Table, given: Sequence[str]) -> SystemAnswers:
    """The ages of the people who have the same labels, as 100 quantiles."""
    ages = table.scalars["age"]
    labels = np.stack([np.zeros(len(ages)), *(table.scalars[v] for v in given)], 1)
    group = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    levels = (np.arange(100) + 0.5) / 100
    of = [ages[group == g] for g in range(group.max() + 1)]
    points, spreads = (np.array([f(x) for x in of])[group] for f in (np.mean, np.std))
    samples = np.stack([np.quantile(x, levels) for x in of])[group]
    return SystemAnswers({"age": points}, {"age": samples}, {}, {"age": spreads})


def row(name: str, answers: SystemAnswers, table: Table) -> str:
    truth = table.scalars["age"]
    predictive = predictive_for(answers, "age", np.arange(len(truth)))
    scores = continuous_scores(
        truth, answers.points["age"], predictive, None, Bootstrap(table.subjects)
    )
    held = " / ".join(f"{100 * scores[f'coverage_{level}'].value:.1f}" for level in LEVELS)
    return f"| {name} | {scores['mae']} | {scores['crps']} | {scores['dispersion']} | {held} |"


def sampled_over_stated(model: MetaVoxel, known: Known, said: SystemAnswers, draws: int) -> float:
    """The variance of samples over that which one evaluation states."""
    few = {v: x[:FEW] for v, x in known.items()}
    drawn = answer(model, ["age"], few, FEW, draws, 0).samples["age"]
    return float(drawn.var(1, ddof=1).mean() / np.square(said.spreads["age"][:FEW]).mean())


def main(folder: Path, models: list[Path], people: int, draws: int, given: list[str]) -> None:
    cohort = folder / f"people-{people}-seed-{SEED}"
    if not cohort.exists():
        simulate(cohort, people, SEED, resolution=4.0, missing=0.0, slices=True)
    levels = " / ".join(map(str, LEVELS))
    print(f"| n = {people} | MAE | CRPS | variance / squared error | {levels} % intervals hold |")
    print("|---|---|---|---|---|")
    for i, place in enumerate(models):
        model = load_model(place, best_device())
        table = as_table(model.schema, read_cohort(cohort, model.schema))
        known = {v: x for v, x in {**table.images, **table.scalars}.items() if v in given}
        if i == 0 and given == ["image"]:
            exact = exact_answers(cohort, model.schema, "age", tuple(table.subjects))
            assert exact is not None  # a simulated cohort has its truth
            print(row(EXACT, exact, table))
        elif i == 0 and "image" not in given:
            print(row("people alike", alike(table, given), table))
        said = answer(model, ["age"], known, len(table), count=0, seed=0)
        print(row(str(place), said, table), flush=True)
        if draws and said.spreads:
            share = sampled_over_stated(model, known, said, draws)
            print(f"  its samples have {share:.2f} of the variance that it states", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Stated spreads, on new simulated people")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", type=Path, nargs="+", help="of 2D simulated slices")
    parser.add_argument("--people", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=0, help="samples of each of the first people")
    parser.add_argument("--given", nargs="*", default=["image"], help="what is known of them")
    options = parser.parse_args()
    main(options.folder, options.models, options.people, options.draws, options.given)
