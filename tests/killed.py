"""Running a function in a process of its own that is killed at a step, or whose disk fills."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from metavoxel.errors import MetaVoxelError

_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Fork, kill the child (SIGKILL) before step number `step`; whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            _count(step)
            work()
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return os.WIFSIGNALED(status)


def every_kill(work: Callable[[], object], every: int = 1) -> Iterator[int]:
    """Kill the work at its first step, its second (or `every` so many) ... to its end."""
    for step in range(1, 1000, every):
        if not killed_at(step, work):
            assert step > 1, "it was never killed"
            return
        yield step
    raise AssertionError("it has more than 1000 steps")


def _count(step: int) -> None:
    left = step

    def hook(event: str, arguments: object) -> None:
        nonlocal left
        if event in _STEPS:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def refused_in_child(work: Callable[[], object], prepare: Callable[[], object]) -> bool:
    """Whether work raises a MetaVoxelError in a process of its own that was prepared."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            work()
        except MetaVoxelError:
            code = 7
        except BaseException:
            code = 2
        os._exit(code)
    return os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7


def full_disk(size: int) -> None:
    """From now on this process can write no file beyond `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def hidden(folder: Path) -> list[str]:
    """The hidden files and folders below a folder, but for its marker."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob(".*"))
    return sorted(n for n in names if not n.endswith(".metavoxel.json"))


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(p.name for p in folder.iterdir())
