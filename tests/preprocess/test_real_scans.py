"""Whole heads through every tool: DICOM, a killed run, a follow-up, a question about a raw scan."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from folders import AGE, SEX, read_nifti, real, scores
from metavoxel.data.description import generated_by
from metavoxel.data.images import read_volume, resample
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_folder import save_model
from metavoxel.preprocess.dicom import from_dicom
from metavoxel.preprocess.logs import read_status
from metavoxel.preprocess.preparation import Preparation
from metavoxel.schema import parse_schema
from raw_cohort import raw
from raw_scans import brain_of, metavoxel, moved, run, sidecar_of, voxels, write_series

pytestmark = [pytest.mark.real, pytest.mark.whole]

COMMAND = ["preprocess", "bids", "out", "participant", "--jobs", "2"]


@dataclass(frozen=True)
class Heads:
    """Three real scans as a lab has them, and the derivative made of them in two goes."""

    bids: Path
    dicom: Path  # of sub-02, zipped
    out: Path
    half_way: dict[str, Any]  # what stood there when the first go was killed
    status: int
    said: str


def write_heads(place: Path) -> Path:
    """sub-01 twice, sub-02 converted from DICOM, sub-03 cut off; the zipped DICOM."""
    ixi = real("ixi")
    one, two = (ixi / f"sub-IXI{n}" / "anat" / f"sub-IXI{n}_T1w.nii.gz" for n in ("012", "013"))
    head, affine = read_nifti(one)
    bids = place / "bids"
    for session, move in (("ses-1", np.eye(4)), ("ses-2", moved((7, -5, 9), (10, -12, 6)))):
        raw(bids, "sub-01", session).parent.mkdir(parents=True)
        again = nib.Nifti1Image(head, move @ affine)
        nib.save(again, raw(bids, "sub-01", session))
    other, grid = read_volume(two)
    series = write_series(place / "dicom", other.astype(np.uint16), grid.affine)
    for subject in ("sub-02", "sub-03"):
        raw(bids, subject).parent.mkdir(parents=True)
    shutil.copy(from_dicom(series, place / "converted"), raw(bids, "sub-02"))
    raw(bids, "sub-03").write_bytes(one.read_bytes()[:50_000])
    return Path(shutil.make_archive(str(series), "zip", series))


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Heads:
    """Killed (-9) as soon as one scan is done, and given again."""
    place = tmp_path_factory.mktemp("heads")
    dicom, out = write_heads(place), place / "out"
    process = metavoxel(place, *COMMAND, start_new_session=True)
    while not finished(out):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # until its workers are gone, too, which may finish a scan on their way
    done = finished(out)
    files = {p: p.stat().st_mtime_ns for p in out.glob("sub-*/**/*") if p.is_file()}
    status, said = run(place, *COMMAND)
    return Heads(place / "bids", dicom, out, {"done": done, "files": files}, status, said)


def finished(out: Path) -> list[str]:
    logs = sorted((out / "logs").glob("sub-*.json"))
    return [p.stem for p in logs if (read_status(out, p.stem) or {}).get("status") == "ok"]


def test_after_a_kill_what_was_done_is_kept_and_the_rest_is_completed(heads: Heads) -> None:
    assert heads.status == 1
    assert f"{len(heads.half_way['done'])} done before" in heads.said
    assert "sub-03_T1w: " in heads.said and "damaged, or not an image" in heads.said
    assert finished(heads.out) == ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_T1w"]
    for record in heads.half_way["done"]:
        brain = brain_of(heads.out, record.removesuffix("_T1w"))
        assert brain.stat().st_mtime_ns == heads.half_way["files"][brain]
    assert list(heads.out.rglob(".*-*")) == []


def test_a_real_brain_lies_on_the_template(heads: Heads) -> None:
    for record in ("sub-01_ses-1", "sub-02"):
        measured = sidecar_of(heads.out, record)["MetaVoxel"]["Measures"]
        assert 1200 < measured["brain_volume"] < 1800
        assert measured["template_overlap"] > 0.85
        assert measured["edge_fraction"] < 0.01


def test_a_follow_up_lies_on_its_baseline(heads: Heads) -> None:
    """The same scan turned by 12 degrees and shifted by 17 mm."""
    first, second = (voxels(brain_of(heads.out, f"sub-01_ses-{s}")) for s in (1, 2))
    inside = (first > 0) & (second > 0)
    assert 2 * inside.sum() / ((first > 0).sum() + (second > 0).sum()) > 0.98
    assert np.corrcoef(first[inside], second[inside])[0, 1] > 0.98


def test_the_reference_preparation_agrees(heads: Heads) -> None:
    """The same scans as prepared for the project before: N4, deepbet, rigid."""
    reference = real("ixi/derivatives/brain") / "sub-IXI012" / "anat"
    theirs, grid = read_volume(reference / "sub-IXI012_space-MNI152_res-2_desc-brain_T1w.nii.gz")
    own, there = read_volume(brain_of(heads.out, "sub-01_ses-1"))
    ours = resample(own, there, grid)
    dice = 2 * ((ours > 0) & (theirs > 0)).sum() / ((ours > 0).sum() + (theirs > 0).sum())
    assert dice > 0.97
    assert np.corrcoef(ours[theirs > 0], theirs[theirs > 0])[0, 1] > 0.95


@pytest.fixture(scope="module")
def model(heads: Heads, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that reads images and has learnt nothing; how its scans were prepared it knows."""
    image = {"kind": "image", "shape": [24, 32, 24], "spacing": [8, 8, 8], "centre": [1, -17, 7]}
    schema = parse_schema({"variables": {"image": image, "age": AGE, "sex": SEX}}, "test")
    small = {"channels": [8, 8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8}
    sampling = {"steps": 3, "samples": 4}
    config = {"encoding": {"kind": "identity"}, "denoiser": small, "sampling": sampling}
    torch.manual_seed(0)
    network = MetaVoxel(schema, ModelConfig.model_validate(config), {"age": scores(0, 100)})
    for parameter in network.parameters():  # the layers that start at 0, too
        torch.nn.init.normal_(parameter, std=0.2)
    told = json.dumps(Preparation(generated_by(heads.out)).to_json())
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(network, folder, {"preprocessing.json": told})
    return folder


def answer(model: Path, image: Path, *options: str) -> dict[str, Any]:
    process = metavoxel(model.parent, "ask", model, f"age, sex | image={image}", "--json", *options)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    return json.loads(printed)


def test_a_raw_scan_and_its_dicom_get_the_answer_of_the_derivative(
    heads: Heads, model: Path
) -> None:
    """Exactly: the same code prepares one scan and a cohort, in whatever process."""
    brain = brain_of(heads.out, "sub-02")
    expected = answer(model, brain)
    assert answer(model, heads.dicom, "--preprocess") == expected
    assert answer(model, raw(heads.bids, "sub-02"), "--preprocess") == expected
    assert answer(model, brain_of(heads.out, "sub-01_ses-1")) != expected  # it does look
