"""What a training run shows: one bar for the whole stage, and a line at every validation."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

_EVERY = 10  # steps between two updates: reading a loss waits for the GPU

# What Lightning says to every user of every project, and none of ours can act on.
for _name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
_SPLIT = ("_step", "_epoch")  # what Lightning adds to a loss that it logs in both ways


class TrainingProgress(Callback):
    """Steps done, time left and the loss of every variable, live; the losses of each validation."""

    def __init__(
        self, console: Console, steps: int, step_of: Callable[[L.LightningModule], int]
    ) -> None:
        self.console, self.steps, self.step_of = console, steps, step_of
        self._bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        columns = (
            BarColumn(30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
        )
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._bar.start()
        done = self.step_of(pl_module)
        self._task = self._bar.add_task("", total=self.steps, completed=done, losses="")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = self.step_of(pl_module)
        if self._bar is not None and step % _EVERY == 0:
            losses = _losses(trainer.callback_metrics, "train/")
            self._bar.update(self._task, completed=step, losses=losses)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            losses = _losses(trainer.callback_metrics, "validation/")
            self.console.print(f"Step {self.step_of(pl_module)}, validation: {losses}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _losses(metrics: Mapping[str, Tensor], stage: str) -> str:
    """The losses of one stage, as "image 0.213, age 1.02"."""
    named = {k.removeprefix(stage): float(x) for k, x in metrics.items() if k.startswith(stage)}
    return ", ".join(f"{k} {x:.3g}" for k, x in named.items() if not k.endswith(_SPLIT))
