"""The participant level of the BIDS App: prepare a cohort, and say how it went."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.cohort import Outcome, find_jobs
from metavoxel.preprocess.derivative import describe_dataset
from metavoxel.preprocess.executors import Executor, on_dask, on_this_machine
from metavoxel.preprocess.recipe import Recipe


@dataclass(frozen=True)
class Selection:
    """Which scans of a BIDS folder are meant: all, unless subjects or sessions are named."""

    suffix: str = "T1w"
    participants: Collection[str] = ()
    sessions: Collection[str] = ()
    masks: Path | None = None


def executor_named(name: str, workers: int) -> Executor:
    """ "local", or the address of a dask scheduler. Raises MetaVoxelError."""
    if name == "local":
        return on_this_machine(workers)
    if "://" not in name and ":" not in name:
        raise MetaVoxelError(
            f'"{name}" is no executor. Give local, or a dask scheduler such as tcp://node:8786.'
        )
    return on_dask(name)


def run_participants(
    bids: Path, out: Path, recipe: Recipe, chosen: Selection, run: Executor, console: Console
) -> int:
    """Prepare every chosen scan; how many failed. Raises MetaVoxelError if it cannot begin."""
    out = out.resolve()  # where a link points
    jobs = find_jobs(
        bids,
        out,
        recipe,
        chosen.suffix,
        chosen.participants,
        chosen.sessions,
        chosen.masks,
        lambda note: _line(f"Warning: {note}", console),
    )
    describe_dataset(out, bids, recipe)
    total, start = sum(len(job.scans) for job in jobs), time.perf_counter()
    outcomes: list[Outcome] = []
    for outcome in _shown((o for each in run(jobs) for o in each), total, console):
        outcomes.append(outcome)
    _summarise(outcomes, time.perf_counter() - start, console)
    return sum(o.status == "failed" for o in outcomes)


def _shown(outcomes: Iterable[Outcome], total: int, console: Console) -> Iterator[Outcome]:
    """Pass outcomes on, with a bar and the time left; a line each where there is no terminal."""
    columns = (
        TextColumn("Preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    prepared, start = 0, time.perf_counter()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total, left="")
        for done, outcome in enumerate(outcomes, 1):
            prepared += outcome.status != "skipped"  # what is skipped takes no time
            left = (time.perf_counter() - start) * (total - done) / max(prepared, 1)
            bar.update(task, completed=done, left=_duration(left) + " left" if prepared else "")
            if not console.is_terminal and outcome.status != "skipped":
                _line(f"{done}/{total} {outcome.record}: {_told(outcome)}", console)
            yield outcome


def _told(outcome: Outcome) -> str:
    return outcome.reason or f"prepared in {outcome.seconds:.0f} s"


def _summarise(outcomes: list[Outcome], seconds: float, console: Console) -> None:
    """What was done, how fast, in how much memory; the failures by name with their reasons."""
    counts = {s: sum(o.status == s for o in outcomes) for s in ("ok", "skipped", "failed")}
    peaks = [o.peak_memory_mb for o in outcomes if o.status == "ok"]
    told = [f"{counts['ok']} prepared in {_duration(seconds)}"] if counts["ok"] else []
    told += [f"{counts['skipped']} done before"] if counts["skipped"] else []
    told += [f"{counts['failed']} failed"] if counts["failed"] else []
    told += [f"a worker held {max(peaks) / 1000:.1f} GB at most"] if peaks else []
    _line("; ".join(told) + ".", console)
    for outcome in outcomes:
        if outcome.status == "failed":
            _line(f"  {outcome.record}: {outcome.reason}", console)
    if counts["failed"]:
        _line("Run the same command again to try these again, and only these.", console)


def _line(text: str, console: Console) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
