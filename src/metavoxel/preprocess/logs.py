"""What is kept of each scan: its status, and the files that were written of it.

Only files that are listed, and are still what was written, are ever replaced or removed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object
from metavoxel.files.writing import atomic_write

LOGS = "logs"
Files = Mapping[str, str | None]  # path from the derivative: SHA-256, None while it is written


class StrangerError(MetaVoxelError):
    """A file is in the way that is not ours, or is not what we wrote."""


def read_status(out: Path, record: str) -> dict[str, Any] | None:
    """What the log says of a scan: status (running, ok or failed), reason, seconds, peak memory,
    files. None where there is no log.

    Raises MetaVoxelError if there is one that cannot be read, or that is none.
    """
    path = out / LOGS / f"{record}.json"
    if not os.path.lexists(path):
        return None
    told = read_object(path)
    if not isinstance(told.get("status"), str):
        raise MetaVoxelError(f"{path}: this is no log of metavoxel preprocess. Move it away.")
    return told


def write_status(out: Path, record: str, **facts: Any) -> None:
    """Write a log, also in the place of an earlier one. Raises MetaVoxelError as `read_status`."""
    read_status(out, record)
    write_json(out / LOGS / f"{record}.json", facts)


def listed(status: Mapping[str, Any] | None) -> Files | None:
    """The files that a log lists; None where it lists none, as those of before."""
    files = (status or {}).get("files")
    return files if isinstance(files, Mapping) else None


def is_ours(path: Path, out: Path, files: Files) -> bool:
    """Whether a file is listed, and still what was written."""
    name = path.relative_to(out).as_posix()
    if name not in files or path.is_dir():
        return False
    try:
        return files[name] is None or files[name] == file_digest(path)
    except MetaVoxelError:
        return False


def check_ours(paths: Iterable[Path], out: Path, files: Files) -> None:
    """Raise StrangerError if something is in the place of these that is not ours."""
    for path in paths:
        if os.path.lexists(path) and not is_ours(path, out, files):
            changed = path.relative_to(out).as_posix() in files
            what = (
                "it was changed after metavoxel preprocess wrote it"
                if changed
                else "metavoxel preprocess did not write it"
            )
            raise StrangerError(f"{path}: {what}, so it is not overwritten. Move it away.")


def digests(paths: Iterable[Path], out: Path) -> dict[str, str]:
    """What to list of files that were just written. Raises MetaVoxelError."""
    return {path.relative_to(out).as_posix(): file_digest(path) for path in paths}


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises MetaVoxelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MetaVoxelError(
            f"{path}: cannot be read ({error.strerror}). Check the file, and that it may be read."
        ) from None


def write_json(path: Path, data: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_plain(data), indent=2) + "\n")


def _plain(data: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(data, Mapping):
        return {k: _plain(x) for k, x in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(x) for x in data]
    if isinstance(data, (float, np.floating)):
        return float(data) if math.isfinite(data) else None
    return data
