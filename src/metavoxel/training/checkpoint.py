"""Keeping a run whole: checkpoints that are never half-written, the best weights, their average.

A checkpoint is read as tensors and plain values alone, never as pickled code: the folder of a run
may come from someone else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object
from metavoxel.files.wall import damaged, reading
from metavoxel.files.weights import write_weights
from metavoxel.files.writing import atomic_write
from metavoxel.model_files import json_text

ANEW = "Restore it, or remove the run's folder and start anew."


class AtomicCheckpoint(Callback):
    """Saves everything every `every` steps to one file, written under another name and renamed.

    A kill at any moment leaves the last whole checkpoint. Lightning saves weights, optimisers,
    schedules, loops and callbacks; nothing else has state (see seeds.py). A step that a
    validation follows is saved after it: a resumed run would not make up for the validation.
    """

    def __init__(self, path: Path, every: int, step_of: Callable[[L.LightningModule], int]) -> None:
        self.path, self.every, self.step_of = path, every, step_of
        self.saved = -1

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not (trainer.is_last_batch and trainer.enable_validation):
            self._save(trainer, self.step_of(pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, self.step_of(pl_module))

    def _save(self, trainer: L.Trainer, step: int) -> None:
        if step != self.saved and step % self.every == 0:
            self.saved = step
            with atomic_write(self.path) as temporary:
                trainer.save_checkpoint(temporary, weights_only=False)


def fit(trainer: L.Trainer, module: L.LightningModule, checkpoint: Path | None) -> None:
    """Train, from where `checkpoint` stands, if it is there.

    Raises MetaVoxelError naming the checkpoint if it is damaged, holds more than tensors and plain
    values, or is of another network.
    """
    if checkpoint is None or not checkpoint.exists():
        trainer.fit(module)
        return
    check_checkpoint(checkpoint)
    restoring = _Restoring()
    trainer.callbacks.append(restoring)  # type: ignore[attr-defined]  # set by Lightning's connectors
    try:
        trainer.fit(module, ckpt_path=str(checkpoint), weights_only=True)
    except MetaVoxelError:
        raise
    except Exception as error:
        if not restoring.going_on:
            raise
        raise damaged(checkpoint, "a checkpoint of this run", error, ANEW) from None


def check_checkpoint(path: Path) -> None:
    """Raise MetaVoxelError unless a file is a whole checkpoint that holds no code."""
    with reading(path, "a checkpoint without code", ANEW):
        with zipfile.ZipFile(path) as archive:
            if (part := archive.testzip()) is not None:
                raise ValueError(f"{part} has changed")
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        for part in ("state_dict", "loops", "optimizer_states"):
            if not saved[part]:
                raise ValueError(f"it has no {part}")


class _Restoring(Callback):
    """Whether a checkpoint is being restored: until the first step, what fails is its fault."""

    going_on = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.going_on = False


class BestWeights(Callback):
    """Keeps the averaged weights with the lowest validation score ("validation picks the epoch").

    The score is the images' mean loss plus the scalars' mean loss. In their sum (Eq. 5) many
    scalars, which overfit early on a small cohort, would outvote the image, which goes on learning.

    Stands before the averaging callback in the list: it must see the averaged weights, which that
    callback swaps in for validation and out again at its end.
    """

    SCORE = "validation/score"

    def __init__(
        self,
        folder: Path,
        images: Collection[str],
        scalars: Collection[str],
        network: str = "denoiser",
    ) -> None:
        """`network` names the part of the module whose weights are kept."""
        self.weights, self.record = folder / "best.safetensors", folder / "best.json"
        self.network = network
        self.groups, self.best = (images, scalars), float("inf")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score = sum(self._mean(trainer, group) for group in self.groups)
        pl_module.log(self.SCORE, score)
        if not score < self.best:
            return
        self.best = score
        with atomic_write(self.weights) as temporary:
            write_weights(getattr(pl_module, self.network), temporary)
        with atomic_write(self.record) as temporary:
            temporary.write_text(json_text({"step": trainer.global_step, self.SCORE: score}))

    def _mean(self, trainer: L.Trainer, names: Collection[str]) -> float:
        """Mean validation loss of the variables that were asked in validation."""
        metrics = trainer.callback_metrics
        losses = [float(metrics[k]) for v in names if (k := f"validation/{v}") in metrics]
        return sum(losses) / len(losses) if losses else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {self.SCORE: self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict.get(self.SCORE, float("inf"))


def best_step(folder: Path) -> int | None:
    """The step whose weights `BestWeights` kept in a folder, if any."""
    record = folder / "best.json"
    return int(read_object(record)["step"]) if record.exists() else None


def averaging(decay: float, device: torch.device) -> WeightAveraging:
    """Lightning's weight averaging, exponential with a warm-up as in the EMA of the DDPM code.

    Unless told the `device`, Lightning would keep the average on the CPU.
    """

    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        """Of tensors of one type, all at once: one by one, each would wait for the GPU."""
        if not averaged[0].is_floating_point():  # how many batches a normalisation has seen
            torch._foreach_copy_(averaged, current)
            return
        n = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return WeightAveraging(device=device, multi_avg_fn=average)
