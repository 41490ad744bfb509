"""A BIDS folder, subject by subject: safe to kill, and never stopped by one scan."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metavoxel.data.quality import withdraw_decision
from metavoxel.data.scans import ScanFile, Scans, find_scans
from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import one_line
from metavoxel.files.writing import remove_leftovers
from metavoxel.preprocess.derivative import Outputs, check_recipe
from metavoxel.preprocess.logs import LOGS, StrangerError, file_digest, read_status, write_status
from metavoxel.preprocess.pipeline import prepare
from metavoxel.preprocess.recipe import Recipe

_ONE_SCAN = threading.Lock()


@dataclass(frozen=True)
class Job:
    """One subject: its scans in order of session. The first that can be had is the baseline.

    `masks` are those that were given of the subject, None where the recipe takes none.
    """

    scans: tuple[ScanFile, ...]
    bids: Path
    out: Path
    recipe: Recipe
    masks: tuple[ScanFile, ...] | None = None

    @property
    def subject(self) -> str:
        return self.scans[0].subject


@dataclass(frozen=True)
class Outcome:
    """What became of a scan: "ok", "skipped" (it was done before) or "failed", with the reason."""

    subject: str
    record: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    peak_memory_mb: int = 0


def find_jobs(
    bids: Path,
    out: Path,
    recipe: Recipe,
    suffix: str = "T1w",
    participants: Collection[str] = (),
    sessions: Collection[str] = (),
    masks: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> list[Job]:
    """The subjects of a BIDS folder with raw scans of a suffix.

    `warn` is told of scans that cannot be reached. Raises MetaVoxelError; also if the results of
    two scans would have one name.
    """
    if not bids.is_dir():
        raise MetaVoxelError(f"{bids}: there is no such folder. Give a BIDS dataset.")
    if (masks is not None) != (recipe.skull_strip == "mask"):
        raise MetaVoxelError(
            "Masks are given with --skull-strip mask --masks FOLDER, both or none."
        )
    bids, out = bids.absolute(), out.absolute()  # a worker may stand in another folder
    scans = find_scans(bids)
    by_subject = _chosen(scans, bids, suffix, participants, sessions)
    for note in scans.unreachable([suffix]):
        warn(note)
    given = _masks_by_subject(masks)
    jobs = [
        Job(tuple(sorted(found, key=_visit_order)), bids, out, recipe, given and given(subject))
        for subject, found in by_subject.items()
    ]
    _check_apart(jobs)
    return jobs


def _chosen(
    scans: Scans,
    bids: Path,
    suffix: str,
    participants: Collection[str],
    sessions: Collection[str],
) -> dict[str, list[ScanFile]]:
    """The raw scans that are meant, by subject. Raises MetaVoxelError."""
    wanted = {f"sub-{p.removeprefix('sub-')}" for p in participants}
    visits = {f"ses-{s.removeprefix('ses-')}" for s in sessions}
    by_subject: dict[str, list[ScanFile]] = {}
    for scan in scans.files:
        chosen = not wanted or scan.subject in wanted
        visited = not visits or scan.session in visits
        if scan.suffix == suffix and not scan.derived and chosen and visited:
            by_subject.setdefault(scan.subject, []).append(scan)
    unreachable = "".join(f" {note}" for note in scans.unreachable([suffix]))
    absent = sorted(wanted - by_subject.keys())
    if absent:
        raise MetaVoxelError(
            f"{bids}: {', '.join(absent)} has no raw {suffix} scan here.{unreachable}"
        )
    if not by_subject:
        raise MetaVoxelError(
            f"{bids}: there are no raw {suffix} scans (sub-XX/anat/sub-XX_{suffix}.nii.gz)."
            f"{unreachable}"
        )
    return by_subject


def _masks_by_subject(folder: Path | None) -> Callable[[str], tuple[ScanFile, ...]] | None:
    """The masks in a folder like BIDS, of each subject; those whose file is not here, too."""
    if folder is None:
        return None
    if not folder.is_dir():
        raise MetaVoxelError(f"{folder}: there is no such folder. Give one like BIDS, with masks.")
    scans = find_scans(folder.absolute())
    masks = [f for f in (*scans.files, *scans.dead) if f.suffix == "mask"]
    return lambda subject: tuple(f for f in masks if f.subject == subject)


def _check_apart(jobs: list[Job]) -> None:
    """Raise MetaVoxelError if the results of two scans would have one name, or one no text has."""
    taken: dict[Path, ScanFile] = {}
    for job in jobs:
        for scan in job.scans:
            if not _is_text(str(scan.path)):
                raise MetaVoxelError(
                    f"{one_line(scan.path)}: its name is not UTF-8, and no table or sidecar can "
                    "hold it. Rename it."
                )
            outputs = Outputs.of(scan, job.out, job.recipe)
            for path in (*outputs.files, job.out / LOGS / outputs.record):
                other = taken.setdefault(path, scan)
                if other is not scan:
                    raise MetaVoxelError(
                        f"{other.path} and {scan.path} are both {outputs.record}, so that one "
                        "would overwrite the other's result. Keep one of them."
                    )


def _is_text(name: str) -> bool:
    """Whether a file name is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _visit_order(scan: ScanFile) -> list[tuple[int, str]]:
    """Numbers in names count as numbers: ses-2 comes before ses-10."""
    parts = re.split(r"(\d+)", f"{scan.session or ''}/{scan.path.name}")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def interrupted(job: Job) -> bool:
    """Whether one of its scans was begun and neither finished nor given up."""
    return any(_is_running(o) for o in _outputs(job))


