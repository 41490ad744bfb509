"""The whole of training on the simulated cohort: it learns, from any seed, and resumes exactly."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import metavoxel as mv
from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.evaluation.report import as_table
from metavoxel.inference.ask import ask
from metavoxel.inference.selftest import selftest_failures
from metavoxel.schema import read_yaml
from metavoxel.training.run import train
from tiny import tiny_config, tiny_settings


def truth(cohort: Path, column: str) -> dict[str, str]:
    with (cohort / "derivatives" / "truth" / "participants.tsv").open() as file:
        return {r["participant_id"]: r[column] for r in csv.DictReader(file, delimiter="\t")}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_age_and_sex_from_the_image(cohort: Path, tmp_path: Path, seed: int) -> None:
    """One evaluation beats the population mean by a quarter, and sex beats chance by 15 points.

    The exact posterior given the true measurements has a mean absolute error of about 5 years and
    gets about 80 % of the sexes right: that is the best there is.
    """
    out = tmp_path / "model"
    train(cohort, tiny_config(seed), out)
    model = mv.load(out).network
    test = read_cohort(cohort, model.schema).only(read_split(out / "split.json").test)
    images = torch.from_numpy(as_table(model.schema, test).images["image"])
    drawn = ask(model, ["age", "sex"], {"image": images}, len(images), samples=0, seed=0)

    ages = np.array([float(truth(cohort, "age")[r.subject]) for r in test.records])
    error = np.abs(drawn.point["age"].numpy() - ages).mean()
    assert error < 0.75 * np.abs(ages - ages.mean()).mean()

    sexes = np.array(["FM".index(truth(cohort, "sex")[r.subject]) for r in test.records])
    correct = (drawn.point["sex"].argmax(1).numpy() == sexes).mean()
    assert correct > max(sexes.mean(), 1 - sexes.mean()) + 0.05
    assert correct > 0.6
    assert selftest_failures(model, read_yaml(out / "selftest.json")) == []


def test_a_killed_run_resumes_bit_for_bit(cohort: Path, tmp_path: Path) -> None:
    """kill -9 at a random moment of the joint stage, then --resume: the same weights to the bit."""
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(tiny_settings(steps=60, validate_every=20)))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(cohort, config, whole).wait() == 0

    process = start(cohort, config, killed)
    checkpoint = tmp_path / "killed.training" / "joint" / "last.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    time.sleep(random.uniform(0, 1.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()

    assert start(cohort, config, killed, "--resume").wait() == 0
    for name in ("autoencoder", "denoiser"):
        expected = load_file(whole / f"{name}.safetensors")
        resumed = load_file(killed / f"{name}.safetensors")
        assert all(torch.equal(expected[k], resumed[k]) for k in expected)


def start(cohort: Path, config: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "metavoxel", "train", str(cohort), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--config", str(config), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
