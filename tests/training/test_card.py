"""What a trained model folder says of its own answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import metavoxel as mv
from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.evaluation.cohort import as_table
from metavoxel.evaluation.systems import answer
from metavoxel.inference.calibration import calibrate
from metavoxel.model_folder import load_model
from metavoxel.training.config import RunConfig
from metavoxel.training.run import train
from tiny import tiny_config, tiny_settings


def test_the_calibration_is_that_of_the_validation_answers(cohort: Path, tmp_path: Path) -> None:
    """As anyone would fit it with the saved model; 8 bits are lost where training keeps images."""
    train(cohort, tiny_config(steps=4, validate_every=4), tmp_path / "model")
    written = json.loads((tmp_path / "model" / "calibration.json").read_text())
    stored = written["one_evaluation"]
    assert [*stored] == ["age"]
    model = load_model(tmp_path / "model")
    validation = read_split(tmp_path / "model" / "split.json").validation
    table = as_table(model.schema, read_cohort(cohort, model.schema).only(validation))
    said = answer(model.to(torch.device("cpu")), ["age"], table.images, len(table), 0, seed=0)
    fit = calibrate(said.points["age"], said.spreads["age"], table.scalars["age"]).to_json()
    assert stored["age"]["n"] == fit["n"] == np.sum(~np.isnan(table.scalars["age"]))
    assert stored["age"]["normalised"]
    ours, theirs = stored["age"]["conformal_quantiles"], fit["conformal_quantiles"]
    assert ours["0.5"] == pytest.approx(theirs["0.5"], rel=0.05)
    assert [k for k, q in ours.items() if q is None] == [k for k, q in theirs.items() if q is None]

    scores = written["scores"]["age"]
    error = np.nanmean(np.abs(said.points["age"] - table.scalars["age"]))
    assert scores["mae"] == pytest.approx(error, rel=0.05)
    assert 0 < scores["crps"] < scores["mae"] and scores["calibration"] > 0
    assert "given the images, in one evaluation, on" in (tmp_path / "model/README.md").read_text()


def test_scalars_that_diffuse_are_scored_by_their_samples(cohort: Path, tmp_path: Path) -> None:
    settings = tiny_settings(steps=4, validate_every=4)
    settings["model"]["diffusion"] = {"scalars": "diffusion"}
    train(cohort, RunConfig.model_validate(settings), tmp_path / "model")
    written = json.loads((tmp_path / "model" / "calibration.json").read_text())
    assert (written["samples"], written["steps"]) == (16, 20)
    assert {*written["scores"]} == {"age", "sex", "diagnosis"}
    card = (tmp_path / "model/README.md").read_text()
    assert "given the images, 16 samples, 20 steps, on" in card
    assert not (tmp_path / "model" / "posterior.json").exists()
    assert mv.load(tmp_path / "model").ask("sex | age=50")["sex"].label in "FM"
