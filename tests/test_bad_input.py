"""Bad input through the real command line: one sentence, a status that is not 0, nothing lost."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from folders import AGE, SEX, heed_interrupts, noise, scores, write_bids, write_nifti, write_png
from metavoxel.cli import main
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_files import write_checksums
from metavoxel.model_folder import save_model
from metavoxel.schema import parse_schema

IMAGE = {"kind": "image", "shape": [8, 8, 8], "spacing": [2, 2, 2]}
MODEL = {
    "encoding": {"kind": "kl", "patch": 2, "channels": [8, 8], "latent_channels": 2, "groups": 4},
    "denoiser": {"channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8},
    "sampling": {"steps": 2, "samples": 2},
}
JOINT = {"steps": 2, "batch_size": 2, "copies": 1, "validate_every": 2, "validation_draws": 1}
ROWS = ["participant_id age sex", *(f"sub-{i:02d} {20 + 5 * i} {'FM'[i % 2]}" for i in range(8))]
SCANS = [f"sub-{i:02d}_T1w" for i in range(8)]
SCAN = "bids/sub-03/anat/sub-03_T1w.nii.gz"

Mischief = Callable[[Path], Any]


def settings(**training: Any) -> dict[str, Any]:
    autoencoder = {"steps": 2, "batch_size": 2, "adversarial_weight": 0, "validate_every": 2}
    return {
        "schema": {"variables": {"image": IMAGE, "age": AGE, "sex": SEX}},
        "model": MODEL,
        "training": {
            "split": {"kind": "folds", "folds": 4, "fold": 0},
            "autoencoder": autoencoder,
            "joint": JOINT,
            **training,
        },
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A cohort, a configuration, a model, a scan and a mask, two folders down from other tests."""
    place = tmp_path / "a" / "b"
    write_bids(place / "bids", ROWS, SCANS)
    write_yaml(place / "run.yaml", settings())
    schema = parse_schema({"variables": {"image": IMAGE, "age": AGE, "sex": SEX}}, "test")
    scalings = {"age": scores(0, 100)}
    save_model(MetaVoxel(schema, ModelConfig.model_validate(MODEL), scalings), place / "model")
    write_nifti(place / "scan.nii.gz", noise(8, 8, 8))
    write_nifti(place / "mask.nii.gz", np.pad(np.ones((4, 4, 4), np.uint8), 2))
    return place


def write_yaml(path: Path, data: object) -> None:
    path.write_text(yaml.safe_dump(data))


