"""Learning on the real cohorts, small enough for every run of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import metavoxel as mv
from folders import real
from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.evaluation.report import as_table
from metavoxel.inference.ask import ask
from metavoxel.training.config import RunConfig
from metavoxel.training.run import train
from tiny import tiny_settings


@pytest.mark.real
@pytest.mark.whole
def test_reads_brain_volume_off_unseen_brains(tmp_path: Path) -> None:
    """At 8 mm, in a minute: the brain's volume within 60 % of the population's own error."""
    settings = tiny_settings(steps=200)
    image = {"kind": "image", "shape": [24, 32, 24], "spacing": [8, 8, 8], "centre": [1, -17, 7]}
    image["entities"] = {"space": "MNI152", "desc": "brain"}
    volume = {"kind": "continuous", "unit": "mL", "range": [1000, 2000]}
    sex = {"kind": "categorical", "labels": ["F", "M"]}
    settings["schema"] = {"variables": {"image": image, "brain_volume": volume, "sex": sex}}
    settings["training"]["split"] = {"kind": "folds", "folds": 5, "fold": 0}
    cohort = real("ixi/derivatives/brain")
    train(cohort, RunConfig.model_validate(settings), tmp_path / "model")

    model = mv.load(tmp_path / "model").network
    test = read_cohort(cohort, model.schema).only(read_split(tmp_path / "model/split.json").test)
    table = as_table(model.schema, test)
    images = torch.from_numpy(table.images["image"])
    drawn = ask(model, ["brain_volume"], {"image": images}, len(images), samples=0, seed=0)
    truth = table.scalars["brain_volume"]
    error = np.abs(drawn.point["brain_volume"].numpy() - truth).mean()
    assert error < 0.6 * np.abs(truth - truth.mean()).mean()
