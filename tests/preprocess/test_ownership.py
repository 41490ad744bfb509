"""Only what preparation wrote is replaced or removed; two scans never share a result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from folders import noise, write_nifti
from metavoxel.data.scans import ScanFile
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.cohort import Job, Outcome, bury, find_jobs, run_subject
from metavoxel.preprocess.command import Selection, run_participants
from metavoxel.preprocess.derivative import Outputs, describe_dataset
from metavoxel.preprocess.logs import read_status, write_json, write_status
from metavoxel.preprocess.recipe import Recipe
from metavoxel.preprocess.report import run_group
from prepared import brain, write_derivative

RECIPE = Recipe(skull_strip="none", resolution=4)


@pytest.fixture
def bids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One scan; what prepares it is replaced by what takes no time."""

    def prepare(scan: Path, recipe: Recipe, transform: Path, *_: Any) -> Any:
        if not scan.stat().st_size:
            raise MetaVoxelError(f"{scan}: it is empty.")
        transform.write_text("a transform")
        return brain(False, len(scan.read_bytes()) % 7)

    monkeypatch.setattr("metavoxel.preprocess.cohort.prepare", prepare)
    write_nifti(tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", noise(8, 8, 8))
    return tmp_path / "bids"


def change(bids: Path, by: int = 1) -> None:
    write_nifti(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz", noise(8, 8, 8) + by)


def prepared(bids: Path, suffix: str = "T1w") -> tuple[Outputs, Outcome]:
    out = bids.with_name("out")
    describe_dataset(out, bids, RECIPE)
    (job,) = find_jobs(bids, out, RECIPE, suffix)
    (outcome,) = run_subject(job)
    return Outputs.of(job.scans[0], job.out, RECIPE), outcome


def everything(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_log_lists_what_was_written(bids: Path) -> None:
    outputs, outcome = prepared(bids)
    assert outcome.status == "ok"
    files = (read_status(outputs.out, outputs.record) or {})["files"]
    there = {p.relative_to(outputs.out).as_posix() for p in outputs.folder.iterdir()}
    assert set(files) == there and len(there) == 5


def test_what_is_ours_is_replaced_when_the_scan_changes(bids: Path) -> None:
    outputs, _ = prepared(bids)
    before = outputs.sidecar.read_bytes()
    assert prepared(bids)[1].status == "skipped"
    change(bids)
    assert prepared(bids)[1].status == "ok"
    assert outputs.sidecar.read_bytes() != before


@pytest.mark.parametrize("which", range(5))
def test_a_file_that_was_changed_by_hand_is_kept(which: int, bids: Path) -> None:
    """And so is all that stands beside it, until somebody has looked."""
    outputs, _ = prepared(bids)
    change(bids)
    outputs.files[which].write_bytes(b"corrected by hand")
    before = everything(outputs.folder)
    for _ in range(2):
        _, outcome = prepared(bids)
        assert outcome.status == "failed"
        assert f"{outputs.files[which]}: it was changed after" in outcome.reason
        assert everything(outputs.folder) == before
    outputs.files[which].unlink()
    assert prepared(bids)[1].status == "ok"


@pytest.mark.parametrize("which", range(5))
def test_a_file_that_stood_there_before_is_kept(which: int, bids: Path) -> None:
    out = bids.with_name("out")
    file = ScanFile(Path("x"), "sub-01", None, {}, "T1w")
    path = Outputs.of(file, out, RECIPE).files[which]
    describe_dataset(out, bids, RECIPE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"made by hand")
    _, outcome = prepared(bids)
    assert outcome.status == "failed"
    assert f"{path}: metavoxel preprocess did not write it" in outcome.reason
    assert everything(path.parent) == {path.name: b"made by hand"}


def test_what_was_prepared_before_logs_listed_files_is_ours(bids: Path) -> None:
    outputs, _ = prepared(bids)
    write_json(outputs.out / "logs" / f"{outputs.record}.json", {"status": "ok"})
    change(bids)
    assert prepared(bids)[1].status == "ok"
    (outputs.out / "logs" / f"{outputs.record}.json").unlink()
    change(bids, by=2)
    assert prepared(bids)[1].status == "ok"


def test_a_scan_that_fails_leaves_what_is_not_ours_and_nothing_else(bids: Path) -> None:
    outputs, _ = prepared(bids)
    (outputs.folder / "notes.txt").write_text("mine")
    (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"")
    assert prepared(bids)[1].status == "failed"
    assert everything(outputs.folder) == {"notes.txt": b"mine"}
    outputs.mask.write_bytes(b"made by hand")
    change(bids)
    assert "did not write it" in prepared(bids)[1].reason
    assert outputs.mask.read_bytes() == b"made by hand"


@pytest.mark.parametrize("text", ["mine", '{"a": 1}', "[]"])
def test_a_log_of_somebody_else_is_kept(text: str, bids: Path) -> None:
    out = bids.with_name("out")
    describe_dataset(out, bids, RECIPE)
    log = out / "logs" / "sub-01_T1w.json"
    log.parent.mkdir()
    log.write_text(text)
    _, outcome = prepared(bids)
    assert outcome.status == "failed"
    assert "sub-01_T1w.json" in outcome.reason
    assert log.read_text() == text
    assert not (out / "sub-01").exists()


def test_what_a_dead_worker_left_is_removed(bids: Path) -> None:
    outputs, _ = prepared(bids)
    write_status(
        outputs.out, outputs.record, status="running", files=dict.fromkeys(outputs.unwritten())
    )
    (job,) = find_jobs(bids, outputs.out, RECIPE)
    ((outcome,), rest) = bury(job, "killed")
    assert (outcome.record, outcome.reason, rest.scans) == ("sub-01_T1w", "killed", ())
    assert everything(outputs.folder) == {}


TWINS: dict[str, tuple[str, str]] = {
    "packed and not": ("sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-01_T1w.nii.gz"),
    "in two folders": ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/sub-01_T1w.nii.gz"),
    "of another's folder": ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-01_T1w.nii.gz"),
    "with a word that is no entity": (
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_new_T1w.nii.gz",
    ),
}


@pytest.mark.parametrize("case", TWINS)
def test_two_scans_of_one_name_are_refused_and_both_named(case: str, tmp_path: Path) -> None:
    bids, out = tmp_path / "bids", tmp_path / "out"
    paths = [write_nifti(bids / name, noise(8, 8, 8)) for name in TWINS[case]]
    with pytest.raises(MetaVoxelError, match=r"both sub-01_T1w.*Keep one") as error:
        find_jobs(bids, out, RECIPE)
    assert all(str(path) in str(error.value) for path in paths)
    assert not out.exists()


def test_a_name_that_no_sidecar_can_hold_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "bids" / "sub-01" / "anat" / "x.nii.gz", noise(8, 8, 8))
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/sub-01_acq-\xff_T1w.nii.gz"))
    with pytest.raises(MetaVoxelError, match="its name is not UTF-8") as error:
        find_jobs(tmp_path / "bids", tmp_path / "out", RECIPE)
    assert str(error.value).isprintable()


def test_runs_sessions_and_dots_are_names_of_their_own(tmp_path: Path) -> None:
    names = ["run-1", "run-2", "acq-1.5", "acq-1p5", "run-1_echo-1", "run-1_echo-2"]
    for name in names:
        path = tmp_path / "bids" / "sub-01" / "anat" / f"sub-01_{name}_T1w.nii.gz"
        write_nifti(path, noise(8, 8, 8))
    (job,) = find_jobs(tmp_path / "bids", tmp_path / "out", RECIPE)
    assert len(job.scans) == len(names)


def test_the_masks_of_two_suffixes_lie_beside_each_other(bids: Path) -> None:
    """T1w and FLAIR of one visit, in one derivative, each with its mask."""
    write_nifti(bids / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz", noise(8, 8, 8) + 2)
    first, _ = prepared(bids)
    before = everything(first.folder)
    second, outcome = prepared(bids, "FLAIR")
    assert outcome.status == "ok"
    assert before.items() <= everything(first.folder).items()
    assert first.mask.name.endswith("_desc-brain_mask.nii.gz")
    assert second.mask.name.endswith("_desc-brainFLAIR_mask.nii.gz")


def outside(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("mine")


def logs_alone(place: Path) -> None:
    (place / "out" / "logs").mkdir(parents=True)
    (place / "out" / "logs" / "of-another.txt").write_text("mine")


def ignored(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / ".bidsignore").write_text("mine")


def two_pipelines(place: Path) -> None:
    describe_dataset(place / "out", place, RECIPE)
    path = place / "out" / "dataset_description.json"
    told = json.loads(path.read_text())
    told["GeneratedBy"].append({"Name": "fMRIPrep"})
    path.write_text(json.dumps(told))


def unreadable(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "dataset_description.json").write_text("{,}")


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "other files": (outside, r"something else \(thesis\.tex\)"),
    "a folder of logs": (logs_alone, r"something else \(logs\)"),
    "another .bidsignore": (ignored, r"something else \(\.bidsignore\)"),
    "a derivative with another pipeline": (two_pipelines, "not made by metavoxel preprocess"),
    "a description that cannot be read": (unreadable, "dataset_description.json"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_of_others_is_refused_and_left(case: str, tmp_path: Path) -> None:
    make, message = FOLDERS[case]
    make(tmp_path)
    before = everything(tmp_path / "out")
    with pytest.raises(MetaVoxelError, match=message):
        describe_dataset(tmp_path / "out", tmp_path, RECIPE)
    assert everything(tmp_path / "out") == before


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_written_to_where_it_points(there: bool, bids: Path) -> None:
    out, real = bids.with_name("out"), bids.with_name("real")
    if there:
        real.mkdir()
    out.symlink_to(real)
    said = Console(quiet=True)
    run = partial(map, run_subject)
    assert run_participants(bids, out, RECIPE, Selection(), run, said) == 0
    assert out.is_symlink()
    assert len(list(real.glob("sub-01/anat/*_T1w.nii.gz"))) == 1


def test_a_hidden_folder_of_a_version_control_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "out" / ".git").mkdir(parents=True)
    describe_dataset(tmp_path / "out", tmp_path, RECIPE)
    assert (tmp_path / "out" / "dataset_description.json").is_file()


@pytest.mark.parametrize("kind", ["tsv", "json", "html"])
def test_the_group_level_overwrites_its_own_files_alone(kind: str, tmp_path: Path) -> None:
    out, quiet = write_derivative(tmp_path / "out", 2), Console(quiet=True)
    run_group(out, quiet)
    run_group(out, quiet)
    path = out / f"group_T1w.{kind}"
    path.write_text("mine")
    before = everything(out)
    with pytest.raises(MetaVoxelError, match=rf"group_T1w\.{kind}: it was changed after"):
        run_group(out, quiet)
    assert everything(out) == before


def test_the_group_level_writes_into_no_derivative_of_others(tmp_path: Path) -> None:
    out = write_derivative(tmp_path / "out", 1)
    write_json(out / "dataset_description.json", {"GeneratedBy": [{"Name": "fMRIPrep"}]})
    before = everything(out)
    with pytest.raises(MetaVoxelError, match="not made by metavoxel preprocess"):
        run_group(out, Console(quiet=True))
    assert everything(out) == before


def test_a_mask_is_given_by_its_visit_and_its_entities(tmp_path: Path) -> None:
    bids, masks = tmp_path / "bids", tmp_path / "masks"
    for name in ("sub-01/anat/sub-01_run-1", "sub-01/anat/sub-01_run-2", "sub-02/anat/sub-02"):
        write_nifti(bids / f"{name}_T1w.nii.gz", noise(8, 8, 8))
    for name in ("run-1", "run-2"):
        path = tmp_path / "elsewhere" / f"sub-01_{name}_mask.nii.gz"
        write_nifti(path, np.ones((8, 8, 8), np.uint8))
    (masks / "sub-01").mkdir(parents=True)
    (masks / "sub-01" / "anat").symlink_to(tmp_path / "elsewhere")  # links are followed
    recipe = Recipe(skull_strip="mask", resolution=4)
    jobs = find_jobs(bids, tmp_path / "out", recipe, masks=masks)
    from metavoxel.preprocess.cohort import _mask_of

    one, two = jobs[0].scans
    found = [_mask_of(s, jobs[0].masks) for s in (one, two)]
    assert [mask and mask.name for mask in found] == [
        "sub-01_run-1_mask.nii.gz",
        "sub-01_run-2_mask.nii.gz",
    ]
    with pytest.raises(MetaVoxelError, match="there are 0 masks"):
        _mask_of(jobs[1].scans[0], jobs[1].masks)
    with pytest.raises(MetaVoxelError, match="no such folder"):
        find_jobs(bids, tmp_path / "out", recipe, masks=tmp_path / "nowhere")


def test_scans_that_cannot_be_reached_are_counted(bids: Path) -> None:
    dead = bids / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    dead.parent.mkdir(parents=True)
    dead.symlink_to("../../.git/annex/objects/key")
    said: list[str] = []
    jobs: list[Job] = find_jobs(bids, bids.with_name("out"), RECIPE, warn=said.append)
    assert len(jobs) == 1
    assert len(said) == 1 and "1 of 2 scans are links to files that are not here" in said[0]
    with pytest.raises(MetaVoxelError, match=r"sub-02 has no raw T1w scan here.*datalad get"):
        find_jobs(bids, bids.with_name("out"), RECIPE, participants=["02"])
