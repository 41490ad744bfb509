"""Writing files so that nothing already saved is ever lost or half-written.

What is being written carries a name such as `.metavoxel-1a2b3c4d-name` beside its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import one_line

try:
    import fcntl
except ImportError:
    fcntl = None

_TEMPORARY = re.compile(r"(?:\.metavoxel-[0-9a-f]{8}-)+(.+)", re.DOTALL)
_LONGEST = 200  # bytes of a name that its temporary name keeps, from the end: file systems take 255
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # as of Lustre mounted without flock
_RECORD, _NEW, _PREVIOUS = "metavoxel.json", "new", "previous"  # in a folder that stages another


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffixes. On any failure the temporary file is removed and `path`
    stays as it was; an OSError (a full disk, no permission) becomes a MetaVoxelError. A link at
    `path` is replaced; what it points to is not touched.
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
    caller must have made sure that all of it may go (see `metavoxel.files.owned`). Its permissions
    stay. A link is followed. What a killed process left is recovered first. Errors as above, and
    for the folder that this process stands in.
    """
    place = real_path(folder)
    check_not_inside(place)
    try:
        recover(place)
        with _staging(place) as staging:
            yield staging / _NEW
            _sync(staging / _NEW)
            _put_in_place(staging, place)
    except OSError as error:
        raise cannot_write(folder, error) from error
    except MetaVoxelError as error:
        if isinstance(error.__cause__, OSError):
            raise cannot_write(folder, error.__cause__) from error.__cause__
        raise


def check_not_inside(folder: Path) -> None:
    """Refuse to replace the folder that this process, and so its shell, stands in.

    The shell would be left in a folder that is no more. Raises MetaVoxelError.
    """
    here, place = Path(os.path.realpath(os.curdir)), real_path(folder)
    if here == place or place in here.parents:
        raise MetaVoxelError(
            f"{folder} is the folder that you are in, and would be replaced under you. Name a new "
            "folder in it, or call from elsewhere."
        )


def real_path(folder: Path) -> Path:
    """Where a folder lies: "." and a link, also to what is not there yet, have another name."""
    return Path(os.path.realpath(folder))


def recover(folder: Path) -> None:
    """Put back what a process that was killed between two renames left, and remove its rest.

    Only folders that say of themselves that they stage this one are touched. Raises OSError.
    """
    folder = real_path(folder)
    for staging in _stagings(folder):
        with contextlib.suppress(BlockingIOError), _held(staging / _RECORD):
            _settle(staging, folder)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` with a record of what it is for, and in it an empty one, `new`."""
    staging = _beside(folder)
    staging.parent.mkdir(parents=True, exist_ok=True)
    staging.mkdir()
    try:
        with (staging / _RECORD).open("x") as record:
            _lock(record.fileno(), wait=False, shared=False)  # as long as this process lives
            record.write(_record(folder))
            record.flush()
            (staging / _NEW).mkdir()
            yield staging
    finally:
        _settle(staging, folder)


def _record(folder: Path) -> str:
    return json.dumps({"what": "staging of metavoxel", "folder": folder.name})


def _stagings(folder: Path) -> list[Path]:
    """The folders that stage `folder`, of this process or another, alive or killed."""
    try:
        names = [name for name in os.listdir(folder.parent) if _TEMPORARY.fullmatch(name)]  # noqa: PTH208 - names alone
    except OSError:  # what cannot be listed has nothing to recover
        return []
    found = []
    for path in (folder.parent / name for name in names):
        if path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError, ValueError):
            if _record(folder).startswith((path / _RECORD).read_text()):  # it may be cut short
                found.append(path)
            continue
        with contextlib.suppress(OSError):  # it was killed before its first file: there is none
            if path.name.endswith(_tail(folder.name)):
                path.rmdir()
    return found


def _settle(staging: Path, folder: Path) -> None:
    """Put back the previous folder if its place is empty, and remove what is not needed."""
    new, previous = staging / _NEW, staging / _PREVIOUS
    if previous.exists():
        if not os.path.lexists(folder):
            previous.replace(folder)
        elif new.exists():  # somebody has made the folder anew: nothing is thrown away
            return
    for path in (new, previous):
        shutil.rmtree(path, ignore_errors=True)
    if not (new.exists() or previous.exists()):
        with contextlib.suppress(OSError):
            (staging / _RECORD).unlink(missing_ok=True)
            staging.rmdir()


def _put_in_place(staging: Path, folder: Path) -> None:
    """Rename `new` to `folder`; what stood there stays in the staging folder."""
    new = staging / _NEW
    if not os.path.lexists(folder):
        new.replace(folder)
        return
    mode = folder.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    new.chmod(stat.S_IMODE(mode))
    if not _exchanged(new, folder):  # no Linux, or a file system that cannot
        folder.replace(staging / _PREVIOUS)
        new.replace(folder)


def _exchanged(a: Path, b: Path) -> bool:
    """Exchange two names in one step, where the system can."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0


def _sync(folder: Path) -> None:
    """What is in a folder is on the disk before the folder takes another's place."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Lock a file that is there, as long as this process lives. Raises BlockingIOError."""
    with path.open("r+b") as file:
        _lock(file.fileno(), wait=False, shared=False)
        yield


def _lock(file: int, wait: bool, shared: bool) -> None:
    """Lock an open file. Raises BlockingIOError if another process holds it and `wait` is false.

    Where the system or the file system has no such locks, nothing is held.
    """
    if fcntl is None:
        return
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


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
def locked(path: Path, busy: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` until the block ends, or this process does, however it ends.

    `shared` with others that share it. Raises BusyError(busy) if another process holds it, unless
    this one is to `wait`. The file is gone when nobody holds it. Where the system has no such
    locks, nothing is held.
    """
    if fcntl is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(path, shared, wait)
    except BlockingIOError:
        raise BusyError(busy) from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # others share it, and take it away
            _lock(file, wait=False, shared=False)
            found = os.fstat(file)
            if found.st_size == 0 and os.path.samestat(found, path.stat()):
                path.unlink()
        os.close(file)


def open_locked(path: Path, shared: bool = False, wait: bool = True) -> int:
    """A file, made if it is absent, open and locked, and still the one of that name.

    Closing it gives the lock back. Raises OSError.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, wait, shared)
            with contextlib.suppress(FileNotFoundError):  # its last holder took it away meanwhile
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def remove_leftovers(folder: Path, ours: Callable[[Path], bool] = lambda path: True) -> None:
    """Delete what a killed process was writing under a folder that is ours.

    `ours` says of the file that was to be written whether it is. Links are not followed.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            target = target_of(path)
            if target is not None and not path.is_symlink() and path.is_file() and ours(target):
                path.unlink(missing_ok=True)


def target_of(path: Path) -> Path | None:
    """The file that a temporary name stands for; None if it is no such name."""
    match = _TEMPORARY.fullmatch(path.name)
    return path.with_name(match[1]) if match else None


def _beside(path: Path) -> Path:
    return path.with_name(f".metavoxel-{uuid.uuid4().hex[:8]}-{_tail(path.name)}")


def _tail(name: str) -> str:
    """The end of a name, in whole characters."""
    return os.fsencode(name)[-_LONGEST:].decode(errors="ignore")


def cannot_write(path: Path, error: OSError) -> MetaVoxelError:
    """That the disk did not take a file or folder."""
    reason = error.strerror or one_line(error)
    return MetaVoxelError(
        f"{one_line(path)} cannot be written ({reason}). Free some space or choose another place; "
        "what was there before is unchanged."
    )
