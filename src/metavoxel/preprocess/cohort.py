"""A whole BIDS folder, scan by scan: in parallel, safe to kill, and never stopped by one scan."""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from metavoxel.data.bids import ScanFile, scan_files
from metavoxel.errors import MetaVoxelError
from metavoxel.files import remove_leftovers
from metavoxel.preprocess.derivative import (
    Outputs,
    describe_dataset,
    file_digest,
    read_status,
    write_status,
)
from metavoxel.preprocess.pipeline import prepare
from metavoxel.preprocess.recipe import Recipe

_DERIVED = ("space", "desc", "res", "label")


@dataclass(frozen=True)
class Job:
    """One subject: its scans in order of session. The first that succeeds is the baseline."""

    scans: tuple[ScanFile, ...]
    bids: Path
    out: Path
    recipe: Recipe
    masks: Path | None = None

    @property
    def subject(self) -> str:
        return self.scans[0].subject


@dataclass(frozen=True)
class Outcome:
    """What became of a scan: "ok", "skipped" (it was done before) or "failed", with the reason."""

    record: str
    status: str
    reason: str = ""
    seconds: float = 0.0


def find_jobs(
    bids: Path,
    out: Path,
    recipe: Recipe,
    suffix: str = "T1w",
    participants: Collection[str] = (),
    sessions: Collection[str] = (),
    masks: Path | None = None,
) -> list[Job]:
    """The subjects of a BIDS folder with raw scans of a suffix. Raises MetaVoxelError."""
    if not bids.is_dir():
        raise MetaVoxelError(f"{bids}: there is no such folder. Give a BIDS dataset.")
    wanted = {f"sub-{p.removeprefix('sub-')}" for p in participants}
    visits = {f"ses-{s.removeprefix('ses-')}" for s in sessions}
    by_subject: dict[str, list[ScanFile]] = {}
    for scan in scan_files(bids):
        raw = scan.suffix == suffix and not any(e in scan.entities for e in _DERIVED)
        chosen = not wanted or scan.subject in wanted
        if raw and chosen and (not visits or scan.session in visits):
            by_subject.setdefault(scan.subject, []).append(scan)
    absent = sorted(wanted - by_subject.keys())
    if absent:
        raise MetaVoxelError(f"{bids}: {', '.join(absent)} has no raw {suffix} scan here.")
    if not by_subject:
        raise MetaVoxelError(
            f"{bids}: there are no raw {suffix} scans (sub-XX/anat/sub-XX_{suffix}.nii.gz)."
        )
    return [Job(tuple(scans), bids, out, recipe, masks) for scans in by_subject.values()]


def preprocess(jobs: Sequence[Job], workers: int = 1, backend: str = "loky") -> Iterator[Outcome]:
    """Prepare every scan of every job, yielding outcomes as they come.

    A scan that cannot be prepared is an outcome, not an error. A worker that dies (for lack of
    memory, say) takes its scan with it, and nothing else. `backend` is joblib's: loky for this
    machine, dask for the cluster of the current dask client.
    """
    if jobs:
        describe_dataset(jobs[0].out, jobs[0].bids, jobs[0].recipe)
    left = list(jobs)
    while left:
        finished: set[str] = set()
        try:
            for outcomes in _parallel(left, workers, backend):
                finished.add(outcomes[0].record)
                yield from outcomes
            return
        except TerminatedWorkerError:
            left = [job for job in left if _records(job)[0] not in finished]
            suspects = [job for job in left if _interrupted(job)]
            left = [job for job in left if job not in suspects]
            for job in suspects:
                yield from _alone(job, backend)


def _parallel(jobs: Sequence[Job], workers: int, backend: str) -> Iterator[list[Outcome]]:
    settings: dict[str, Any] = {"n_jobs": workers} if backend == "loky" else {}
    if backend == "loky":
        settings["inner_max_num_threads"] = 1
    with parallel_config(backend, **settings):
        tasks = (delayed(run_subject)(job) for job in jobs)
        yield from Parallel(return_as="generator_unordered")(tasks)  # type: ignore[misc]


