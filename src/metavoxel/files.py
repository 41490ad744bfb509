"""Writing files so that nothing already saved is ever lost or half-written.

What is being written carries a name such as `.1a2b3c4d-name` beside its place.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metavoxel.errors import MetaVoxelError

try:
    import fcntl
except ImportError:
    fcntl = None

SMALL = 2**20  # bytes: a file that is read whole to know it again


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffixes. On any failure the temporary file is removed and `path`
    stays as it was; an OSError (a full disk, no permission) becomes a MetaVoxelError.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it must not hide what went wrong
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `folder`; put it in its place when the block ends well.

    A folder that stood there before is kept until the new one is complete. Errors as above.
    """
    folder = folder.absolute()  # "." has no name to stand beside
    temporary, previous = _beside(folder), _beside(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.replace(previous)
        temporary.replace(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    except MetaVoxelError as error:
        if isinstance(error.__cause__, OSError):
            raise _cannot_write(folder, error.__cause__) from error.__cause__
        raise
    finally:
        with contextlib.suppress(OSError):
            if previous.exists() and not folder.exists():  # interrupted between the two renames
                previous.replace(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def atomic_array(
    path: Path, shape: tuple[int, ...], dtype: type[np.generic]
) -> Iterator[np.memmap]:
    """Yield an array of zeros, memory-mapped, that becomes the .npy file `path` at the end.

    Its space is taken from the disk at once: writing through a map to a full disk is a bus error.
    """
    with atomic_write(path) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        yield out
        out.flush()


class BusyError(MetaVoxelError):
    """Another process holds a lock."""


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` until the block ends, or this process does, however it ends.

    Raises BusyError(busy) if another process holds it. Where the system has no such locks
    (Windows), nothing is held.
    """
    if fcntl is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(busy) from None
        yield


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was writing anywhere under `folder`."""
    for path in folder.rglob(".*-*"):
        if _TEMPORARY.match(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\.[0-9a-f]{8}-.")


def _beside(path: Path) -> Path:
    return path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")


def _cannot_write(path: Path, error: OSError) -> MetaVoxelError:
    reason = error.strerror or str(error)
    return MetaVoxelError(
        f"{path} cannot be written ({reason}). Free some space or choose another place; what was "
        "there before is unchanged."
    )


def version_of(path: Path) -> str:
    """Tells a file from what it was: its size and checksum, or its size and time.

    A gzip file ends with the CRC-32 of what it holds (RFC 1952), and a slice of a scan is small
    enough to be read: however they were copied, they are the same. Of another file an archive keeps
    the time to the second.
    """
    state = path.stat()
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            file.seek(max(0, state.st_size - 8))
            return f"{state.st_size} {file.read(4).hex()}"
        if state.st_size <= SMALL:
            file.seek(0)
            return f"{state.st_size} {zlib.crc32(file.read()):08x}"
    return f"{state.st_size} {int(state.st_mtime)}"
