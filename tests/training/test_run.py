"""The whole of training on the simulated cohort: it learns, from any seed, and resumes exactly."""

from __future__ import annotations

import copy
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import metavoxel as mv
from folders import scores
from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.report import as_table
from metavoxel.files.yaml import read_yaml
from metavoxel.inference.ask import ask
from metavoxel.inference.selftest import selftest_failures
from metavoxel.model import MetaVoxel
from metavoxel.training.checkpoint import BestWeights
from metavoxel.training.config import RunConfig
from metavoxel.training.examples import Examples
from metavoxel.training.joint import JointModule
from metavoxel.training.run import train
from tiny import tiny_config, tiny_settings


def truth(cohort: Path, column: str) -> dict[str, str]:
    with (cohort / "derivatives" / "truth" / "participants.tsv").open() as file:
        return {r["participant_id"]: r[column] for r in csv.DictReader(file, delimiter="\t")}


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.whole) for seed in (1, 2))]
)
def test_learns_age_and_sex_from_the_image(cohort: Path, tmp_path: Path, seed: int) -> None:
    """One evaluation beats the population mean by a quarter, and sex the commoner one.

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


@pytest.mark.whole
def test_a_run_killed_in_a_validation_makes_up_for_it(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation of a checkpoint's own step is not lost: it may be the one that is kept."""
    config = tiny_config(steps=12, validate_every=4, checkpoint_every=4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(cohort, config, whole)

    judge = BestWeights.on_validation_epoch_end

    def die(self: BestWeights, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.global_step == 8:
            raise SystemExit("killed")
        judge(self, trainer, module)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(BestWeights, "on_validation_epoch_end", die)
        train(cohort, config, killed)
    judged = []

    def note(self: BestWeights, trainer: L.Trainer, module: L.LightningModule) -> None:
        judged.append(trainer.global_step)
        judge(self, trainer, module)

    monkeypatch.setattr(BestWeights, "on_validation_epoch_end", note)
    train(cohort, config, killed, resume=True)
    assert judged == [8, 12]
    expected, resumed = (load_file(out / "denoiser.safetensors") for out in (whole, killed))
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)


def test_the_frozen_encoders_follow_the_denoiser_to_its_device(cohort: Path) -> None:
    """Lightning moves what it knows of; the loss needs the latents' Gaussian beside it."""
    schema, config = tiny_config().variables, tiny_config()
    assert schema is not None
    model = MetaVoxel(schema, config.model, {"age": scores(20, 90)})
    nothing = Examples({}, {}, {})
    module = JointModule(model, nothing, nothing, config.training).to("meta")
    module.on_fit_start()
    assert {x.device.type for x in model.state_dict().values()} == {"meta"}


def test_a_run_is_not_resumed_on_other_data(cohort: Path, tmp_path: Path) -> None:
    config = tiny_config(steps=4, validate_every=4)
    bids, out = tmp_path / "cohort", tmp_path / "model"
    shutil.copytree(cohort, bids)
    train(bids, config, out)
    shutil.rmtree(out)  # as if it had been killed before the end
    table = bids / "participants.tsv"
    header, first, *rest = table.read_text().splitlines()
    columns, cells = header.split("\t"), first.split("\t")
    cells[columns.index("age")] = "33.0"
    table.write_text("\n".join([header, "\t".join(cells), *rest]) + "\n")
    with pytest.raises(MetaVoxelError, match="values have changed since this run began"):
        train(bids, config, out, resume=True)


def test_two_processes_do_not_train_in_one_folder(cohort: Path, tmp_path: Path) -> None:
    other = (
        "import sys, time; from pathlib import Path; from metavoxel.files.writing import locked\n"
        "with locked(Path(sys.argv[1]), 'busy'): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", other, str(tmp_path / "model.training" / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(MetaVoxelError, match=r"model\.training: another process is training"):
            train(cohort, tiny_config(steps=1), tmp_path / "model")
        assert {p.name for p in (tmp_path / "model.training").iterdir()} == {"lock"}
        process.kill()
    train(cohort, tiny_config(steps=1, validate_every=1), tmp_path / "model")
    assert (tmp_path / "model" / "schema.json").is_file()


def test_an_autoencoder_that_has_seen_the_test_people_is_named(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny_settings(steps=4, validate_every=4)
    other = copy.deepcopy(first)
    other["training"]["split"]["seed"] = 1
    train(cohort, RunConfig.model_validate(first), tmp_path / "first")
    assert "test subjects" not in capsys.readouterr().err
    train(
        cohort,
        RunConfig.model_validate(other),
        tmp_path / "other",
        autoencoder=tmp_path / "first",
    )
    assert "test subjects" in " ".join(capsys.readouterr().err.split())
    assert f"taken over from {tmp_path / 'first'}" in (tmp_path / "other/README.md").read_text()
