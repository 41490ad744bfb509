"""What the terminal shows: sentences for mistakes and warnings, a table for answers."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metavoxel.errors import MetaVoxelError, MetaVoxelWarning

console, errors = Console(), Console(stderr=True)


def warn(text: str) -> None:
    """One line on the standard error stream."""
    errors.print(f"[yellow]Warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


@contextmanager
def sentences() -> Iterator[None]:
    """A user's mistake is one sentence and status 2, an interrupt one and status 130."""
    try:
        with _warnings_as_sentences():
            yield
    except MetaVoxelError as error:
        errors.print(f"[red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as stop:
        if type(stop).__name__ == "SIGTERMException":  # Lightning's; it carries no status
            errors.print("Terminated. What was saved is whole; train continues with --resume.")
            sys.exit(128 + signal.SIGTERM)
        # Typer turns an interrupt into status 130, Lightning into status 1.
        if stop.code != 130 and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        errors.print(
            "Interrupted. What was saved is whole: give the same command again to go on, and train "
            "its --resume.",
            soft_wrap=True,
        )
        sys.exit(130)


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
            table.add_row(v, escape(facts["label"]), escape(each))
        elif "mean" in facts:
            unit = f" {escape(facts['unit'])}" if facts["unit"] else ""
            spread = ""
            if "std" in facts:
                low, high = facts["interval_90"]
                spread = f"± {facts['std']:.3g}, 90% in {low:.4g} to {high:.4g}"
            table.add_row(v, f"{facts['mean']:.4g}{unit}", spread)
        else:
            table.add_row(v, f"{facts['samples']} images", "x".join(map(str, facts["shape"])))
    return table
