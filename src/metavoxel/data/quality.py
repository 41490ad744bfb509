"""qc.tsv: what people decided about scans. A line is only ever added; the last on a scan counts."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from metavoxel.data.tables import MISSING
from metavoxel.errors import MetaVoxelError

QC_TABLE = "qc.tsv"
COLUMNS = ("participant_id", "session_id", "scan", "decision", "note", "rater", "time")
UNDECIDED = "n/a"  # as BIDS writes what is missing: the scan is to be looked at again
DECISIONS = ("pass", "fail", "unsure", UNDECIDED)
_HEADER = "\t".join(COLUMNS) + "\n"


@dataclass(frozen=True)
class Decision:
    """One line of qc.tsv. `scan` is a raw scan's name without extension, as sub-01_ses-a_T1w;
    `time` is ISO 8601 with its offset from UTC. What is not known is n/a."""

    participant_id: str
    session_id: str
    scan: str
    decision: str
    note: str
    rater: str
    time: str


def read_decisions(root: Path) -> list[Decision]:
    """Every line of a dataset's qc.tsv in order; none where there is no such file.

    Raises MetaVoxelError naming file, row and column.
    """
    path = root / QC_TABLE
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            lines = [[cell.strip() for cell in line] for line in reader]
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise MetaVoxelError(f"{path}: cannot be read ({error}). Save it as UTF-8 text.") from None
    if not lines:  # whoever made the file died before its first line
        return []
    header = lines[0]
    for column in COLUMNS:
        if column not in header:
            raise MetaVoxelError(
                f'{path}, row 1: there is no column "{column}". The columns are '
                f"{', '.join(COLUMNS)}, with tabs between."
            )
    rows = enumerate(lines[1:], start=2)
    return [_decision(path, header, number, line) for number, line in rows if any(line)]


def last_decisions(decisions: list[Decision]) -> Mapping[str, Decision]:
    """The line that counts, by scan."""
    return {d.scan: d for d in decisions}


def failed_scans(root: Path) -> set[str]:
    """The scans of a dataset whose last decision is to leave them out. Raises MetaVoxelError."""
    last = last_decisions(read_decisions(root))
    return {scan for scan, d in last.items() if d.decision == "fail"}


def append_decision(root: Path, decision: Decision) -> None:
    """Add a line to qc.tsv; it is on the disk when this returns.

    Any number of processes may add at once: one at a time holds the lock, and a line is written
    whole or not at all. Raises MetaVoxelError if the disk cannot take it.
    """
    path = root / QC_TABLE
    line = "\t".join(_cell(x) for x in astuple(decision)) + "\n"
    try:
        with _locked(path) as file:
            size = _mended_size(file)
            _check_header(path, file, size)
            data = (line if size else _HEADER + line).encode()
            if _lacks_newline(file, size):
                data = b"\n" + data
            _write_whole(file, data, size)
            if not size:
                _sync_folder(root)
    except OSError as error:
        raise MetaVoxelError(
            f"{path} cannot be written ({error.strerror}). The decision is not saved: free some "
            "space or mend the permissions, and decide again."
        ) from error


def withdraw_decision(root: Path, scan: str, why: str, rater: str) -> None:
    """Take a decision back whose scan is not what was judged any more: it is to be looked at again.

    Adds nothing where there is none. Raises MetaVoxelError as read_decisions and append_decision.
    """
    last = last_decisions(read_decisions(root)).get(scan)
    if last is not None and last.decision != UNDECIDED:
        taken_back = replace(last, decision=UNDECIDED, note=why, rater=rater, time=now())
        append_decision(root, taken_back)


def now() -> str:
    """The time as qc.tsv has it."""
    return datetime.now(UTC).astimezone().isoformat(timespec="milliseconds")


def mend_decisions(root: Path) -> None:
    """Take off a last line that a power failure cut short. Raises MetaVoxelError."""
    path = root / QC_TABLE
    if not path.is_file():
        return
    try:
        with _locked(path) as file:
            _check_header(path, file, _mended_size(file))
    except OSError as error:
        raise MetaVoxelError(f"{path}: cannot be opened for writing ({error.strerror}).") from None


def _decision(path: Path, header: list[str], number: int, line: list[str]) -> Decision:
    if len(line) != len(header):
        raise MetaVoxelError(
            f"{path}, row {number}: {len(line)} cells where the header has {len(header)}. Separate "
            "cells with tabs and write n/a where there is nothing to say."
        )
    cells = dict(zip(header, line, strict=True))
    if cells["scan"] in MISSING:
        raise MetaVoxelError(
            f'{path}, row {number}, column "scan": it is empty. Write a scan, as sub-01_T1w.'
        )
    if cells["decision"] not in DECISIONS:
        raise MetaVoxelError(
            f'{path}, row {number}, column "decision": "{cells["decision"]}" is no decision. '
            f"Write {', '.join(DECISIONS[:-1])} or {UNDECIDED}."
        )
    return Decision(**{column: cells[column] for column in COLUMNS})


def _cell(text: str) -> str:
    """Text that fits a cell: a tab or a line break in a note must not become a cell or a row."""
    return " ".join(text.split()) or "n/a"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open for adding, and nobody else's until the block ends."""
    import fcntl  # which Windows does not have: decisions can only be read there

    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)  # which gives the lock back


def _check_header(path: Path, file: int, size: int) -> None:
    """Whether lines that are added to the file stand under the right columns."""
    first = os.pread(file, 4096, 0).decode(errors="replace").partition("\n")[0]
    if size and first.strip() != _HEADER.strip():
        raise MetaVoxelError(
            f"{path}, row 1: decisions are added under the columns {', '.join(COLUMNS)}, in this "
            "order and no others, with tabs between. Mend the header."
        )


def _mended_size(file: int) -> int:
    """The file's size, less a last line that was never finished (and so never acknowledged)."""
    size = os.fstat(file).st_size
    start = max(0, size - 2**16)
    tail = os.pread(file, size - start, start)
    kept = tail.rfind(b"\n") + 1
    unfinished = tail[kept:]
    if unfinished.count(b"\t") < len(COLUMNS) - 1 or b"\0" in unfinished:
        os.ftruncate(file, start + kept)
        return start + kept
    return size  # a whole line, saved by an editor that ends files without a line break


def _lacks_newline(file: int, size: int) -> bool:
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _write_whole(file: int, data: bytes, size: int) -> None:
    try:
        written = os.write(file, data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _sync_folder(folder: Path) -> None:
    """A file's name is on the disk only once its folder is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
