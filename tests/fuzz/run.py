"""Mutants of every kind of file through our readers, each in a process of its own: `make fuzz`.

A child may hold 3 GB and work for 20 s. It must read the mutant or refuse it in one sentence. A
traceback, a hang, and a mutant that is taken for a good file though a checksum or the grammar
covers the change are faults; their counts are printed, and the numbers that make them again:

    PYTHONPATH=tests python -m fuzz.run --cases 10000 --seed 0 [--case 17]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from fuzz.mutants import mutant
from fuzz.targets import Target, build, targets

SECONDS, GIGABYTES = 20, 3
FAULTS = ("traceback", "hang", "killed", "accepted silently")
KINDS = ("refused", "read alike", "still valid", *FAULTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", help="targets whose name holds this")
    parser.add_argument("--case", type=int, help="one case again, with all that it says")
    given = parser.parse_args()
    every = [t for t in targets() if given.only is None or given.only in t.name]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "whole"
        build(place)
        goods = {t.name: _read_whole(t, place, Path(folder)) for t in every}
        if given.case is not None:
            return _again(every, goods, place, given.seed, given.case)
        parts = _shared(every, goods, place, given.seed, given.cases, given.jobs)
    counts: Counter[tuple[str, str]] = Counter()
    for found, told in parts:
        counts.update(found)
        sys.stdout.writelines(told)
    _print_table(counts, [t.name for t in every])
    print(f"{given.cases} cases in {time.monotonic() - start:.0f} s, seed {given.seed}")
    return int(any(counts[name, kind] for name, kind in counts if kind in FAULTS))


def _read_whole(target: Target, place: Path, folder: Path) -> Any:
    """What the target makes of the whole file."""
    here = folder / "unchanged"
    shutil.copytree(place, here)
    try:
        return target.read(here)
    finally:
        shutil.rmtree(here)


def _shared(
    every: Sequence[Target], goods: dict[str, Any], place: Path, seed: int, cases: int, jobs: int
) -> list[tuple[Counter[tuple[str, str]], list[str]]]:
    """The cases, shared out to processes; what each of them found."""
    pipes = []
    for job in range(jobs):
        reads, writes = os.pipe()
        if os.fork() == 0:
            try:
                found = _shard(every, goods, place, seed, range(job, cases, jobs))
                with os.fdopen(writes, "w") as pipe:
                    json.dump(found, pipe)
            finally:  # never back into main, whose folders are the parent's
                os._exit(1)
        os.close(writes)
        pipes.append(reads)
    out = []
    for reads in pipes:
        with os.fdopen(reads) as pipe:
            counts, told = json.load(pipe)
        out.append((Counter({(name, kind): n for name, kind, n in counts}), told))
    return out


def _shard(
    every: Sequence[Target], goods: dict[str, Any], place: Path, seed: int, cases: range
) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Counts by target and outcome, and what to tell of the faults."""
    counts: Counter[tuple[str, str]] = Counter()
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if case % 500 == 0:
                print(f"case {case} of {cases.stop}", file=sys.stderr, flush=True)
            target = every[case % len(every)]
            kind, said = run_case(target, goods[target.name], place, Path(folder), seed, case)
            counts[target.name, kind] += 1
            if kind in FAULTS:
                told.append(f"{kind}: {target.name}, --seed {seed} --case {case}\n{said}\n")
    return [(*key, n) for key, n in counts.items()], told


def changed_file(target: Target, place: Path, seed: int, case: int) -> tuple[bytes, bytes]:
    """The target's file, and its mutant of this number."""
    whole = (place / target.file).read_bytes()
    random = Random(f"{seed} {case}")
    return whole, mutant(whole, random)


def run_case(
    target: Target, good: Any, place: Path, folder: Path, seed: int, case: int
) -> tuple[str, str]:
    """What became of one mutant, and what was said of it."""
    whole, data = changed_file(target, place, seed, case)
    here = folder / f"case-{case}"
    shutil.copytree(place, here)
    (here / target.file).write_bytes(data)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        os.setsid()
        _limit()
        result = _outcome(target, good, here, whole, data)
        os.write(writes, json.dumps([result[0], result[1][-4000:]]).encode())
        os._exit(0)
    os.close(writes)
    said = _answer_of(child, reads)
    shutil.rmtree(here, ignore_errors=True)
    return said


def _limit() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = held + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _outcome(target: Target, good: Any, here: Path, whole: bytes, data: bytes) -> tuple[str, str]:
    from metavoxel.errors import MetaVoxelError

    try:
        found = target.read(here)
    except MetaVoxelError as error:
        said = str(error)
        if "\n" in said or not said.endswith(".") or not said.isprintable():
            return "traceback", f"not one sentence: {said!r}"
        return "refused", said
    except BaseException:
        return "traceback", traceback.format_exc()
    alike = found == good
    if data != whole and target.covered(data) and (target.strict or not alike):
        return "accepted silently", f"{len(whole)} bytes, {len(data)} in the mutant"
    return ("read alike" if alike else "still valid"), str(found)


def _answer_of(child: int, reads: int) -> tuple[str, str]:
    """What a child sent, or how it ended."""
    with os.fdopen(reads, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], 3 * SECONDS)
        sent = pipe.read() if ready else b""
    if not ready:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ready:
        return "hang", f"nothing within {3 * SECONDS} s"
    if sent:
        kind, said = json.loads(sent)
        return kind, said
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return "hang", f"more than {SECONDS} s of processor time"
    return "killed", f"signal {number}, status {status}"


def _again(
    every: Sequence[Target], goods: dict[str, Any], place: Path, seed: int, case: int
) -> int:
    """One case in this process, so that its traceback is seen."""
    target = every[case % len(every)]
    whole, data = changed_file(target, place, seed, case)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "case"
        shutil.copytree(place, here)
        (here / target.file).write_bytes(data)
        print(f"{target.name}: {target.file}, {len(data)} bytes: {data[:400]!r}")
        print(*_outcome(target, goods[target.name], here, whole, data), sep=": ")
    return 0


def _print_table(counts: Counter[tuple[str, str]], names: Sequence[str]) -> None:
    width = max(map(len, names))
    print(" " * width, *(f"{kind:>17}" for kind in KINDS))
    for name in (*names, "all"):
        chosen = names if name == "all" else [name]
        row = [sum(counts[target, kind] for target in chosen) for kind in KINDS]
        print(f"{name:{width}}", *(f"{n:>17}" for n in row))


if __name__ == "__main__":
    sys.exit(main())
