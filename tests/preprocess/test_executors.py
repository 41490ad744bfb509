"""Workers in any number, anywhere, give the same bits; one that is killed takes only its scan."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from folders import read_nifti, write_nifti
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.cohort import Job, Outcome, find_jobs
from metavoxel.preprocess.derivative import describe_dataset
from metavoxel.preprocess.executors import Executor, on_dask, on_this_machine
from metavoxel.preprocess.logs import read_status
from metavoxel.preprocess.recipe import Recipe
from raw_cohort import Cohort, raw
from raw_scans import moved, run, voxels, write_brain

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
RECIPE = Recipe(skull_strip="none")


def results(executor: Executor, jobs: list[Job]) -> dict[str, Outcome]:
    describe_dataset(jobs[0].out, jobs[0].bids, jobs[0].recipe)
    return {o.record: o for outcomes in executor(jobs) for o in outcomes}


@contextmanager
def dask_cluster() -> Iterator[str]:
    """A real cluster of two processes. A task that kills its worker is not tried again."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None, memory_limit=0
        ) as cluster,
    ):
        yield cluster.scheduler_address


def same_as_locally(cohort: Cohort, out: Path) -> None:
    for path in cohort.out.glob("sub-*/**/*.nii.gz"):
        there = out / path.relative_to(cohort.out)
        np.testing.assert_array_equal(voxels(there), voxels(path))


@pytest.mark.whole
def test_a_dask_cluster_gives_the_same_bits(cohort: Cohort, tmp_path: Path) -> None:
    """Its workers have two threads each, unlike ours: a process prepares one scan at a time."""
    command = ["preprocess", "bids", tmp_path / "out", "participant", "--skull-strip", "none"]
    command += ["--participant-label", "01", "02", "11"]
    with dask_cluster() as scheduler:
        status, said = run(cohort.bids.parent, *command, "--executor", scheduler)
    assert status == 1
    assert "3 prepared in" in said
    assert "sub-11_T1w: " in said
    same_as_locally(cohort, tmp_path / "out")


# In place of FreeSurfer's program: one that kills the worker which called it when it sees a scan
# with 7 in its corner, as the kernel does when memory runs out.
KILLER = f"""#!{sys.executable}
import os, signal, sys
import nibabel as nib
import numpy as np
image = nib.load(sys.argv[2])
voxels = np.asarray(image.dataobj)
if voxels[0, 0, 0] > 5:
    os.kill(os.getppid(), signal.SIGKILL)
nib.save(nib.Nifti1Image((voxels > 50).astype(np.uint8), image.affine), sys.argv[4])
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Two subjects; the first visit of the second kills the worker that takes it."""
    program = tmp_path / "bin" / "mri_synthstrip"
    program.parent.mkdir()
    program.write_text(KILLER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    bids = tmp_path / "bids"
    for name in ("sub-01", "sub-02/ses-1", "sub-02/ses-2"):
        subject, _, session = name.partition("/")
        write_head(raw(bids, subject, session), deadly=session == "ses-1")
    recipe = Recipe(skull_strip="synthstrip", bias_correction="none", resolution=4)
    return find_jobs(bids, tmp_path / "out", recipe)


def write_head(path: Path, deadly: bool) -> None:
    """The template's brain in a grey box, so that it is not taken for stripped."""
    write_brain(path, moved((1, 2, 3), (3, 2, 1)))
    voxels, affine = read_nifti(path)
    head = np.maximum(voxels, 2)
    head[0, 0, 0] = 7 if deadly else 2
    write_nifti(path, head, affine)


def check_only_the_deadly_scan_is_lost(found: dict[str, Outcome], out: Path, reason: str) -> None:
    assert {r: o.status for r, o in found.items() if o.status != "ok"} == {
        "sub-02_ses-1_T1w": "failed"
    }
    assert len(found) == 3
    assert reason in found["sub-02_ses-1_T1w"].reason
    assert (read_status(out, "sub-02_ses-1_T1w") or {})["status"] == "failed"


@pytest.mark.whole
def test_a_killed_worker_takes_only_its_scan(deadly: list[Job]) -> None:
    found = results(on_this_machine(2), deadly)
    check_only_the_deadly_scan_is_lost(found, deadly[0].out, "killed, most likely because memory")


@pytest.mark.whole
def test_a_killed_worker_of_dask_takes_only_its_scan(deadly: list[Job]) -> None:
    with dask_cluster() as scheduler:
        found = results(on_dask(scheduler), deadly)
    check_only_the_deadly_scan_is_lost(found, deadly[0].out, "dask workers that had it were killed")


def test_no_scheduler(tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match=r"tcp://127\.0\.0\.1:9: no dask scheduler answers"):
        list(on_dask("tcp://127.0.0.1:9")([]))


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MetaVoxelError, match=r"pip install 'metavoxel\[prep,dask\]'"):
        on_dask("tcp://127.0.0.1:8786")
