"""A cohort with bad scans in it: the rest is prepared, what is done is kept, a rerun completes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from metavoxel.data.quality import Decision, append_decision, now, read_decisions
from metavoxel.data.scans import scan_files
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.cohort import Job, Outcome, bury, find_jobs, interrupted, run_subject
from metavoxel.preprocess.derivative import Outputs
from metavoxel.preprocess.itk import read_rigid
from metavoxel.preprocess.logs import file_digest, read_status, write_status
from metavoxel.preprocess.recipe import Recipe
from raw_cohort import Cohort, raw, write_raw_cohort
from raw_scans import brain_of, sidecar_of, voxels, write_brain

RECIPE = Recipe(skull_strip="none")
GOOD = ["sub-01_ses-2", "sub-01_ses-10", "sub-02"]
BAD = {
    "sub-11": "damaged, or not an image",
    "sub-12": "the image has 4 axes, the last of length 3",
    "sub-13": "does not look like the template",
    "sub-14": "every voxel is 0",
    "sub-15": "not an image that can be read",
}


def job_of(cohort: Cohort, subject: str) -> Job:
    (job,) = find_jobs(cohort.bids, cohort.out, RECIPE, participants=[subject])
    return job


def outcomes(cohort: Cohort, subject: str) -> list[tuple[str, str]]:
    return [(o.record, o.status) for o in run_subject(job_of(cohort, subject))]


def stamps(out: Path) -> dict[str, int]:
    """When every file was last written."""
    paths = (p for p in out.rglob("*") if p.is_file())
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in paths}


def test_bad_scans_stop_nothing_and_are_named(cohort: Cohort) -> None:
    assert cohort.status == 1
    assert "3 prepared in" in cohort.said
    assert "5 failed" in cohort.said
    for subject, reason in BAD.items():
        (line,) = re.findall(f"^  {subject}_T1w: .*$", cohort.said, re.MULTILINE)
        assert reason in line
        assert f"{subject}/anat/{subject}_T1w.nii.gz" in line
    assert "Traceback" not in cohort.said


@pytest.mark.parametrize("record", GOOD)
def test_what_is_prepared_is_whole(cohort: Cohort, record: str) -> None:
    brain = brain_of(cohort.out, record)
    assert voxels(brain).shape == (96, 112, 96)
    status = read_status(cohort.out, f"{record}_T1w")
    assert status is not None
    assert status["status"] == "ok"
    assert status["seconds"] > 0
    assert 100 < status["peak_memory_mb"] < 4000


@pytest.mark.parametrize("subject", BAD)
def test_nothing_of_a_failed_scan_is_left(cohort: Cohort, subject: str) -> None:
    status = read_status(cohort.out, f"{subject}_T1w")
    assert status is not None
    assert status["status"] == "failed"
    assert BAD[subject] in status["reason"]
    assert not (cohort.out / subject).exists()


def test_nothing_is_half_written(cohort: Cohort) -> None:
    assert [p for p in cohort.out.rglob(".*") if p.name != ".bidsignore"] == []


def test_numbers_in_sessions_count_as_numbers(cohort: Cohort) -> None:
    assert [scan.session for scan in job_of(cohort, "sub-01").scans] == ["ses-2", "ses-10"]


def test_a_follow_up_is_registered_to_the_registered_baseline(cohort: Cohort) -> None:
    """The same brain twice, moved apart: in the derivative they lie on each other."""
    first, second = (voxels(brain_of(cohort.out, f"sub-01_ses-{s}")) for s in (2, 10))
    inside = (first > 0.1) & (second > 0.1)
    assert np.corrcoef(first[inside], second[inside])[0, 1] > 0.9
    baseline = brain_of(cohort.out, "sub-01_ses-2")
    sidecar = sidecar_of(cohort.out, "sub-01_ses-10")
    assert sidecar["MetaVoxel"]["Inputs"]["baseline"] == file_digest(baseline)


@pytest.mark.whole
def test_a_baseline_that_fails_hands_over_to_the_next_visit_and_takes_over_when_mended(
    cohort: Cohort, tmp_path: Path
) -> None:
    here = cohort.copy(tmp_path)
    first = raw(here.bids, "sub-01", "ses-2")
    whole = first.read_bytes()
    first.write_bytes(whole[:1000])
    assert outcomes(here, "sub-01") == [("sub-01_ses-2_T1w", "failed"), ("sub-01_ses-10_T1w", "ok")]
    assert sidecar_of(here.out, "sub-01_ses-10")["MetaVoxel"]["Inputs"]["baseline"] is None
    first.write_bytes(whole)
    assert outcomes(here, "sub-01") == [("sub-01_ses-2_T1w", "ok"), ("sub-01_ses-10_T1w", "ok")]
    for record in ("sub-01_ses-2", "sub-01_ses-10"):  # the very voxels of an untroubled run
        again, before = brain_of(here.out, record), brain_of(cohort.out, record)
        np.testing.assert_array_equal(voxels(again), voxels(before))


def test_content_counts_and_dates_do_not(cohort: Cohort, tmp_path: Path) -> None:
    """And what was decided of a scan that is prepared again is to be decided again."""
    here = cohort.copy(tmp_path)
    judged = Decision("sub-02", "n/a", "sub-02_T1w", "pass", "n/a", "me", now())
    append_decision(here.out, judged)
    before = stamps(here.out)
    os.utime(raw(here.bids, "sub-02"))  # touched, and the same
    assert outcomes(here, "sub-02") == [("sub-02_T1w", "skipped")]
    assert stamps(here.out) == before
    date = raw(here.bids, "sub-02").stat().st_mtime_ns
    write_brain(raw(here.bids, "sub-02"), np.eye(4), seed=5)
    os.utime(raw(here.bids, "sub-02"), ns=(date, date))  # changed, with the old date
    assert outcomes(here, "sub-02") == [("sub-02_T1w", "ok")]
    assert stamps(here.out) != before
    assert [d.decision for d in read_decisions(here.out)] == ["pass", "n/a"]


@pytest.mark.parametrize("lost", ["desc-brain_T1w.json", "desc-brain_mask.nii.gz", "xfm.txt"])
def test_a_scan_of_which_a_file_is_lost_is_not_done(
    lost: str, cohort: Cohort, tmp_path: Path
) -> None:
    here = cohort.copy(tmp_path)
    (path,) = (here.out / "sub-02").rglob(f"*{lost}")
    path.unlink()
    outputs = Outputs.of(job_of(here, "sub-02").scans[0], here.out, RECIPE)
    assert outputs.read() is None


def test_a_scan_that_has_become_bad_leaves_nothing_of_the_good_one(
    cohort: Cohort, tmp_path: Path
) -> None:
    here = cohort.copy(tmp_path)
    raw(here.bids, "sub-02").write_bytes(b"spoilt")
    assert outcomes(here, "sub-02") == [("sub-02_T1w", "failed")]
    assert not (here.out / "sub-02").exists()


def test_what_a_killed_process_left_is_tidied(cohort: Cohort, tmp_path: Path) -> None:
    here = cohort.copy(tmp_path)
    half = here.out / "sub-02" / "anat" / ".metavoxel-0a1b2c3d-sub-02_desc-brain_T1w.nii.gz"
    log = here.out / "logs" / ".metavoxel-0a1b2c3d-sub-02_T1w.json"
    other = here.out / "logs" / ".metavoxel-0a1b2c3d-sub-01_ses-2_T1w.json"  # of somebody at work
    for path in (half, log, other):
        path.write_bytes(b"half")
    assert outcomes(here, "sub-02") == [("sub-02_T1w", "skipped")]
    assert not half.exists()
    assert not log.exists()
    assert other.exists()


def test_a_subject_is_worked_on_by_one_at_a_time(cohort: Cohort, tmp_path: Path) -> None:
    """A second process waits for the first: an orphan of a killed run, or another node's."""
    here = cohort.copy(tmp_path)
    place = os.open(here.out / "sub-02", os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    done: list[Outcome] = []
    thread = threading.Thread(target=lambda: done.extend(run_subject(job_of(here, "sub-02"))))
    thread.start()
    time.sleep(0.5)
    assert not done
    os.close(place)
    thread.join(timeout=30)
    assert [o.status for o in done] == ["skipped"]


def test_a_scan_that_was_in_hand_when_its_worker_died_is_buried(
    cohort: Cohort, tmp_path: Path
) -> None:
    here = cohort.copy(tmp_path)
    job = job_of(here, "sub-01")
    write_status(here.out, "sub-01_ses-10_T1w", status="running")
    assert interrupted(job)
    dead, rest = bury(job, "killed")
    assert [(o.record, o.status, o.reason) for o in dead] == [
        ("sub-01_ses-10_T1w", "failed", "killed")
    ]
    assert [scan.session for scan in rest.scans] == ["ses-2"]
    assert not interrupted(job)


def test_the_voxels_are_placed_by_the_transform_that_is_stored(cohort: Cohort) -> None:
    (path,) = (cohort.out / "sub-02").rglob("*_xfm.txt")
    assert path.name == "sub-02_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.txt"
    assert path.read_text().startswith("#Insight Transform File V1.0")
    rotation = read_rigid(path)[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)


def test_who_is_not_there_is_named(tmp_path: Path) -> None:
    bids = write_raw_cohort(tmp_path / "bids")
    out = tmp_path / "out"
    with pytest.raises(MetaVoxelError, match="sub-77, sub-99 has no raw T1w scan"):
        find_jobs(bids, out, RECIPE, participants=["01", "sub-99", "77"])
    with pytest.raises(MetaVoxelError, match="no raw FLAIR scans"):
        find_jobs(bids, out, RECIPE, suffix="FLAIR")
    with pytest.raises(MetaVoxelError, match="no such folder"):
        find_jobs(tmp_path / "nowhere", out, RECIPE)
    with pytest.raises(MetaVoxelError, match="--masks FOLDER"):
        find_jobs(bids, out, Recipe(skull_strip="mask"))


def test_sessions_are_chosen(tmp_path: Path) -> None:
    bids = write_raw_cohort(tmp_path / "bids")
    jobs = find_jobs(bids, tmp_path / "out", RECIPE, sessions=["10"])
    assert [(s.subject, s.session) for job in jobs for s in job.scans] == [("sub-01", "ses-10")]


def test_derived_images_are_no_raw_scans(cohort: Cohort, tmp_path: Path) -> None:
    """A derivative may stand inside the dataset it came from, or be given by mistake."""
    bids = write_raw_cohort(tmp_path / "bids")
    shutil.copytree(cohort.out, bids / "derivatives" / "brains")
    assert len(find_jobs(bids, tmp_path / "out", RECIPE)) == len(list(scan_files(bids))) - 1
    with pytest.raises(MetaVoxelError, match="no raw T1w scans"):
        find_jobs(cohort.out, tmp_path / "out", RECIPE)