def _alone(job: Job, backend: str) -> Iterator[Outcome]:
    """A subject that was under way when a worker died, with nothing beside it."""
    try:
        for outcomes in _parallel([job], 1, backend):
            yield from outcomes
    except TerminatedWorkerError:
        for record in _records(job):
            status = read_status(job.out, record) or {}
            if status.get("status") == "running":
                reason = "its process was killed, most likely because memory ran out"
                write_status(job.out, record, status="failed", reason=reason)
                yield Outcome(record, "failed", reason)


def _records(job: Job) -> list[str]:
    return [Outputs.of(scan, job.out, job.recipe).record for scan in job.scans]


def _interrupted(job: Job) -> bool:
    return any((read_status(job.out, r) or {}).get("status") == "running" for r in _records(job))


def run_subject(job: Job) -> list[Outcome]:
    """Prepare one subject's scans, in this process."""
    remove_leftovers(job.out / job.subject)
    outcomes: list[Outcome] = []
    baseline: Outputs | None = None
    for scan in job.scans:
        outputs = Outputs.of(scan, job.out, job.recipe)
        start = time.perf_counter()
        try:
            status, reason = "ok" if _prepare(job, scan, outputs, baseline) else "skipped", ""
            baseline = baseline or outputs
        except Exception as error:  # one bad scan never stops the rest
            status, reason = "failed", _reason(error)
            _give_up(job, outputs, reason, error)
        seconds = time.perf_counter() - start
        if status == "ok":
            facts = {"seconds": round(seconds, 2), "peak_memory_mb": _peak_mb()}
            write_status(job.out, outputs.record, status="ok", **facts)
        outcomes.append(Outcome(outputs.record, status, reason, seconds))
    return outcomes


def _prepare(job: Job, scan: ScanFile, outputs: Outputs, baseline: Outputs | None) -> bool:
    """Prepare one scan unless that is done already; whether it was prepared now.

    Done is what was made from the same bytes by the same recipe: dates and names count for nothing.
    """
    mask = _mask_of(scan, job.masks)
    inputs = {
        "scan": file_digest(scan.path),
        "mask": file_digest(mask) if mask else None,
        "baseline": file_digest(baseline.brain) if baseline else None,
        "recipe": job.recipe.digest(),
    }
    done = outputs.read()
    if done is not None and done["Inputs"] == inputs:
        return False
    outputs.remove()
    write_status(job.out, outputs.record, status="running")
    with tempfile.TemporaryDirectory() as folder:
        transform = Path(folder, "rigid.mat")
        fixed = baseline.volume() if baseline else None
        prepared = prepare(scan.path, job.recipe, transform, fixed, mask)
        source = scan.path.relative_to(job.bids).as_posix()
        outputs.write(prepared, transform, source, inputs, job.recipe)
    return True


def _mask_of(scan: ScanFile, masks: Path | None) -> Path | None:
    """The given mask of a scan: a file of the same visit that ends in _mask.nii.gz."""
    if masks is None:
        return None
    visit = [scan.subject, *([scan.session] if scan.session else [])]
    found = sorted(masks.joinpath(*visit).glob("**/*_mask.nii*"))
    if len(found) != 1:
        raise MetaVoxelError(
            f"{masks.joinpath(*visit)}: there are {len(found)} masks (*_mask.nii.gz) of this "
            "visit. Give one."
        )
    return found[0]


def _give_up(job: Job, outputs: Outputs, reason: str, error: Exception) -> None:
    """Leave nothing of an earlier scan, and say why. A full disk must not hide the reason."""
    outputs.remove()
    facts: dict[str, Any] = {"status": "failed", "reason": reason}
    if not isinstance(error, MetaVoxelError):
        facts["traceback"] = "".join(traceback.format_exception(error))
    with contextlib.suppress(MetaVoxelError):
        write_status(job.out, outputs.record, **facts)


def _reason(error: Exception) -> str:
    if isinstance(error, MetaVoxelError):
        return str(error)
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'no reason given'}"


def _peak_mb() -> int:
    """The most memory that this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))
