"""The last wall: what reaches the command line is a sentence, or a bug with its traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from metavoxel.errors import MetaVoxelError, MetaVoxelWarning
from metavoxel.inference.answers import Answers, CategoricalAnswer, ContinuousAnswer
from metavoxel.terminal import answers_table, console, print_json, sentences


class OutOfMemoryError(RuntimeError):
    """Named as torch's is, of a GPU."""


def name_too_long() -> None:
    Path("x" * 300).stat()


def no_permission() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "secret.txt")


def disk_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def two_files() -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")


def no_memory() -> None:
    np.empty(2**55)


def no_memory_of_torch() -> None:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 TB")


def no_memory_of_a_gpu() -> None:
    raise OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (name_too_long, "x...: File name too long. Check the path"),
        (no_permission, "secret.txt: Permission denied. Check the path"),
        (disk_full, "A file cannot be read or written: No space left on device. Check"),
        (two_files, "a and b: Invalid cross-device link."),
        (no_memory, "more memory than there is"),
        (no_memory_of_torch, "more memory than there is"),
        (no_memory_of_a_gpu, "more memory than there is"),
    ],
)
def test_what_the_machine_refuses_is_a_sentence(
    fault, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, sentences():
        fault()
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    (line,) = printed.strip().splitlines()
    assert line.startswith("Error: ") and line.endswith(".")
    assert says in line.replace("x" * 300, "x...")


@pytest.mark.parametrize("fault", [ValueError("a bug"), RuntimeError("of ours"), KeyError("x")])
def test_a_bug_keeps_its_traceback(fault: Exception) -> None:
    with pytest.raises(type(fault)), sentences():
        raise fault


def test_control_characters_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal would obey them, wherever they come from: names, labels, units."""
    odd = "a\x1b[31mb\nc\x9b\u202ed\udcff"
    with pytest.raises(SystemExit), sentences():
        raise MetaVoxelError(f"{odd}.")
    with sentences():
        warnings.warn(odd, MetaVoxelWarning, stacklevel=1)
    with pytest.raises(SystemExit), sentences():
        raise OSError(errno.ENOENT, "No such file or directory", odd)
    answers = Answers(
        {
            "sex": CategoricalAnswer({odd: 1.0, "[b]M[/b]": 0.0}, np.array([odd])),
            "age": ContinuousAnswer(odd, np.empty(0), 3.0),
        }
    )
    console.print(answers_table(answers))
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 3
    for text in (printed.err, printed.out):
        assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text
    assert "[b]M[/b]" in printed.out
    print_json({odd: odd})
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_what_is_no_number_is_never_printed_as_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"mean": float("nan")})


def test_a_closed_pipe_ends_it_quietly() -> None:
    """As of `metavoxel ... | head`, whether much or little is printed."""
    for count in (1, 100_000):
        program = (
            "import sys; from metavoxel.terminal import sentences\n"
            "with sentences():\n"
            f"    sys.stdin.read(); sys.stdout.write('line\\n' * {count}); sys.exit(0)"
        )
        read, write = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=write,
            stderr=subprocess.PIPE,
        )
        os.close(write)
        os.close(read)  # before anything is written
        _, said = process.communicate(b"")
        assert said == b""
        assert process.returncode == 1
