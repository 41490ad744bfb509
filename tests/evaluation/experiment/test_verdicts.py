"""Verdicts: what a paired bootstrap over subjects has shown, by a margin set before looking."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import binom

from folders import AGE, SEX, schema
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.experiment.config import read_experiment
from metavoxel.evaluation.experiment.results import Pooled
from metavoxel.evaluation.experiment.verdicts import (
    BETTER,
    INFERIOR,
    NO_WORSE,
    NOT_SHOWN,
    chance_of_a_tie,
    verdict,
    verdict_rows,
    verdict_table,
)
from metavoxel.evaluation.experiment.work import Experiment, Run
from metavoxel.evaluation.scores import Bootstrap, Score, mean_of

CONFIGS = Path(__file__).parents[3] / "configs" / "experiments"
SEEDS, SUBJECTS = (5, 6), 40


def test_the_locked_plan_is_read_and_its_folds_and_seeds_are_new() -> None:
    this = Experiment(read_experiment(CONFIGS / "locked.yaml"), CONFIGS, Path("unused"))
    this.check("locked.yaml")
    splits = {this.run_config("all variables", run).training.split.seed for run in this.runs}
    used, drawn = set(), set()
    for path in CONFIGS.glob("ixi*.yaml"):
        other = Experiment(read_experiment(path), CONFIGS, Path("unused"))
        used |= {*other.config.seeds}
        first = next(iter(other.config.trainings))
        drawn |= {other.run_config(first, run).training.split.seed for run in other.runs}
    assert not used & {*this.config.seeds} and not drawn & splits
    assert len(this.config.seeds) == 5 and this.config.margins == {"age": 0.5, "sex": 0.03}
    assert {plan.weights for plan in this.config.systems.values()} == {"best", "last", "both"}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 2.0, BETTER),
        (-0.4, 2.0, NO_WORSE),
        (-0.4, -0.1, NO_WORSE),  # it is worse, and by less than the margin
        (-2.0, 2.0, NOT_SHOWN),
        (-2.0, -0.1, NOT_SHOWN),
        (-2.0, -0.6, INFERIOR),
        (math.nan, math.nan, NOT_SHOWN),
    ],
)
def test_a_verdict_follows_from_the_interval(low: float, high: float, said: str) -> None:
    assert verdict(Score((low + high) / 2, low, high, 9), margin=0.5) == said


def test_a_true_tie_is_shown_as_often_as_the_power_says() -> None:
    """145 subjects, a standard error of 0.33 years and a margin of 0.5: one time in three."""
    rng, runs, n = np.random.default_rng(0), 150, 145
    people = Bootstrap([str(i) for i in range(n)])
    gains = rng.normal(0, 0.33 * np.sqrt(n), (runs, n))
    shown = sum(verdict(people.score(mean_of(x)), 0.5) in (BETTER, NO_WORSE) for x in gains)
    power = chance_of_a_tie(0.33, 0.5)
    assert power == pytest.approx(1 / 3, abs=0.02)
    low, high = binom.ppf([1e-3, 1 - 1e-3], runs, power)
    assert low <= shown <= high


def pooled(point: np.ndarray, truth: np.ndarray) -> Pooled:
    """Every subject in two seeds (2, n), flat."""
    subjects = [f"sub-{i:02d}" for _ in SEEDS for i in range(SUBJECTS)]
    cells = [f"{s} seed {k}" for k, s in enumerate(subjects)]
    run = np.repeat([0, 1], SUBJECTS)
    flat = truth.reshape(-1), point.reshape(-1)
    return Pooled(*flat, None, None, None, None, subjects, cells, run)


def rows(ours: np.ndarray, theirs: np.ndarray, name: str, margin: float) -> dict[str, Any]:
    """The one comparison of two systems' answers (2, n) where the truth is 0."""
    truth = np.zeros((2, SUBJECTS))
    config = SimpleNamespace(reference="ours", margins={name: margin})
    runs = [Run(0, seed) for seed in SEEDS]
    this = SimpleNamespace(config=config, schema=schema(age=AGE, sex=SEX), runs=runs)
    found = {"ours": pooled(ours, truth), "theirs": pooled(theirs, truth)}
    (row,) = verdict_rows(cast(Experiment, this), {("q", name): found})
    return row


def test_the_gain_is_paired_over_subjects_with_all_their_seeds() -> None:
    """Errors that vary by ten years among subjects and differ by 0.1 between systems: a paired
    interval sees it. A second seed that repeats the first adds nothing to how sure it is."""
    rng = np.random.default_rng(1)
    ours = np.tile(rng.uniform(5, 25, SUBJECTS), (2, 1))
    theirs = ours + np.tile(rng.normal(0.1, 0.2, SUBJECTS), (2, 1))
    row = rows(ours, theirs, "age", 0.5)
    assert row["verdict"] == BETTER and row["seed_sd"] == 0
    once = Bootstrap([f"sub-{i:02d}" for i in range(SUBJECTS)]).score(mean_of((theirs - ours)[0]))
    assert row["gain"]["low"] == pytest.approx(once.low)
    assert row["gain"]["high"] == pytest.approx(once.high)


def test_the_sd_is_that_of_the_seeds_and_labels_are_better_when_right() -> None:
    """Ours is right of all in both seeds, theirs of none in the second: gains of 0 and 1."""
    ours, theirs = np.zeros((2, SUBJECTS)), np.zeros((2, SUBJECTS))
    theirs[1] = 1
    row = rows(ours, theirs, "sex", 0.03)
    assert row["gain"]["value"] == 0.5 and row["seed_sd"] == pytest.approx(0.5**0.5)
    back = rows(theirs, ours, "sex", 0.03)
    assert back["gain"]["value"] == -0.5 and back["verdict"] == INFERIOR
    head, line = verdict_table([back])
    assert line[head.index("verdict")] == INFERIOR and line[head.index("margin")] == "0.03"


@pytest.mark.parametrize(
    ("margins", "says"),
    [
        ("{height: 1}", 'there is no question that asks for "height"'),
        ("{age: 0}", "the margin of age is 0. Set it above 0."),
    ],
)
def test_a_margin_that_says_nothing_is_refused(margins: str, says: str, tmp_path: Path) -> None:
    text = (CONFIGS / "locked.yaml").read_text()
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace("margins: {age: 0.5, sex: 0.03}", f"margins: {margins}"))
    with pytest.raises(MetaVoxelError, match=says):
        read_experiment(path)
