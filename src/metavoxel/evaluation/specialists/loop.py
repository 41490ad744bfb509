"""Training a network of images and scalars: one call that can be killed and repeated, as of the
joint model, whatever the network is to answer."""

from __future__ import annotations

import hashlib
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
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
from metavoxel.evaluation.specialists.config import NetworkTraining
from metavoxel.evaluation.specialists.encoding import ImageInputs, column
from metavoxel.evaluation.specialists.networks import Standardised, covers_kernels
from metavoxel.files.json import read_model
from metavoxel.files.weights import write_weights
from metavoxel.files.writing import atomic_write, locked, remove_leftovers
from metavoxel.model import best_device
from metavoxel.settings import Strict
from metavoxel.training.augment import augment
from metavoxel.training.checkpoint import AtomicCheckpoint, BestWeights, averaging, fit
from metavoxel.training.joint import Steps
from metavoxel.training.precision import computes_in_bf16
from metavoxel.training.seeds import generator, mixed, rows_of_step

Progress = Callable[[int, int], None]  # (steps done, of)
SETTINGS = "specialist.json"
WEIGHTS = {"best": "weights.safetensors", "last": "last.safetensors"}  # averaged, each of them
_CHECKPOINT, _BEST = "last.ckpt", "best.safetensors"


class Examples(ABC):
    """Records as a network learns from them; images stay in [0, 1], to be augmented."""

    images: Tensor
    draws: int = 1  # of every record of a validation

    def __len__(self) -> int:
        return len(self.images)

    def __deepcopy__(self, memo: dict[int, Any]) -> Examples:
        return self  # the averaged copy of the module needs no images of its own

    @abstractmethod
    def drawn(self, rows: Tensor, draw: torch.Generator) -> tuple[Tensor, Any]:
        """The scalars that the network reads of these records, (b, S), and what it is to say."""

    @abstractmethod
    def losses(self, said: Tensor, wanted: Any) -> Mapping[str, tuple[Tensor, int]]:
        """By variable: the mean loss of the outputs (b, K), and of how many records."""


def digest_of(names: Collection[str], *tables: Table) -> str:
    """A digest of every value that a network sees."""
    digest = hashlib.sha256()
    for table in tables:
        for v in names:
            x = np.ascontiguousarray(table.images[v] if v in table.images else column(table, v))
            digest.update(f"{v} {x.dtype} {x.shape}".encode() + x.tobytes())
    return digest.hexdigest()


@contextmanager
def opened(folder: Path, fitted: Strict) -> Iterator[bool]:
    """Begin in an empty folder; go on in one of the same settings and data alone.

    Yields whether the weights are there. Raises MetaVoxelError.
    """
    path = folder / SETTINGS
    with locked(folder / "lock", f"{folder}: another process trains here. Wait for it."):
        remove_leftovers(folder)
        if not path.exists():
            with atomic_write(path) as temporary:
                temporary.write_text(fitted.model_dump_json(indent=2))
        kept = read_model(path, type(fitted))
        for what, name in {"settings": "config", "seed": "seed", "data": "data"}.items():
            if getattr(kept, name) != getattr(fitted, name):
                raise MetaVoxelError(
                    f"{folder} holds a specialist of other {what}. Choose another folder, or "
                    "remove it."
                )
        yield (folder / WEIGHTS["best"]).exists()


def fit_network(
    config: NetworkTraining,
    seed: int,
    inputs: ImageInputs,
    build: Callable[[], Standardised],
    training: Examples,
    validation: Examples,
    asked: Collection[str],
    folder: Path,
    progress: Progress | None,
) -> None:
    """Train to the end, and keep averaged weights: those that validation chose by the mean loss of
    the variables that are `asked`, and those of the last step."""
    device = best_device()
    with torch.random.fork_rng():
        torch.manual_seed(mixed(seed, 0))
        network = build()
        network.fit(training.images, config.centred)
        module = NetworkModule(config, seed, inputs, network, training, validation)
        module.bf16 = _bf16(config, network, inputs, device)
        callbacks: list[Callback] = [
            BestWeights(folder, (), asked, network="network"),
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
    with atomic_write(
        folder / WEIGHTS["last"]
    ) as temporary:  # the average, once training has ended
        write_weights(network, temporary)
    (folder / _BEST).replace(folder / WEIGHTS["best"])
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def _bf16(
    config: NetworkTraining, network: nn.Module, inputs: ImageInputs, device: torch.device
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


class NetworkModule(L.LightningModule):
    """Trains a network.

    An epoch is the steps between two validations. The batch, what is drawn for it, the augmentation
    and the dropout of step k follow from (seed, k): a resumed run is bit-identical to one never
    interrupted.
    """

    def __init__(
        self,
        config: NetworkTraining,
        seed: int,
        inputs: ImageInputs,
        network: Standardised,
        training: Examples,
        validation: Examples,
    ) -> None:
        super().__init__()
        self.network, self.config, self.seed, self.spacing = network, config, seed, inputs.spacing
        self.training_records, self.validation_records = training, validation
        self.bf16 = False

    def configure_optimizers(self) -> dict[str, Any]:
        s = self.config
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay
        )

        def rate(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, s.warmup_steps))
            return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / s.steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[int]:
        config = self.config
        return DataLoader(Steps(min(config.validate_every, config.steps)), batch_size=None)

    def val_dataloader(self) -> DataLoader[int]:
        count = self._validation_batches * self.validation_records.draws
        return DataLoader(Steps(count), batch_size=None)

    @property
    def _validation_batches(self) -> int:
        return math.ceil(len(self.validation_records) / self.config.batch_size)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        step, seed, records = self.global_step, self.seed, self.training_records
        torch.manual_seed(mixed(seed, 1, step))  # dropout
        rows = rows_of_step(len(records), self.config.batch_size, step, seed)
        images, draw = records.images[rows].to(self.device), generator(seed, 2, step)
        images = augment(images, self.spacing, self.config.augmentation, draw)
        found = self._losses(images, records, rows, generator(seed, 3, step))
        loss = torch.stack([x for x, _ in found.values()]).mean()
        if not bool(loss.isfinite()):
            raise MetaVoxelError(
                f"Training diverged at step {step}: the loss is not a finite number. Lower "
                "learning_rate, or look for implausible values in the data."
            )
        return loss

    def validation_step(self, batch: int, batch_idx: int) -> None:
        records, size = self.validation_records, self.config.batch_size
        start = batch % self._validation_batches * size
        rows = torch.arange(len(records))[start : start + size]
        draw = generator(self.seed, 4, batch)  # the same in every validation
        found = self._losses(records.images[rows], records, rows, draw)
        for v, (loss, count) in found.items():
            self.log(f"validation/{v}", loss, on_epoch=True, batch_size=count)

    def _losses(
        self, images: Tensor, records: Examples, rows: Tensor, draw: torch.Generator
    ) -> Mapping[str, tuple[Tensor, int]]:
        scalars, wanted = records.drawn(rows, draw)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            said = self.network(images.to(self.device), scalars.to(self.device))
        return records.losses(said.float(), wanted)


class _Ticks(Callback):
    """Tells how many steps are done."""

    def __init__(self, steps: int, progress: Progress | None) -> None:
        self.steps, self.progress = steps, progress

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.progress is not None:
            self.progress(trainer.global_step, self.steps)