def run(place: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `metavoxel COMMAND` in `place`, in this process; the exit status."""
    arguments = [part.replace("~", " ") for part in command.split()]
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["metavoxel", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file under `folder`."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def one_sentence(text: str) -> str:
    """What the command printed to stderr, if it is a single line that names an error."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("Error: "), text
    assert lines[0].endswith("."), "a sentence ends with a full stop"
    assert "Traceback" not in text
    return lines[0]


def rows(*changed: str) -> Mischief:
    """participants.tsv with rows replaced (by participant) or added."""

    def spoil(place: Path) -> None:
        table = {row.split()[0]: row for row in ROWS}
        extra = []
        for row in changed:
            if row.split()[0] in table:
                table[row.split()[0]] = row
            else:
                extra.append(row.removeprefix("+"))
        write_bids(place / "bids", [*table.values(), *extra], [])

    return spoil


def column(name: str, value: str) -> Mischief:
    at = ROWS[0].split().index(name)

    def spoil(place: Path) -> None:
        table = [row.split() for row in ROWS]
        for row in table[1:]:
            row[at] = value
        write_bids(place / "bids", [" ".join(row) for row in table], [])

    return spoil


def config(**changes: Any) -> Mischief:
    return lambda place: write_yaml(place / "run.yaml", {**settings(), **changes})


def voxels(array: np.ndarray, name: str = SCAN) -> Mischief:
    return lambda place: write_nifti(place / name, array)


def content(name: str, data: bytes) -> Mischief:
    return lambda place: (place / name).write_bytes(data)


def truncated(name: str) -> Mischief:
    def spoil(place: Path) -> None:
        data = gzip.compress(gzip.decompress((place / name).read_bytes()))
        (place / name).write_bytes(data[: len(data) // 2])

    return spoil


def removed(name: str) -> Mischief:
    return lambda place: (place / name).unlink()


def listed(spoil: Mischief) -> Mischief:
    """What is spoilt in a model folder, by someone who writes the checksums anew."""

    def change(place: Path) -> None:
        spoil(place)
        write_checksums(place / "model")

    return change


def renamed(old: str, new: str) -> Mischief:
    return lambda place: [p.rename(p.with_name(p.name.replace(old, new))) for p in _scans(place)]


def _scans(place: Path) -> list[Path]:
    return sorted((place / "bids").glob("sub-*/anat/*.nii.gz"))


def whole(place: Path) -> None:
    pass


NAN = np.where(noise(8, 8, 8) > 0.9, np.nan, noise(8, 8, 8))
TRAIN = "train bids --config run.yaml --out new"
ASK = "ask model age|image=scan.nii.gz"

# name: (what is spoilt, the command, what the sentence must say: what, where, what to do)
CASES: dict[str, tuple[Mischief, str, str]] = {
    # tables
    "no table": (
        removed("bids/participants.tsv"),
        TRAIN,
        r"participants\.tsv",
    ),
    "participant twice": (rows("+sub-03 50 F"), TRAIN, r"participants\.tsv.*row 10.*row 5"),
    "unknown label": (rows("sub-03 40 X"), TRAIN, r'row 5, column "sex".*"X".*F, M'),
    "out of range": (rows("sub-03 140 F"), TRAIN, r'row 5, column "age".*140.*0 to 100'),
    "not a number": (rows("sub-03 old F"), TRAIN, r'row 5, column "age".*"old" is not a number'),
    "too few cells": (rows("sub-03 40"), TRAIN, r"participants\.tsv.*row 5"),
    "empty column": (column("age", "n/a"), TRAIN, r'"age" has no value'),
    "one class": (column("sex", "F"), TRAIN, r'"sex" is "F" in every'),
    "no such column": (
        config(schema={"variables": {"image": IMAGE, "weight": {"kind": "continuous"}}}),
        TRAIN,
        r'no column "weight".*age, sex',
    ),
    # folders
    "no folder": (whole, "train nowhere --config run.yaml --out new", "nowhere.*no such folder"),
    "wrong suffix": (renamed("T1w", "FLAIR"), TRAIN, "suffix T1w.*FLAIR"),
    "no scans": (
        lambda place: [p.unlink() for p in _scans(place)],
        TRAIN,
        "suffix T1w",
    ),
    "others than in the table": (
        lambda place: write_bids(place / "bids", [ROWS[0], "sub-90 40 F", "sub-91 50 M"], []),
        TRAIN,
        "none of its 2 participants has a scan",
    ),
    "fewer people than folds": (
        config(training={"split": {"kind": "folds", "folds": 9, "fold": 0}}),
        TRAIN,
        "8 subjects cannot make 9 folds",
    ),
    # configuration
    "no configuration": (removed("run.yaml"), TRAIN, r"run\.yaml.*no such file"),
    "no YAML": (content("run.yaml", b"a: [1\nb: 2\n"), TRAIN, r"run\.yaml, line 2.*YAML"),
    "no text": (content("run.yaml", b"\xff\xfe\x00"), TRAIN, r"run\.yaml"),
    "unknown key": (
        config(training={"joint": {"stepz": 2}}),
        TRAIN,
        r"run\.yaml.*no key training\.joint\.stepz",
    ),
    "a value of the wrong kind": (
        config(training={"joint": {"steps": "many"}}),
        TRAIN,
        r"run\.yaml.*training\.joint\.steps",
    ),
    "a schema for a configuration": (
        lambda place: write_yaml(place / "run.yaml", settings()["schema"]),
        TRAIN,
        r"run\.yaml.*a schema, not a run configuration.*under a key, schema",
    ),
    "a variable of no kind": (
        config(schema={"variables": {"image": IMAGE, "age": {"unit": "years"}}}),
        TRAIN,
        r"run\.yaml.*variables\.age.*kind.*'continuous'",
    ),
    "the model exists": (whole, "train bids --config run.yaml --out model", "model exists"),
    "nothing to resume": (whole, TRAIN + " --resume", "no run to resume"),
    # scans that are asked about
    "no scan": (whole, "ask model age|image=no.nii.gz", r"no\.nii\.gz.*no such file"),
    "a folder for a scan": (whole, "ask model age|image=bids", "bids.*folder"),
    "not an image": (content("scan.nii.gz", b"hello"), ASK, r"scan\.nii\.gz.*not an image"),
    "truncated": (truncated("scan.nii.gz"), ASK, r"scan\.nii\.gz.*damaged, or not an image"),
    "4D": (voxels(noise(8, 8, 8, 3), "scan.nii.gz"), ASK, r"4 axes.*3D with 1"),
    "2D": (
        lambda place: write_png(place / "scan.png", np.eye(8, dtype=np.uint8)),
        "ask model age|image=scan.png",
        r"scan\.png.*2D image",
    ),
    "all zero": (
        voxels(np.zeros((8, 8, 8)), "scan.nii.gz"),
        ASK,
        "every voxel is 0",
    ),
    "NaN": (voxels(NAN, "scan.nii.gz"), ASK, r"scan\.nii\.gz.*NaN"),
    "elsewhere": (
        lambda place: write_nifti(place / "mask.nii.gz", np.zeros((8, 8, 8), np.uint8)),
        "inpaint model scan.nii.gz mask.nii.gz --out new",
        r"mask\.nii\.gz.*0",
    ),
    # questions
    "unknown variable": (whole, "ask model weight|age=40", '"weight".*image, age, sex'),
    "unknown given": (whole, "ask model age|weight=70", '"weight".*image, age, sex'),
    "malformed": (whole, "ask model age|sex", "name=value"),
    "empty": (whole, "ask model |", "names nothing"),
    "asked and given": (whole, "ask model age|age=40", "both asked and given"),
    "a label that is none": (whole, "ask model age|sex=X", '"X" is not one of F, M'),
    "a number that is none": (whole, "ask model sex|age=old", '"old" is not a number'),
    "out of the schema's range": (whole, "ask model sex|age=140", "140.*0 to 100"),
    "images without a folder": (whole, "ask model image|age=40", "--out"),
    "a folder that is in use": (whole, "ask model image|age=40 --out bids", "bids is not empty"),
    "no samples of an image": (whole, "ask model image --out new --samples 0", "samples"),
    # models
    "no model": (whole, "ask bids age", "bids.*not a model folder"),
    "a model without weights": (
        removed("model/denoiser.safetensors"),
        ASK,
        r"denoiser\.safetensors is missing",
    ),
    "damaged weights": (
        content("model/denoiser.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
        ASK,
        r"denoiser\.safetensors is not the file that was saved",
    ),
    "no self-test": (whole, "verify model", r"selftest\.json"),
    "weights of no model, listed": (
        listed(content("model/denoiser.safetensors", b"\x08\0\0\0\0\0\0\0{}      ")),
        ASK,
        r"denoiser\.safetensors: damaged, or not weights of this network",
    ),
    "settings of another network, listed": (
        listed(
            lambda place: write_yaml(
                place / "model/config.yaml",
                {**MODEL, "denoiser": {**MODEL["denoiser"], "channels": [16, 16]}},
            )
        ),
        ASK,
        r"safetensors: damaged, or not weights of this network",
    ),
    "no checksums": (removed("model/checksums.json"), ASK, r"checksums\.json: there is no such"),
    "a self-test that is none": (
        listed(content("model/selftest.json", b"[]")),
        "verify model",
        r"selftest\.json",
    ),
    "nobody's split": (whole, "evaluate model bids --out new", r"split\.json"),
    "a split that is none": (
        content("model/split.json", b"[1]"),
        "evaluate model bids --out new",
        r"split\.json",
    ),
    "info of nothing": (whole, "info bids", "bids.*not a model folder"),
    # other commands
    "schema of nothing": (whole, "schema nowhere", "nowhere.*no such folder"),
    "simulate into a full folder": (whole, "simulate bids --subjects 4", "bids"),
    "nobody to simulate": (whole, "simulate new --subjects 0", "subjects"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_sentence_and_changes_nothing(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, command, message = CASES[case]
    spoil(place)
    before = contents(place)
    status = run(place, command, monkeypatch)
    sentence = one_sentence(capsys.readouterr().err)
    assert re.search(message, sentence), sentence
    assert status == 2
    assert contents(place) == before


BAD_SCANS: dict[str, tuple[Mischief, str]] = {
    "truncated": (truncated(SCAN), "damaged, or not an image"),
    "4D": (voxels(noise(8, 8, 8, 3)), "4 axes"),
    "all zero": (voxels(np.zeros((8, 8, 8))), "every voxel is 0"),
    "NaN": (voxels(NAN), "NaN"),
}


@pytest.mark.parametrize("case", BAD_SCANS)
def test_a_bad_scan_in_a_cohort_is_named_and_once_mended_the_run_goes_on(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD_SCANS[case]
    spoil(place)
    assert run(place, TRAIN, monkeypatch) == 2
    sentence = one_sentence(capsys.readouterr().err)
    assert re.search(message, sentence)
    assert "sub-03_T1w.nii.gz" in sentence
    assert not (place / "new").exists()
    voxels(noise(8, 8, 8))(place)
    assert run(place, TRAIN + " --resume", monkeypatch) == 0
    assert run(place, "verify new", monkeypatch) == 0


def test_a_scan_that_changed_since_a_run_began_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, TRAIN, monkeypatch) == 0
    shutil.rmtree(place / "new")  # as if it had been killed before the end
    for scan in _scans(place):  # of the training set or not
        write_nifti(scan, noise(8, 8, 8)[::-1].copy())
    capsys.readouterr()
    assert run(place, TRAIN + " --resume", monkeypatch) == 0
    assert "scans of image have changed, or moved, since this run began" in capsys.readouterr().err


def test_the_folder_that_one_is_in_is_not_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "inside").mkdir()
    for command in ("ask ../model age --samples 2 --out .", "train ../bids --out ."):
        assert run(place / "inside", command, monkeypatch) == 2
        assert "is the folder that you are in" in one_sentence(capsys.readouterr().err)
    assert contents(place / "inside") == {}


DAMAGE: dict[str, tuple[str, str]] = {
    "a checkpoint of the autoencoder": ("autoencoder-image/last.ckpt", "damaged, or not"),
    "the autoencoder": ("autoencoder.safetensors", "damaged, or not weights"),
    "the checkpoint": ("joint/last.ckpt", "damaged, or not a checkpoint"),
    "the best weights": ("joint/best.safetensors", "damaged, or not weights"),
    "the settings": ("run.yaml", "differs from what is given"),
    "the split": ("split.json", "not valid JSON"),
    "the digest of the data": ("data.sha256", "damaged, or not a SHA-256"),
    "the cache": ("cache/volumes-train-image.npy", ""),
    "the latents": ("cache/train/latents-image.npy", ""),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_run_that_was_damaged_is_not_gone_on_with(
    case: str,
    share: float,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What can be made again is; of the rest, one sentence names the file."""
    name, message = DAMAGE[case]
    every = {"autoencoder": {**settings()["training"]["autoencoder"], "steps": 50}}
    joint = {**JOINT, "checkpoint_every": 2}
    config(training={**settings()["training"], **every, "joint": joint})(place)
    assert run(place, TRAIN, monkeypatch) == 0
    capsys.readouterr()
    shutil.rmtree(place / "new")  # as if it had been killed before the end
    path = place / "new.training" / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    if name.startswith("autoencoder-"):
        (place / "new.training/autoencoder.safetensors").unlink()
    status = run(place, TRAIN + " --resume", monkeypatch)
    if message:
        assert status == 2
        sentence = one_sentence(capsys.readouterr().err.splitlines()[-1])
        assert path.name in sentence
        assert message in sentence
        assert not (place / "new").exists()
    else:
        assert status == 0
        assert run(place, "verify new", monkeypatch) == 0


def test_a_run_that_someone_sent_runs_no_code(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint may be a pickle; what it says is not done."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(place / "made"),)

    assert run(place, TRAIN, monkeypatch) == 0
    shutil.rmtree(place / "new")
    torch.save({"state_dict": Hostile()}, place / "new.training/joint/last.ckpt")
    assert run(place, TRAIN + " --resume", monkeypatch) == 2
    assert "last.ckpt: damaged, or not a checkpoint" in capsys.readouterr().err
    assert not (place / "made").exists() and not (place / "new").exists()


def limited(place: Path, command: str, size: int) -> subprocess.CompletedProcess[str]:
    """Run a command that can write no file beyond `size` bytes: the kernel refuses the rest."""
    return subprocess.run(
        [sys.executable, "-m", "metavoxel", *(p.replace("~", " ") for p in command.split())],
        cwd=place,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.mark.parametrize("size", [100, 6000, 40_000])
def test_a_disk_that_fills_while_training(size: int, place: Path) -> None:
    """At its first file, at the cache, at the checkpoints: a sentence, and no model folder."""
    before = contents(place)
    done = limited(place, TRAIN, size)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"Error: .*cannot be written \(.*\)\. Free some space", done.stderr)
    after = contents(place)
    assert before.items() <= after.items()
    assert not any(part.startswith(".") for name in after for part in Path(name).parts)
    assert not (place / "new").exists()


def test_a_disk_that_fills_while_samples_are_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The samples that were there before stay, all of them."""
    assert run(place, "ask model image,age --out drawn --samples 2", monkeypatch) == 0
    before = contents(place)
    done = limited(place, "ask model image,age --out drawn --samples 3 --seed 1", 400)
    assert done.returncode == 2
    assert "drawn cannot be written" in one_sentence(done.stderr)
    assert contents(place) == before
    with contextlib.suppress(SystemExit):
        run(place, "ask model image,age --out drawn --samples 3 --seed 1", monkeypatch)
    assert len(list((place / "drawn").glob("sub-*"))) == 3
    capsys.readouterr()


def test_a_disk_that_fills_while_a_cohort_is_simulated(place: Path) -> None:
    done = limited(place, "simulate new --subjects 3 --resolution 8", 300)
    assert done.returncode == 2
    assert "cannot be written" in one_sentence(done.stderr)


def test_an_interrupt_is_no_crash(place: Path) -> None:
    write_yaml(place / "run.yaml", settings(joint={**JOINT, "steps": 10_000, "validate_every": 50}))
    process = subprocess.Popen(
        [sys.executable, "-m", "metavoxel", *TRAIN.split()],
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    while not (place / "new.training" / "joint" / "best.json").exists():
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate()
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert "Interrupted." in printed.splitlines()[-1]
    assert not (place / "new").exists()
    assert (place / "new.training" / "run.yaml").exists()


def test_brackets_in_a_sentence_are_printed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal's markup must not swallow what a user has written."""
    run(place, "ask model [weight]|age=40", monkeypatch)
    assert "[weight]" in capsys.readouterr().err


def test_brackets_in_a_label_are_printed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sex = {"kind": "categorical", "labels": ["[F]", "[M]"]}
    schema = parse_schema({"variables": {"image": IMAGE, "sex": sex}}, "test")
    save_model(MetaVoxel(schema, ModelConfig.model_validate(MODEL), {}), place / "bracketed")
    for command in ("info bracketed", "ask bracketed sex"):
        assert run(place, command, monkeypatch) == 0
        assert "[F]" in capsys.readouterr().out
