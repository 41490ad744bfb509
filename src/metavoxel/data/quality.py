"""qc.tsv: what people decided about scans. A line is only ever added; the last on a scan counts."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from metavoxel.errors import MetaVoxelError
from metavoxel.files.table import cells_of, read_lines
from metavoxel.files.text import decoded
from metavoxel.files.wall import check_is_file, reading
from metavoxel.files.writing import open_locked
from metavoxel.words import is_missing

QC_TABLE = "qc.tsv"
UNFINISHED = "qc.tsv.unfinished"  # keeps last lines that were cut short
COLUMNS = ("participant_id", "session_id", "scan", "decision", "note", "rater", "time")
UNDECIDED = "n/a"  # as BIDS writes what is missing: the scan is to be looked at again
DECISIONS = ("pass", "fail", "unsure", UNDECIDED)
_HEADER = "\t".join(COLUMNS) + "\n"
# What a spreadsheet takes for a formula, also behind quotes; an apostrophe before it makes it text.
_FORMULA = re.compile(r"""['"]*[=+\-@＝＋－＠]""")
_KIND = "a table of decisions", f"Move it away, or save it as UTF-8 text with {', '.join(COLUMNS)}."


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
    if not os.path.lexists(path):  # what is there and cannot be read is an error
        return []
    return _decisions(path, read_lines(path))


def last_decisions(decisions: list[Decision]) -> Mapping[str, Decision]:
    """The line that counts, by scan."""
    return {d.scan: d for d in decisions}


def failed_scans(root: Path) -> set[str]:
    """The scans of a dataset whose last decision is to leave them out. Raises MetaVoxelError."""
    last = last_decisions(read_decisions(root))
    return {scan for scan, d in last.items() if d.decision == "fail"}


def append_decision(root: Path, decision: Decision) -> str:
    """Add a line to qc.tsv; it is on the disk when this returns.

    Any number of processes may add at once: one at a time holds the lock, and a line is written
    whole or not at all. Returns a sentence if a last line that was cut short was set aside, else
    nothing. Raises MetaVoxelError, and changes nothing, if the file is not a table of decisions,
    the scan's name cannot stand in one, or the disk cannot take it.
    """
    path = root / QC_TABLE
    line = "\t".join(_cells(decision)) + "\n"
    try:
        with _opened(path) as file:
            content, told = _mended(path, file)
            text = line if content else _HEADER + line
            gap = "" if not content or content.endswith((b"\n", b"\r")) else "\n"
            _write_whole(file, (gap + text).encode(), len(content))
            if not content:
                _sync_folder(root)
    except OSError as error:
        raise MetaVoxelError(
            f"{path} cannot be written ({error.strerror}). The decision is not saved: free some "
            "space or mend the permissions, and decide again."
        ) from error
    return told


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


def one_line(text: str) -> str:
    """Free text as one cell has it: no tab, line break or other control character; n/a if empty."""
    plain = "".join(" " if _is_control(c) else c for c in text)
    return " ".join(plain.split()) or "n/a"


def mend_decisions(root: Path) -> str:
    """Set aside a last line that a power failure cut short; a sentence if there was one.

    Raises MetaVoxelError, and changes nothing, if the file is not a table of decisions.
    """
    path = root / QC_TABLE
    if not os.path.lexists(path):
        return ""
    try:
        with _opened(path) as file:
            return _mended(path, file)[1]
    except OSError as error:
        raise MetaVoxelError(f"{path}: cannot be opened for writing ({error.strerror}).") from None


def _decisions(path: Path, lines: Sequence[Sequence[str]]) -> list[Decision]:
    """The decisions of a table's lines, the header first."""
    header = lines[0]
    if len(lines) == 1 and header == [""]:
        return []  # whoever made the file died before its first line
    for column in COLUMNS:
        if header.count(column) != 1:
            number = "no" if column not in header else "more than one"
            raise MetaVoxelError(
                f'{path}, row 1: there is {number} column "{column}". The columns are '
                f"{', '.join(COLUMNS)}, with tabs between."
            )
    rows = enumerate(lines[1:], start=2)
    return [_decision(path, header, number, line) for number, line in rows if any(line)]


def _decision(path: Path, header: Sequence[str], number: int, line: Sequence[str]) -> Decision:
    if len(line) != len(header):
        raise MetaVoxelError(
            f"{path}, row {number}: {len(line)} cells where the header has {len(header)}. Separate "
            "cells with tabs and write n/a where there is nothing to say."
        )
    cells = {k: _from_cell(x) for k, x in zip(header, line, strict=True)}
    if is_missing(cells["scan"]):
        raise MetaVoxelError(
            f'{path}, row {number}, column "scan": it is empty. Write a scan, as sub-01_T1w.'
        )
    if cells["decision"] not in DECISIONS:
        raise MetaVoxelError(
            f'{path}, row {number}, column "decision": "{cells["decision"]}" is no decision. '
            f"Write {', '.join(DECISIONS[:-1])} or {UNDECIDED}."
        )
    return Decision(**{column: cells[column] for column in COLUMNS})


def _cells(decision: Decision) -> list[str]:
    """A decision as the cells of its line. Raises MetaVoxelError if its scan fits in none."""
    for name in (decision.participant_id, decision.session_id, decision.scan):
        if not name or name != name.strip() or any(map(_is_control, name)):
            raise MetaVoxelError(
                f"{name!a} cannot stand in {QC_TABLE}: it has a tab, a line break or another "
                "character that is no text, or begins or ends with a space. Rename the scan."
            )
    told = replace(decision, note=one_line(decision.note), rater=one_line(decision.rater))
    return [_to_cell(x) for x in astuple(told)]


def _to_cell(text: str) -> str:
    """Text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def _from_cell(cell: str) -> str:
    """The text that `_to_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def _is_control(character: str) -> bool:
    """Whether a character is no text: a control character, or half of a surrogate pair."""
    return unicodedata.category(character) in ("Cc", "Cs")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, open for adding, and nobody else's until the block ends. Made if it is absent."""
    if os.path.lexists(path):
        check_is_file(path)
    file = open_locked(path)
    try:
        yield file
    finally:
        os.close(file)  # which gives the lock back


def _mended(path: Path, file: int) -> tuple[bytes, str]:
    """What the file holds, without a last line that was cut short, and a sentence if one was.

    Such a line is kept in a file beside. Raises MetaVoxelError, before anything is changed, if the
    rest is not a table of decisions.
    """
    content = os.pread(file, os.fstat(file).st_size, 0)
    end = max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
    if _is_line(content[end:]):  # saved by an editor that ends files without a line break
        end = len(content)
    whole, last = content[:end], content[end:]
    if whole or not _HEADER.encode().startswith(last):
        with reading(path, *_KIND):
            lines = cells_of(decoded(whole or last))
            if lines[0] != [*COLUMNS]:
                raise MetaVoxelError(
                    f"{path}, row 1: decisions are added under the columns {', '.join(COLUMNS)}, "
                    "in this order and no others, with tabs between. Mend the header."
                )
            _decisions(path, lines)
    if not last.strip():
        return content, ""
    _set_aside(path, file, last, end)
    return whole, (
        f"{path}: its last line was cut short and does not count. It is kept in {UNFINISHED}; "
        "judge that scan again."
    )


def _is_line(data: bytes) -> bool:
    """Whether bytes without a line break at their end are a whole line all the same."""
    try:
        return len(cells_of(decoded(data))[0]) == len(COLUMNS)
    except ValueError:
        return False


def _set_aside(path: Path, file: int, last: bytes, end: int) -> None:
    """Keep an unfinished last line in a file beside, then cut it off. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    beside = os.open(path.with_name(UNFINISHED), flags, 0o666)
    try:
        _write_whole(beside, last + b"\n", os.fstat(beside).st_size)
    finally:
        os.close(beside)
    os.ftruncate(file, end)


def _write_whole(file: int, data: bytes, size: int) -> None:
    """Add to a file of a size, or leave it at that. Raises OSError."""
    try:
        if os.pwrite(file, data, size) < len(data):
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
