"""What a person judges: the scans of a derivative, their pictures, and qc.tsv."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from metavoxel.data.images import Grid
from metavoxel.data.quality import (
    QC_TABLE,
    Decision,
    append_decision,
    last_decisions,
    mend_decisions,
    now,
    one_line,
    read_decisions,
)
from metavoxel.errors import MetaVoxelError
from metavoxel.files.writing import real_path
from metavoxel.preprocess.group import ScanSummary, read_group
from metavoxel.preprocess.head import read_head
from metavoxel.preprocess.mosaic import (
    Window,
    cuts,
    outline,
    png,
    read_brain,
    template_edges,
    voxel_at,
    window,
)

_IN_MEMORY = 12  # scans: those looked at and those fetched ahead; 2 MB each at 2 mm


class ConflictError(Exception):
    """Somebody else has judged the scan in the meantime."""


class Review:
    """One derivative under review. Safe to use from several threads, and beside other processes:
    qc.tsv is the only state, and it is read again whenever it has changed."""

    def __init__(self, out: Path) -> None:
        """Raises MetaVoxelError if there is no derivative, or its qc.tsv is malformed."""
        self.out = out
        self.scans = {s.name: s for s in read_group(out)}
        told = mend_decisions(out)
        self.notes = [told] if told else []
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._lines: list[Decision] = []
        self._volumes = lru_cache(maxsize=_IN_MEMORY)(self._read_volumes)
        self._head = lru_cache(maxsize=3)(self._read_head)
        self.decisions()

    def listing(self) -> list[dict[str, Any]]:
        """Every scan with what is known of it, in the order in which they should be looked at."""
        return [
            {
                "scan": s.name,
                "prepared": s.brain is not None,
                "measures": {k: _finite(x) for k, x in s.measures.items()},
                "score": _finite(s.outlier_score),
                "oddest": s.oddest,
                "notes": list(s.notes),
                "reason": s.reason,
            }
            for s in self.scans.values()
        ]

    def decisions(self, seen: int = 0) -> list[Decision]:
        """The lines of qc.tsv after the first `seen`."""
        with self._lock:
            stamp = self._file_stamp()
            if stamp != self._stamp:  # taken before reading: a line added meanwhile is read again
                self._lines, self._stamp = read_decisions(self.out), stamp
            return self._lines[seen:]

    def decide(
        self, name: str, decision: str, note: str, rater: str, expected: str | None = None
    ) -> tuple[Decision, str]:
        """Write a decision down; it is on the disk when this returns, with what is to be said.

        `expected` is the time of the line that is to be undone: if another line counts by now, it
        stays, and ConflictError is raised. Raises MetaVoxelError if there is no such scan.
        """
        scan = self.scan(name)
        line = Decision(
            participant_id=scan.subject,
            session_id=scan.session or "n/a",
            scan=name,
            decision=decision,
            note=one_line(note),
            rater=one_line(rater),
            time=now(),
        )
        with self._writing:
            if expected is not None:
                last = last_decisions(self.decisions()).get(name)
                if last is None or last.time != expected:
                    who = last.rater if last else "nobody"
                    raise ConflictError(
                        f"{name} has been judged since, by {who}: it is left as it is."
                    )
            told = append_decision(self.out, line)
        return line, told

    def view(self, name: str, at: Sequence[int] | None, head: bool) -> dict[str, Any]:
        """Three planes of a scan through a voxel. Raises MetaVoxelError if it cannot be read."""
        stamp = self._brain_stamp(name)
        brain, mask, grid, shown = self._volumes(name, stamp)
        middle = voxel_at(grid) if at is None else at
        here = [min(max(0, i), n - 1) for i, n in zip(middle, grid.shape, strict=True)]
        picture = self._head(name, stamp) if head else brain
        edges = template_edges(grid, here, shown)
        planes = zip(cuts(picture, here, shown), cuts(mask, here, shown), edges, strict=True)
        return {
            "scan": name,
            "at": here,
            "shape": list(grid.shape),
            "planes": [
                {
                    "name": cut.plane,
                    "across": cut.across,
                    "right": cut.right,
                    "up": cut.up,
                    "sides": cut.sides,
                    "corner": cut.corner,
                    "width": cut.pixels.shape[1],
                    "height": cut.pixels.shape[0],
                    "millimetres": float(_world(grid, here)[cut.across]),
                    "picture": png(cut.pixels),
                    "mask": outline(found.pixels),
                    "template": edge,
                }
                for cut, found, edge in planes
            ],
        }

    def scan(self, name: str) -> ScanSummary:
        if name not in self.scans:
            raise MetaVoxelError(f"{self.out}: there is no scan {name} here.")
        return self.scans[name]

    def files(self, name: str) -> tuple[Path, Path]:
        """Brain and mask of a scan. Raises MetaVoxelError with the reason if it has none, or if
        they do not lie in the derivative: one that somebody has sent may link to any file."""
        scan = self.scan(name)
        if scan.brain is None or scan.mask is None:
            raise MetaVoxelError(f"It was not prepared: {scan.reason}")
        for path in (scan.brain, scan.mask):
            if not real_path(path).is_relative_to(real_path(self.out)):
                raise MetaVoxelError(
                    f"{path}: it is a link out of {self.out}, so it is not shown. Copy the file."
                )
        return scan.brain, scan.mask

    def _brain_stamp(self, name: str) -> int:
        """Changes when the scan is prepared again, so that no older picture of it is shown."""
        brain, _ = self.files(name)
        return brain.stat().st_mtime_ns if brain.is_file() else 0

    def _read_volumes(self, name: str, stamp: int) -> tuple[np.ndarray, np.ndarray, Grid, Window]:
        brain, mask, grid = read_brain(*self.files(name))
        return brain, mask, grid, window(mask, grid)

    def _read_head(self, name: str, stamp: int) -> np.ndarray:
        return read_head(self.out, self.scan(name), self._volumes(name, stamp)[2])

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = (self.out / QC_TABLE).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def as_json(decision: Decision) -> dict[str, str]:
    return asdict(decision)


def _world(grid: Grid, at: Sequence[int]) -> np.ndarray:
    return grid.affine[:3, :3] @ np.asarray(at) + grid.affine[:3, 3]


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
