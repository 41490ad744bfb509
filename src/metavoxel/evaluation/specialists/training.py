"""Training a specialist: one call that can be killed and repeated, as of the joint model."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

import metavoxel.training.progress  # noqa: F401 - it quiets Lightning
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.questions import rows_of
from metavoxel.evaluation.specialists.config import SpecialistConfig
from metavoxel.evaluation.specialists.encoding import (
    Inputs,
    Target,
    column,
    fit_inputs,
    fit_target,
)
from metavoxel.evaluation.specialists.networks import build_network, covers_kernels
from metavoxel.evaluation.specialists.specialist import (
    SETTINGS,
    WEIGHTS,
    Fitted,
    Specialist,
    load_specialist,
    read_fitted,
)
from metavoxel.files.writing import atomic_write, locked, remove_leftovers
from metavoxel.model import best_device
from metavoxel.schema import Schema
from metavoxel.training.augment import augment
from metavoxel.training.checkpoint import AtomicCheckpoint, BestWeights, averaging, fit
from metavoxel.training.joint import Steps
from metavoxel.training.precision import computes_in_bf16
from metavoxel.training.seeds import generator, mixed, rows_of_step

Progress = Callable[[int, int], None]  # (steps done, of)
_CHECKPOINT, _BEST = "last.ckpt", "best.safetensors"


def train_specialist(
    config: SpecialistConfig,
    schema: Schema,
    training: Table,
    validation: Table,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
) -> Specialist:
    """Train a specialist, or continue, or read it if `folder` holds it already.

    Records without the value that is asked are left out. Raises MetaVoxelError if the question or
    the data do not serve, or if `folder` holds a specialist of other settings or data.
    """
    folder = Path(folder)
    question = config.checked(schema)
    asked = question.asked[0]
    training, validation = (
        _with_target(asked, table, part)
        for table, part in ((training, "training"), (validation, "validation"))
    )
    fitted = Fitted(
        config=config,
        seed=seed,
        data=_digest((*question.given, asked), training, validation),
        inputs=fit_inputs(question, schema, training),
        target=fit_target(asked, schema, training),
    )
    with locked(folder / "lock", f"{folder}: another process trains here. Wait for it."):
        remove_leftovers(folder)
        _open(folder, fitted)
        if not (folder / WEIGHTS).exists():
            _fit(fitted, training, validation, folder, progress)
        return load_specialist(folder)


def _with_target(asked: str, table: Table, part: str) -> Table:
    rows = np.flatnonzero(~np.isnan(column(table, asked)))
    if not len(rows):
        raise MetaVoxelError(
            f"No {part} record has {asked}, so no specialist can be trained for it. Ask for "
            "another variable, or give records that have it."
        )
    return rows_of(table, rows)


def _digest(names: tuple[str, ...], *tables: Table) -> str:
    """A digest of every value that the specialist sees."""
    digest = hashlib.sha256()
    for table in tables:
        for v in names:
            x = np.ascontiguousarray(table.images[v] if v in table.images else column(table, v))
            digest.update(f"{v} {x.dtype} {x.shape}".encode() + x.tobytes())
    return digest.hexdigest()


def _open(folder: Path, fitted: Fitted) -> None:
    """Begin in an empty folder; go on in one of the same settings and data alone."""
    path = folder / SETTINGS
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(fitted.model_dump_json(indent=2))
        return
    kept = read_fitted(folder)
    for what, name in {"settings": "config", "seed": "seed", "data": "data"}.items():
        if getattr(kept, name) != getattr(fitted, name):
            raise MetaVoxelError(
                f"{folder} holds a specialist of other {what}. Choose another folder, or remove it."
            )


def _fit(
    fitted: Fitted, training: Table, validation: Table, folder: Path, progress: Progress | None
) -> None:
    """Train to the end, and keep the averaged weights that validation chose."""
    config, device = fitted.config, best_device()
    with torch.random.fork_rng():
        torch.manual_seed(mixed(fitted.seed, 0))
        module = SpecialistModule(fitted, training, validation)
        module.bf16 = _bf16(config, module.network, fitted.inputs, device)
        callbacks: list[Callback] = [
            BestWeights(folder, (), (fitted.target.name,), network="network"),
            averaging(config.ema_decay, device),
            AtomicCheckpoint(
                folder / _CHECKPOINT, config.checkpoint_every, lambda m: m.global_step
            ),
            _Ticks(config.steps, progress),
        ]
        trainer = L.Trainer(
            max_steps=config.steps,
            max_epochs=-1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=config.gradient_clip,
        )
        with warnings.catch_warnings():
            # A step makes its own batch from its number: there is no loader to rewind.
            warnings.filterwarnings("ignore", message=".*dataloader is not resumable")
            fit(trainer, module, folder / _CHECKPOINT)
    (folder / _BEST).replace(folder / WEIGHTS)
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def _bf16(
    config: SpecialistConfig, network: nn.Module, inputs: Inputs, device: torch.device
) -> bool:
    """Whether to compute in bfloat16. Raises MetaVoxelError if that would give wrong gradients."""
    sound = device.type != "cpu" or covers_kernels(network, inputs)
    if config.precision == "bf16" and not sound:
        raise MetaVoxelError(
            "precision: bf16 would give wrong gradients on a CPU, as the coarsest grid of the "
            "specialist is smaller than its convolutions. Set it to auto or 32."
        )
    if config.precision == "auto":
        return sound and computes_in_bf16(device)
    return config.precision == "bf16"


@dataclass
class _Records:
    """A table as a specialist reads it; images stay in [0, 1], to be augmented."""

    images: Tensor
    scalars: Tensor
    truth: Tensor

    def __len__(self) -> int:
        return len(self.truth)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Records:
        return self  # the averaged copy of the module needs no images of its own

    @staticmethod
    def of(table: Table, inputs: Inputs, target: Target) -> _Records:
        truth = target.encode(torch.tensor(table.scalars[target.name]))
        return _Records(inputs.stacked(table), inputs.encode_scalars(table), truth)


class SpecialistModule(L.LightningModule):
    """Trains a network to answer one question.

    An epoch is the steps between two validations. The batch, the augmentation and the dropout of
    step k are drawn from (seed, k): a resumed run is bit-identical to one never interrupted.
    """

    def __init__(self, fitted: Fitted, training: Table, validation: Table) -> None:
        super().__init__()
        inputs, target = fitted.inputs, fitted.target
        self.network = build_network(fitted.config, inputs, target.outputs)
        self.fitted, self.bf16 = fitted, False
        self.training_records = _Records.of(training, inputs, target)
        self.validation_records = _Records.of(validation, inputs, target)
        self.network.fit(self.training_records.images, fitted.config.centred)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        s = self.fitted.config
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay
        )

        def rate(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, s.warmup_steps))
            return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / s.steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[int]:
        config = self.fitted.config
        return DataLoader(Steps(min(config.validate_every, config.steps)), batch_size=None)

    def val_dataloader(self) -> DataLoader[int]:
        count = math.ceil(len(self.validation_records) / self.fitted.config.batch_size)
        return DataLoader(Steps(count), batch_size=None)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        step, config, seed = self.global_step, self.fitted.config, self.fitted.seed
        torch.manual_seed(mixed(seed, 1, step))  # dropout
        records = self.training_records
        rows = rows_of_step(len(records), config.batch_size, step, seed)
        spacing, draw = self.fitted.inputs.spacing, generator(seed, 2, step)
        images = augment(records.images[rows].to(self.device), spacing, config.augmentation, draw)
        loss = self._loss(images, records, rows)
        if not bool(loss.isfinite()):
            raise MetaVoxelError(
                f"Training diverged at step {step}: the loss is not a finite number. Lower "
                "learning_rate, or look for implausible values in the data."
            )
        return loss

    def validation_step(self, batch: int, batch_idx: int) -> None:
        records, size = self.validation_records, self.fitted.config.batch_size
        rows = torch.arange(len(records))[batch * size : (batch + 1) * size]
        loss = self._loss(records.images[rows], records, rows)
        name = f"validation/{self.fitted.target.name}"
        self.log(name, loss, on_epoch=True, batch_size=len(rows))

    def _loss(self, images: Tensor, records: _Records, rows: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            said = self.network(images.to(self.device), records.scalars[rows].to(self.device))
        return self.fitted.target.loss(said.float(), records.truth[rows].to(self.device))


class _Ticks(Callback):
    """Tells how many steps are done."""

    def __init__(self, steps: int, progress: Progress | None) -> None:
        self.steps, self.progress = steps, progress

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.progress is not None:
            self.progress(trainer.global_step, self.steps)
