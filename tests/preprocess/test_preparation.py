"""A model knows how its training scans were prepared, and checks every scan it is asked about."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import metavoxel as mv
from folders import read_nifti, scores, write_nifti
from metavoxel.cli import main
from metavoxel.data.bids import read_cohort
from metavoxel.data.simulate import simulate
from metavoxel.errors import MetaVoxelError, MetaVoxelWarning
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_folder import save_model
from metavoxel.preprocess.preparation import Preparation
from metavoxel.preprocess.recipe import Recipe
from metavoxel.schema import parse_schema
from metavoxel.training.config import RunConfig
from metavoxel.training.examples import read_volumes
from metavoxel.training.preparation import fit_preparation
from metavoxel.training.run import train

IMAGE = {"kind": "image", "shape": [24, 24, 24], "spacing": [8, 8, 8]}
AGE = {"kind": "continuous", "unit": "years", "range": [20, 90]}
SCHEMA = parse_schema({"variables": {"image": IMAGE, "age": AGE}}, "test")
DENOISER = {"channels": [8, 8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8}


def declare(folder: Path, **settings: Any) -> None:
    """Write what metavoxel preprocess would declare of a dataset."""
    recipe = {"settings": Recipe(**settings).model_dump(mode="json"), "tools": {"ants": "1"}}
    made = {"Name": "metavoxel preprocess", "Recipe": recipe}
    (folder / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [made]}))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort")
    simulate(out, subjects=20, seed=0, resolution=8, jobs=1)
    declare(out)
    return out


@pytest.fixture(scope="module")
def preparation(cohort: Path) -> Preparation:
    records = read_cohort(cohort, SCHEMA)
    path = cohort / "volumes.npy"
    volumes = read_volumes(records, "image", SCHEMA.images["image"], path, lambda *_: None)
    path.unlink()
    return fit_preparation(records, {"image": volumes})


@pytest.fixture
def model(preparation: Preparation, tmp_path: Path) -> Path:
    config = ModelConfig.model_validate({"encoding": {"kind": "identity"}, "denoiser": DENOISER})
    network = MetaVoxel(SCHEMA, config, {"age": scores(20, 90)})
    told = json.dumps(preparation.to_json())
    save_model(network, tmp_path / "model", {"preprocessing.json": told})
    return tmp_path / "model"


@pytest.fixture
def scan(cohort: Path, tmp_path: Path) -> Path:
    """A scan of the cohort in a dataset of its own, which declares nothing yet."""
    image = nib.load(min(cohort.glob("sub-*/anat/*_T1w.nii.gz")))
    (tmp_path / "other").mkdir()
    nib.save(image, tmp_path / "other" / "scan.nii.gz")
    return tmp_path / "other" / "scan.nii.gz"


def ask(model: Path, scan: Path, any_preparation: bool = False) -> float:
    network = mv.load(model, any_preparation=any_preparation)
    return network.ask("age", {"image": scan}, samples=0)["age"].mean


def test_a_scan_prepared_alike_is_answered_without_a_word(model: Path, scan: Path) -> None:
    declare(scan.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(model, scan)


def test_a_scan_that_declares_nothing_and_looks_alike_is_answered(model: Path, scan: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(model, scan)


def test_a_declared_difference_is_refused_unless_told_to_go_on(model: Path, scan: Path) -> None:
    declare(scan.parent)
    expected = ask(model, scan)
    declare(scan.parent, resolution=4)
    with pytest.raises(MetaVoxelError, match=r"scan\.nii\.gz.*resolution 4.0, not 2.0.*--preproc"):
        ask(model, scan)
    assert ask(model, scan, any_preparation=True) == expected


def test_other_versions_of_the_tools_are_warned_of(model: Path, scan: Path) -> None:
    declare(scan.parent)
    described = scan.parent / "dataset_description.json"
    described.write_text(described.read_text().replace('"ants": "1"', '"ants": "2"'))
    with pytest.warns(MetaVoxelWarning, match="ants 2, not 1"):
        ask(model, scan)


@pytest.mark.parametrize("declares", [True, False])
def test_a_scan_that_looks_otherwise_is_warned_of_whatever_it_declares(
    model: Path, scan: Path, declares: bool
) -> None:
    voxels, affine = read_nifti(scan)
    write_nifti(scan, voxels, affine * [[0.5], [0.5], [0.5], [1]])
    if declares:
        declare(scan.parent)
    with pytest.warns(MetaVoxelWarning, match=r"scan\.nii\.gz.*standard deviations away"):
        ask(model, scan)


def test_on_the_command_line_a_refusal_is_status_2_and_a_warning_one_line(
    model: Path, scan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["metavoxel", "ask", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    question = f"age | image={scan}"
    declare(scan.parent, skull_strip="none")
    assert status(model, question, "--samples", 0) == 2
    assert "skull_strip none, not deepbet" in capsys.readouterr().err
    assert status(model, question, "--samples", 0, "--any-preparation", "--json") == 0
    assert "mean" in json.loads(capsys.readouterr().out)["age"]
    declare(scan.parent)
    voxels, affine = read_nifti(scan)
    write_nifti(scan, np.where(voxels > 0, voxels.max() - voxels, 0), affine)
    assert status(model, question, "--samples", 0, "--json") == 0
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("Warning: ") and "does not look like the training scans" in line
    assert "mean" in json.loads(captured.out)["age"]


FMRIPREP = '{"GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.0.0"}]}'
DECLARED = {
    "plain": (FMRIPREP, 'prepared by "fMRIPrep", not by "metavoxel preprocess"'),
    "with a byte order mark": ("\ufeff" + FMRIPREP, 'prepared by "fMRIPrep", not by'),
    "with a comma too many": (
        FMRIPREP[:-1] + ",}",
        r"dataset_description\.json, line 1: .*not valid",
    ),
    "empty": ("", r"dataset_description\.json"),
    "of another form": ('{"GeneratedBy": "fMRIPrep"}', "key GeneratedBy: it is no list"),
}


@pytest.mark.parametrize("case", DECLARED)
def test_a_declaration_that_cannot_be_read_is_not_an_absent_one(
    case: str, model: Path, scan: Path
) -> None:
    text, message = DECLARED[case]
    (scan.parent / "dataset_description.json").write_text(text, encoding="utf-8")
    with pytest.raises(MetaVoxelError, match=message):
        ask(model, scan)
    ask(model, scan, any_preparation=True)


@pytest.mark.parametrize("first", [True, False])
def test_another_pipeline_beside_ours_is_refused(first: bool, model: Path, scan: Path) -> None:
    declare(scan.parent)
    described = scan.parent / "dataset_description.json"
    ours = json.loads(described.read_text())["GeneratedBy"]
    theirs = json.loads(FMRIPREP)["GeneratedBy"]
    both = [*theirs, *ours] if first else [*ours, *theirs]
    described.write_text(json.dumps({"GeneratedBy": both}))
    with pytest.raises(MetaVoxelError, match='"fMRIPrep" and "metavoxel preprocess", not by'):
        ask(model, scan)


def test_a_link_into_a_derivative_is_no_way_around_its_declaration(
    model: Path, scan: Path, tmp_path: Path
) -> None:
    declare(scan.parent, resolution=4)
    link = tmp_path / "alone" / "scan.nii.gz"
    link.parent.mkdir()
    link.symlink_to(scan)
    with pytest.raises(MetaVoxelError, match=r"resolution 4.0, not 2.0"):
        ask(model, link)


def test_a_model_of_an_undeclared_cohort_cannot_prepare_a_raw_scan() -> None:
    with pytest.raises(MetaVoxelError, match="do not say how they were prepared"):
        Preparation().recipe()


def test_what_a_model_knows_survives_its_file(preparation: Preparation) -> None:
    again = Preparation.from_json(json.loads(json.dumps(preparation.to_json())))
    assert again.recipe() == Recipe()
    assert again.to_json() == json.loads(json.dumps(preparation.to_json()))


def test_what_the_training_set_declares_is_read_before_anything_is_trained(
    cohort: Path, tmp_path: Path
) -> None:
    shutil.copytree(cohort, tmp_path / "bids")
    (tmp_path / "bids" / "dataset_description.json").write_text('{"GeneratedBy": "lab"}')
    config = RunConfig.model_validate({"variables": SCHEMA.model_dump()})
    with pytest.raises(MetaVoxelError, match="key GeneratedBy: it is no list"):
        train(tmp_path / "bids", config, tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["bids"]


def test_too_few_scans_have_no_spread_and_give_no_fingerprint(cohort: Path) -> None:
    records = read_cohort(cohort, SCHEMA)
    records = records.only(records.subjects[:5])
    assert len(records.records) == 5
    assert fit_preparation(records, {"image": None}).fingerprints == {}  # type: ignore[dict-item]  # of so few, none is read
