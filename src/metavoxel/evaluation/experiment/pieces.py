"""An experiment in pieces: each is done once, its result kept, by whichever process is free."""

from __future__ import annotations

import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.files.writing import BusyError, atomic_write, locked
from metavoxel.settings import Strict

_WAIT = 5.0  # seconds between looks at what other processes are doing


class Record(Strict):
    """What is kept of a piece that is done."""

    piece: str
    key: str
    seconds: float
    date: str
    machine: str


@dataclass(frozen=True)
class Piece:
    """A part of the work: its name, how it is done, what its result depends on, and those it needs.

    `do` is called with the console. What it keeps on the way is its own; when it has ended, the
    piece is done, and its record stands in the folder of the pieces with the `key` that it was done
    under. Another key is other work. It is asked for when the needed pieces are done.
    """

    name: str
    do: Callable[[Console], None]
    key: Callable[[], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pieces:
    """Pieces in the order in which one process does them, with their records in `folder`.

    Several processes may share a folder, on one machine or on a shared disk: each takes the next
    piece that nobody works on and that has what it needs.
    """

    folder: Path
    pieces: Sequence[Piece]

    def run(self, console: Console) -> None:
        """Do what is left. A piece that fails stops those that need it; when the others are done,
        its error is raised."""
        failed: dict[str, Exception] = {}
        while left := self._left(failed):
            if not any(self._try(p, console, failed) for p in left):
                time.sleep(_WAIT)  # others are at work on what we need
        for piece in self.pieces:
            if piece.name in failed and not self.done(piece):
                raise failed[piece.name]

    def _left(self, failed: Collection[str]) -> list[Piece]:
        """The pieces to do that need nothing which has failed here."""
        hopeless, before = set(failed), -1
        while len(hopeless) > before:
            before = len(hopeless)
            hopeless |= {p.name for p in self.pieces if hopeless.intersection(p.needs)}
        return [p for p in self.pieces if p.name not in hopeless and not self.done(p)]

    def done(self, piece: Piece) -> bool:
        record = self._record(piece)
        return record is not None and record.key == piece.key()

    def seconds(self) -> dict[str, float]:
        """How long every piece that is done took, in its last process."""
        records = {p.name: self._record(p) for p in self.pieces if self.done(p)}
        return {name: record.seconds for name, record in records.items() if record is not None}

    def _try(self, piece: Piece, console: Console, failed: dict[str, Exception]) -> bool:
        """Do a piece if that can be done now, and say whether it was tried."""
        if self.done(piece) or not all(self.done(p) for p in self.pieces if p.name in piece.needs):
            return False
        try:
            with locked(self._path(piece).with_suffix(".lock"), piece.name):
                if self.done(piece):
                    return False
                self._do(piece, console)
        except BusyError:
            return False
        except Exception as error:
            failed[piece.name] = error
            console.print(f"[red]{escape(piece.name)}:[/] {escape(str(error))}", highlight=False)
        return True

    def _do(self, piece: Piece, console: Console) -> None:
        count = sum(self.done(p) for p in self.pieces)
        console.print(
            f"[bold]{count + 1}/{len(self.pieces)}[/] {escape(piece.name)}", highlight=False
        )
        start = time.perf_counter()
        piece.do(console)
        record = Record(
            piece=piece.name,
            key=piece.key(),
            seconds=round(time.perf_counter() - start, 1),
            date=time.strftime("%Y-%m-%d %H:%M"),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, "
            f"{torch.get_num_threads()} threads, GPU: {_gpu()}",
        )
        with atomic_write(self._path(piece)) as temporary:
            temporary.write_text(record.model_dump_json() + "\n")

    def _record(self, piece: Piece) -> Record | None:
        path = self._path(piece)
        if not path.is_file():
            return None
        try:
            return read_model(path, Record)
        except MetaVoxelError:  # it is damaged: do the piece again
            return None

    def _path(self, piece: Piece) -> Path:
        return self.folder / f"{slug(piece.name)}.json"


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


@contextmanager
def helpers(jobs: int, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """`jobs` - 1 further processes that call work(*arguments), as long as this one is in here.

    All share the cores. A helper that fails leaves its piece to the others. An error of this
    process stops them, and so does its end, however it comes: pieces are never half done.
    """
    if jobs < 2:
        yield
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes to come
    context = multiprocessing.get_context("spawn")  # a forked process cannot use the GPU
    started = [context.Process(target=_help, args=(work, *arguments)) for _ in range(jobs - 1)]
    for process in started:
        process.start()
    try:
        yield
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.join()


def _help(work: Callable[..., None], *arguments: Any) -> None:
    """What a helper does, for as long as the process that started it is there."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    work(*arguments)


def slug(name: str) -> str:
    """A name as a file's."""
    words = "".join(c if c.isalnum() else " " for c in name).split()
    return "-".join(words) or "none"
