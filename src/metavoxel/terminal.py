"""What the terminal shows: sentences for mistakes and warnings, a table for answers."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metavoxel.errors import MetaVoxelError, MetaVoxelWarning, harmless

console, errors = Console(), Console(stderr=True)


def warn(text: str) -> None:
    """One line on the standard error stream."""
    errors.print(f"[yellow]Warning:[/] {_shown(text)}", highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """JSON on the standard output. Raises ValueError for what is no number."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def _shown(text: str) -> str:
    """Text that may come from a file, as it is: no markup, no control characters."""
    return escape(harmless(text))


def _refuse(sentence: str) -> NoReturn:
    errors.print(f"[red]Error:[/] {_shown(sentence)}", highlight=False, soft_wrap=True)
    sys.exit(2)


@contextmanager
def sentences() -> Iterator[None]:
    """A user's mistake is one sentence and status 2, an interrupt one and status 130.

    So is what the machine refuses: a file, or memory. Any other exception is a bug of ours.
    """
    try:
        with _warnings_as_sentences(), _flushed():
            yield
    except MetaVoxelError as error:
        _refuse(str(error))
    except BrokenPipeError:  # whoever reads what is printed, as head does, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _refuse(_of_file(error))
    except Exception as error:
        if not _out_of_memory(error):
            raise
        _refuse(
            "This takes more memory than there is. Ask for less at once (fewer samples, a smaller "
            "batch), or use a machine with more."
        )
    except SystemExit as stop:
        if type(stop).__name__ == "SIGTERMException":  # Lightning's; it carries no status
            errors.print("Terminated. What was saved is whole; train continues with --resume.")
            sys.exit(128 + signal.SIGTERM)
        # Typer turns an interrupt into status 130, Lightning into status 1.
        if stop.code != 130 and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        errors.print(
            "Interrupted. What was saved is whole. Give the same command again to go on; a "
            "training that has begun goes on with --resume.",
            soft_wrap=True,
        )
        sys.exit(130)


@contextmanager
def _flushed() -> Iterator[None]:
    """What is printed has left when the block ends, so that a closed pipe is noticed inside."""
    try:
        yield
    finally:
        sys.stdout.flush()


def _of_file(error: OSError) -> str:
    """What an OSError says, of which file, and what to do."""
    reason = error.strerror or harmless(str(error)) or type(error).__name__
    files = " and ".join(str(f) for f in (error.filename, error.filename2) if f is not None)
    where = f"{files}: {reason}" if files else f"A file cannot be read or written: {reason}"
    return f"{where.rstrip('.')}. Check the path, its permissions and the space on the disk."


def _out_of_memory(error: Exception) -> bool:
    """Of Python, of numpy, of a GPU (whose exception is torch's), of torch on the CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Our own warnings are one line each, like our errors; others look as Python writes them."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any
        ) -> None:
            if category is MetaVoxelWarning:
                warn(str(message))
            else:
                others(message, category, filename, lineno, *rest)

        warnings.showwarning = show
        yield


def answers_table(answers: Any) -> Table:
    """Answers, a row for every variable."""
    table = Table(box=None, pad_edge=False)
    for column in ("variable", "answer", "uncertainty"):
        table.add_column(column)
    for v, facts in answers.summary().items():
        if "probabilities" in facts:
            each = ", ".join(f"{k} {p:.3f}" for k, p in facts["probabilities"].items())
            table.add_row(v, _shown(facts["label"]), _shown(each))
        elif "mean" in facts:
            table.add_row(v, _shown(_mean(facts)), _shown(_spread(facts)))
        else:
            table.add_row(v, f"{facts['samples']} images", "x".join(map(str, facts["shape"])))
    return table


def _mean(facts: Mapping[str, Any]) -> str:
    unit = f" {facts['unit']}" if facts["unit"] else ""
    low, high = facts.get("range", (None, None))
    mark = f" (outside {low:g} to {high:g})" if facts.get("outside_range") else ""
    return f"{facts['mean']:.4g}{unit}{mark}"


def _spread(facts: Mapping[str, Any]) -> str:
    said = []
    if "std" in facts:
        low, high = facts["interval_90"]
        said = [f"± {facts['std']:.3g}, 90% in {low:.4g} to {high:.4g}"]
    if beyond := facts.get("samples_outside_range"):
        low, high = facts["range"]
        said.append(f"{beyond} of {facts['samples']} outside {low:g} to {high:g}")
    return ", ".join(said)
