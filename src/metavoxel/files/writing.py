"""Writing files so that nothing already saved is ever lost or half-written.

What is being written carries a name such as `.metavoxel-1a2b3c4d-name` beside its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import one_line

try:
    import fcntl
except ImportError:
    fcntl = None

_TEMPORARY = re.compile(r"\.metavoxel-[0-9a-f]{8}-.")
_LONGEST = 150  # characters of a name that its temporary name keeps, from the end: file systems
# take 255 bytes
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


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
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it must not hide what went wrong
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new empty folder; put it in the place of `folder` when the block ends well.

    A folder that stands there is exchanged for the new one in one step, and then removed, so its
    caller must have made sure that all of it may go (see `metavoxel.files.owned`). A link is
    followed. What a killed process left of earlier attempts is removed. Errors as above.
    """
    folder = Path(os.path.realpath(folder))  # "." and a link have no name to stand beside
    temporary = _beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        temporary.mkdir()
        with _held(temporary):
            yield temporary
            _put_in_place(temporary, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    except MetaVoxelError as error:
        if isinstance(error.__cause__, OSError):
            raise cannot_write(folder, error.__cause__) from error.__cause__
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; what stood there is called as `new` was."""
    if not folder.exists():
        new.replace(folder)
    elif not _exchanged(new, folder):  # no Linux, or a file system that cannot
        previous = _previous(folder)
        folder.replace(previous)
        new.replace(folder)
        previous.replace(new)


def _exchanged(a: Path, b: Path) -> bool:
    """Exchange two names in one step, where the system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0


def _previous(folder: Path) -> Path:
    return folder.with_name(f".metavoxel-previous-{folder.name[-_LONGEST:]}")


def _recover(folder: Path) -> None:
    """Put back what a process that was killed between two renames left, and remove its rest."""
    previous = _previous(folder)
    if previous.is_dir() and not folder.exists():
        previous.replace(folder)
    for path in folder.parent.glob(f".metavoxel-*-{_escaped(folder.name[-_LONGEST:])}"):
        if _TEMPORARY.match(path.name) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(BlockingIOError), _held(path):  # else a process is writing it
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, as long as this process lives. Raises BlockingIOError."""
    place = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(place)


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


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
        raise cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(busy) from None
        yield


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was writing anywhere under a folder that is ours."""
    for path in folder.rglob(".metavoxel-*"):
        if _TEMPORARY.match(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".metavoxel-{uuid.uuid4().hex[:8]}-{path.name[-_LONGEST:]}")


def cannot_write(path: Path, error: OSError) -> MetaVoxelError:
    """That the disk did not take a file or folder."""
    reason = error.strerror or one_line(error)
    return MetaVoxelError(
        f"{path} cannot be written ({reason}). Free some space or choose another place; what was "
        "there before is unchanged."
    )