def bury(job: Job, reason: str) -> tuple[list[Outcome], Job]:
    """Give up the scan that a dead worker had in hand; its outcome, and the job without it.

    If none was in hand the whole job is given up.
    """
    dead = [o.record for o in _outputs(job) if _is_running(o)] or _records(job)
    for outputs in _outputs(job):
        if outputs.record in dead:
            with contextlib.suppress(MetaVoxelError):  # a log that is not ours
                outputs.remove()
                write_status(job.out, outputs.record, status="failed", reason=reason, files={})
    pairs = zip(job.scans, _records(job), strict=True)
    left = tuple(scan for scan, record in pairs if record not in dead)
    return [Outcome(job.subject, r, "failed", reason) for r in dead], replace(job, scans=left)


def _is_running(outputs: Outputs) -> bool:
    with contextlib.suppress(MetaVoxelError):
        return (read_status(outputs.out, outputs.record) or {}).get("status") == "running"
    return False


def _outputs(job: Job) -> list[Outputs]:
    return [Outputs.of(scan, job.out, job.recipe) for scan in job.scans]


def _records(job: Job) -> list[str]:
    return [outputs.record for outputs in _outputs(job)]


def run_subject(job: Job) -> list[Outcome]:
    """Prepare one subject's scans, in this process."""
    folder = job.out / job.subject
    try:
        check_recipe(job.out, job.recipe.declaration())  # another node, other tools?
        with _alone_at(folder):
            _tidy(job)
            return _prepare_all(job)
    except MetaVoxelError as error:
        reason = str(error)
    except OSError as error:  # not even a folder can be made
        reason = f"{folder} cannot be written ({error.strerror}). Free some space."
    finally:
        for empty in (*folder.glob("**/anat"), *folder.glob("ses-*"), folder):
            with contextlib.suppress(OSError):  # it is not empty
                empty.rmdir()
    return [Outcome(job.subject, record, "failed", reason) for record in _records(job)]


def _tidy(job: Job) -> None:
    """Delete what a killed process was writing about this subject."""
    remove_leftovers(job.out / job.subject)
    for record in _records(job):
        for path in (job.out / LOGS).glob(f".metavoxel-????????-{glob.escape(record)}.json"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone_at(folder: Path) -> Iterator[None]:
    """Wait for whoever is at work on the same subject: an orphan of a killed run, another node.

    And one scan at a time in a process: the tools' seeds and threads are the whole process's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _ONE_SCAN:
        place = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # not every network file system has locks
                fcntl.flock(place, fcntl.LOCK_EX)
            yield
        finally:
            os.close(place)


def _prepare_all(job: Job) -> list[Outcome]:
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
        seconds, peak = time.perf_counter() - start, 0
        if status == "ok":
            peak = _peak_mb()
            facts = {"seconds": round(seconds, 2), "peak_memory_mb": peak}
            write_status(job.out, outputs.record, status="ok", **facts, files=outputs.written())
        outcomes.append(Outcome(job.subject, outputs.record, status, reason, seconds, peak))
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
    if done is not None and done.get("Inputs") == inputs:
        return False
    outputs.check_ours()
    withdraw_decision(job.out, outputs.record, "prepared again", "metavoxel preprocess")
    outputs.remove()
    write_status(job.out, outputs.record, status="running", files=outputs.unwritten())
    with tempfile.TemporaryDirectory() as folder:
        transform = Path(folder, "rigid.txt")
        fixed = baseline.volume() if baseline else None
        prepared = prepare(scan.path, job.recipe, transform, fixed, mask)
        source = scan.path.relative_to(job.bids).as_posix()
        outputs.write(prepared, transform, source, inputs, job.recipe)
    return True


def _mask_of(scan: ScanFile, masks: tuple[ScanFile, ...] | None) -> Path | None:
    """The given mask of a scan: the one of its visit, or of several the one with its entities."""
    if masks is None:
        return None
    found = [m for m in masks if m.session == scan.session]
    if len(found) > 1:
        found = [m for m in found if m.fits(scan.entities)]
    if len(found) != 1:
        raise MetaVoxelError(
            f"{scan.path}: there are {len(found)} masks ({scan.subject}_..._mask.nii.gz) of this "
            "scan under --masks. Give one."
        )
    return found[0].path


def _give_up(job: Job, outputs: Outputs, reason: str, error: Exception) -> None:
    """Leave nothing of an earlier scan, and say why. A full disk must not hide the reason.

    Where files are in the way that are not ours nothing at all is removed, until somebody has
    looked at them.
    """
    facts: dict[str, Any] = {"status": "failed", "reason": reason}
    if not isinstance(error, MetaVoxelError):
        facts["traceback"] = "".join(traceback.format_exception(error))
    with contextlib.suppress(MetaVoxelError):
        if isinstance(error, StrangerError):
            facts["files"] = outputs.ours()
        else:
            outputs.remove()
            facts["files"] = {}
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
