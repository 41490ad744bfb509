"""The BIDS App's command line: arguments, exit status, what it says, what it survives."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from folders import heed_interrupts
from metavoxel.preprocess.arguments import spread
from metavoxel.preprocess.logs import read_status
from raw_cohort import Cohort, raw
from raw_scans import brain_of, metavoxel, run, voxels, write_brain

APP = ["preprocess", "bids", "out", "participant", "--skull-strip", "none"]


def test_an_option_takes_several_labels() -> None:
    line = "BIDS OUT participant --participant-label 01 02 --jobs 2 --session_label a b --x-label 1"
    alone = (
        "BIDS OUT participant --participant-label 01 --participant-label 02 --jobs 2 "
        "--session_label a --session_label b --x-label 1"
    )
    assert spread([*line.split()]) == alone.split()


def test_a_second_run_skips_what_is_done_and_tries_again_what_failed(
    cohort: Cohort, tmp_path: Path
) -> None:
    here = cohort.copy(tmp_path)
    write_brain(raw(here.bids, "sub-11"), np.eye(4))  # mended
    before = voxels(brain_of(here.out, "sub-02"))
    status, said = run(
        tmp_path, *APP, "--participant-label", "01", "sub-02", "11", "12", "--jobs", "2"
    )
    assert status == 1
    assert "1 prepared in" in said
    assert "; 3 done before; 1 failed; a worker held" in said
    assert "sub-12_T1w: " in said
    np.testing.assert_array_equal(voxels(brain_of(here.out, "sub-02")), before)
    status, said = run(tmp_path, *APP, "--participant-label", "01", "02", "11")
    assert (status, said) == (0, "4 done before.\n")


def test_help_of_a_bids_app(tmp_path: Path) -> None:
    process = metavoxel(tmp_path, "preprocess", "-h")
    printed, _ = process.communicate()
    assert process.returncode == 0
    assert "{participant|group}" in printed.replace("<participant|group>", "{participant|group}")


MISTAKES = {
    "nobody of that name": ("--participant-label 77", "sub-77 has no raw T1w scan here"),
    "no such stripper": ("--skull-strip bet", "the recipe, key skull_strip"),
    "no such executor": ("--executor slurm", '"slurm" is no executor. Give local, or a dask'),
    "a stripper that is absent": ("--skull-strip hd-bet", "hd-bet is not installed"),
    "no masks": ("--skull-strip mask", "--masks FOLDER"),
    "another recipe": ("--resolution 4", "made with resolution 2.0, not 4.0. One folder holds one"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_sentence_and_changes_nothing(
    case: str, cohort: Cohort, tmp_path: Path
) -> None:
    here = cohort.copy(tmp_path)
    before = sorted(here.out.rglob("*"))
    arguments, message = MISTAKES[case]
    status, said = run(tmp_path, *APP, *arguments.split())
    assert status == 2
    assert said.startswith("Error: ") and said.count("\n") == 1
    assert message in said
    assert sorted(here.out.rglob("*")) == before


def test_a_folder_with_something_else_in_it(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    status, said = run(tmp_path, "preprocess", cohort.bids, "out", "participant")
    assert status == 2
    assert "out: this folder holds something else" in said
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("size", "status"), [(100, 2), pytest.param(4000, 1, marks=pytest.mark.whole)]
)
def test_a_full_disk(size: int, status: int, cohort: Cohort, tmp_path: Path) -> None:
    """At the first file it cannot begin; at a brain, that scan has failed. A rerun completes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    place = cohort.bids.parent
    one = ["preprocess", "bids", tmp_path / "out", "participant", "--participant-label", "02"]
    one += ["--skull-strip", "none", "--jobs", "2"]
    found, said = run(place, *one, preexec_fn=limit)
    assert found == status, said
    assert "cannot be written (File too large). Free some space" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "sub-02").exists()
    assert list((tmp_path / "out").rglob(".*-*")) == []
    if status == 1:
        assert run(place, *one)[0] == 0
        again, before = (voxels(brain_of(o, "sub-02")) for o in (tmp_path / "out", cohort.out))
        np.testing.assert_array_equal(again, before)


@pytest.mark.whole
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle(kind: signal.Signals, cohort: Cohort, tmp_path: Path) -> None:
    """Ctrl-C says how to go on; after kill -9 what was done is whole. Going on completes it."""
    place, out = cohort.bids.parent, tmp_path / "out"
    command = ["preprocess", "bids", out, "participant", "--skull-strip", "none"]
    command += ["--participant-label", "01", "02"]
    process = metavoxel(place, *command, start_new_session=True, preexec_fn=heed_interrupts)
    first = "sub-01_ses-2_T1w"
    while (read_status(out, first) or {}).get("status") != "ok":
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)
    process.send_signal(kind)
    _, said = process.communicate()
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert said.startswith("Interrupted. ") and said.count("\n") == 1
        assert list(out.glob("sub-02/**/*.nii.gz")) == []
    brain = brain_of(out, "sub-01_ses-2")
    written = brain.stat().st_mtime_ns
    status, said = run(place, *command)
    assert status == 0
    assert "done before" in said
    assert brain.stat().st_mtime_ns == written
    for path in cohort.out.glob("sub-0*/**/*.nii.gz"):
        np.testing.assert_array_equal(voxels(out / path.relative_to(cohort.out)), voxels(path))
    assert list(out.rglob(".*-*")) == []
