"""The wall between a file and its user: whatever a library raises becomes one sentence.

Libraries raise anything of a damaged file, and other things in their next version. So nothing is
listed here: what is raised while a file is read is the file's fault, and says so.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from metavoxel.errors import MetaVoxelError

COPY_AGAIN = "Copy it again from where it came."
A_FILE = "Give a file."
_LONGEST = 200  # characters of a library's reason


@contextlib.contextmanager
def reading(
    path: Path, kind: str, advice: str = COPY_AGAIN, folder: str = A_FILE
) -> Iterator[None]:
    """Read a file inside; every exception but ours becomes a MetaVoxelError that names the file.

    `kind` is what the file should be, with its article, as "a NIfTI image"; `advice` what to do if
    it is not, and `folder` if it is a folder. What is no file at all (absent, a folder, a device, a
    link to nothing) is refused.
    """
    check_is_file(path, folder)
    try:
        yield
    except MetaVoxelError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise _unreachable(path, error) from None
        raise damaged(path, kind, error, advice) from None
    except Exception as error:
        raise damaged(path, kind, error, advice) from None


def damaged(path: Path, kind: str, reason: object, advice: str = COPY_AGAIN) -> MetaVoxelError:
    """That a file is not what it should be; `reason` is an exception, or words."""
    return MetaVoxelError(f"{path}: damaged, or not {kind} ({one_line(reason)}). {advice}")


def one_line(reason: object) -> str:
    """The first line of what a library said, not too long and without a full stop."""
    name = type(reason).__name__ if isinstance(reason, BaseException) else "no reason given"
    text = next((line.strip() for line in str(reason).splitlines() if line.strip()), name)
    return text[:_LONGEST].rstrip(". ")


def check_is_file(path: Path, folder: str = A_FILE) -> None:
    """Raise MetaVoxelError unless there is a regular file, or a link to one; `folder` says what to
    do about a folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise _unreachable(path, error) from None
    if stat.S_ISDIR(mode):
        raise MetaVoxelError(f"{path}: this is a folder. {folder}")
    if not stat.S_ISREG(mode):
        raise MetaVoxelError(f"{path}: this is not a regular file. Give a file.")


def is_dead_link(path: Path) -> bool:
    """Whether a path is a link whose file is not here, as of a git-annex without its content."""
    return path.is_symlink() and not os.path.exists(path)  # noqa: PTH110 - it never raises


def _unreachable(path: Path, error: OSError | ValueError) -> MetaVoxelError:
    if isinstance(error, FileNotFoundError):
        if is_dead_link(path):
            return MetaVoxelError(
                f"{path}: it is a link to a file that is not here. Fetch it (datalad get)."
            )
        return MetaVoxelError(f"{path}: there is no such file. Check the path.")
    if isinstance(error, NotADirectoryError):
        return MetaVoxelError(f"{path}: there is no such file. Check the path.")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return MetaVoxelError(f"{one_line(path)}: cannot be read ({reason}). Check the path.")
