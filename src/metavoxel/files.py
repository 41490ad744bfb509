"""Writing files so that nothing already saved is ever lost or half-written."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from metavoxel.errors import MetaVoxelError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffixes. On any failure the temporary file is removed and `path`
    stays as it was; an OSError (a full disk, no permission) becomes a MetaVoxelError.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `folder`; put it in its place when the block ends well.

    A folder that stood there before is kept until the new one is complete.
    """
    temporary = folder.with_name(f".{uuid.uuid4().hex[:8]}-{folder.name}")
    previous = folder.with_name(f".{uuid.uuid4().hex[:8]}-previous-{folder.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.replace(previous)
        temporary.replace(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        if previous.exists() and not folder.exists():  # interrupted between the two renames
            previous.replace(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> MetaVoxelError:
    reason = error.strerror or str(error)
    return MetaVoxelError(
        f"{path} cannot be written ({reason}). Free some space or choose another place; what was "
        "there before is unchanged."
    )
