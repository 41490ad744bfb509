"""The experiments of the repository, as their files say them."""

from __future__ import annotations

from pathlib import Path

import pytest

from metavoxel.evaluation.experiment.config import read_experiment
from metavoxel.evaluation.experiment.work import Experiment

EXPERIMENTS = sorted((Path(__file__).parents[3] / "configs" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_can_be_read_and_so_can_each_of_its_trainings(path: Path) -> None:
    this = Experiment(read_experiment(path), path.parent, Path("unused"))
    this.check(str(path))
    for name in this.config.trainings:
        for run in this.runs:
            this.run_config(name, run).model.check()
