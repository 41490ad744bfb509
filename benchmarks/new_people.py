"""Whether stated spreads are true of people nobody has seen: as many as it takes to tell.

    python benchmarks/new_people.py FOLDER MODEL [MODEL ...] [--people 4000] [--draws 40]

600 test people leave two points open in how many an interval holds, which is as much as is to be
shown. So other simulated people (2D slices, as those of configs/experiments/simulated-slices.yaml)
are drawn, and kept in FOLDER, and every model is asked for their age given the image, in one
evaluation. Beside them stands the exact posterior, stated as a normal of its spread. With --draws
the first 24 are answered by so many samples, too, in turn and along a trajectory, whose variance
should be that which is stated.
"""

from __future__ import annotations

import argparse
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
from metavoxel.model import MetaVoxel, best_device, load_model

SEED = 77  # of the people; the experiments' have 0
LEVELS = (50, 80, 90, 95)
FEW = 24  # people of whom samples are drawn


def row(name: str, answers: SystemAnswers, table: Table) -> str:
    truth = table.scalars["age"]
    predictive = predictive_for(answers, "age", np.arange(len(truth)))
    scores = continuous_scores(
        truth, answers.points["age"], predictive, None, Bootstrap(table.subjects)
    )
    held = " / ".join(f"{100 * scores[f'coverage_{level}'].value:.1f}" for level in LEVELS)
    return f"| {name} | {scores['mae']} | {scores['crps']} | {scores['dispersion']} | {held} |"


def sampled_over_stated(
    model: MetaVoxel, table: Table, said: SystemAnswers, draws: int, in_turn: bool
) -> float:
    """The variance of samples over that which one evaluation states."""
    images = {v: x[:FEW] for v, x in table.images.items()}
    settings = model.config.sampling.model_copy(update={"scalars_in_turn": in_turn})
    drawn = answer(model, ["age"], images, FEW, draws, 0, settings).samples["age"]
    return float(drawn.var(1, ddof=1).mean() / np.square(said.spreads["age"][:FEW]).mean())


def main(folder: Path, models: list[Path], people: int, draws: int) -> None:
    cohort = folder / f"people-{people}"
    if not cohort.exists():
        simulate(cohort, people, SEED, resolution=4.0, missing=0.0, slices=True)
    levels = " / ".join(map(str, LEVELS))
    print(f"| n = {people} | MAE | CRPS | variance / squared error | {levels} % intervals hold |")
    print("|---|---|---|---|---|")
    for i, place in enumerate(models):
        model = load_model(place, best_device())
        table = as_table(model.schema, read_cohort(cohort, model.schema))
        if i == 0:
            exact = exact_answers(cohort, model.schema, "age", tuple(table.subjects))
            assert exact is not None  # a simulated cohort has its truth
            print(row(EXACT, exact, table))
        said = answer(model, ["age"], table.images, len(table), count=0, seed=0)
        print(row(str(place), said, table), flush=True)
        if draws:
            turn, path = (sampled_over_stated(model, table, said, draws, x) for x in (True, False))
            print(f"  its samples have {turn:.2f} of the variance that it states,", end=" ")
            print(f"{path:.2f} along a trajectory", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Stated spreads, on new simulated people")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", type=Path, nargs="+", help="of 2D simulated slices")
    parser.add_argument("--people", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=0, help="samples of each of the first people")
    given = parser.parse_args()
    main(given.folder, given.models, given.people, given.draws)
