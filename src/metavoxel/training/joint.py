"""The joint stage as a Lightning module: Eq. 5 on cached encodings."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from metavoxel.diffusion.joint import Times
from metavoxel.errors import MetaVoxelError
from metavoxel.model import MetaVoxel
from metavoxel.training.config import TrainingConfig
from metavoxel.training.examples import Examples
from metavoxel.training.seeds import generator, mixed, rows_of_step


class Steps(Dataset[int]):
    """As many items as an epoch has steps; a step makes its own batch from its number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> int:
        return i


class JointModule(L.LightningModule):
    """Trains the denoiser of a model whose encoders are frozen.

    An epoch is the steps between two validations. The batch, times and noise of step k are drawn
    from (seed, k), so that a resumed run is bit-identical to one never interrupted.
    """

    def __init__(
        self,
        model: MetaVoxel,
        training: Examples,
        validation: Examples | None,
        settings: TrainingConfig,
    ) -> None:
        super().__init__()
        self.denoiser = model.denoiser  # the only weights that are trained, averaged and saved
        self._model = (model,)  # in a tuple: not a submodule, so the frozen encoders stay out
        self.training_examples, self.validation_examples = (training,), (validation,)
        self.settings, self.seed = settings.joint, settings.seed
        self.bf16 = settings.precision == "bf16"

    @property
    def model(self) -> MetaVoxel:
        return self._model[0]

    def on_fit_start(self) -> None:
        self.model.to(self.device)  # Lightning moves the denoiser; the frozen encoders go with it

    def configure_optimizers(self) -> dict[str, Any]:
        s = self.settings
        optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            lr=s.learning_rate,
            weight_decay=s.weight_decay,
            fused=self.device.type == "cuda",
        )

        def rate(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, s.warmup_steps))
            return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / s.steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(Steps(self.settings.validate_every), batch_size=None)

    def val_dataloader(self) -> DataLoader[int]:
        return DataLoader(Steps(self.settings.validation_draws), batch_size=None)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        step = self.global_step
        torch.manual_seed(mixed(self.seed, 1, step))  # dropout
        draw = generator(self.seed, 2, step)
        examples, size = self.training_examples[0], self.settings.batch_size
        rows = rows_of_step(len(examples), size, step, self.seed)
        copies = torch.randint(2**31, (size,), generator=draw)
        loss, parts = self._loss(examples, rows, copies, draw)
        if not bool(loss.isfinite()):
            raise MetaVoxelError(
                f"Training diverged at step {step}: the loss is not a finite number. Lower "
                "joint.learning_rate, or look for implausible values in the data."
            )
        self._log("train", loss, parts, size)
        if not loss.requires_grad:  # a batch so small that nothing was asked in it
            return 0 * next(self.denoiser.parameters()).sum()
        return loss

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Eq. 5 on every validation record, with the draws of (t, noise) fixed once for all."""
        examples = self.validation_examples[0]
        assert examples is not None
        rows = torch.arange(len(examples))
        for first in rows.split(self.settings.batch_size):
            draw = generator(self.seed, 3, batch_idx, int(first[0]))
            copies = torch.zeros(len(first), dtype=torch.long)
            sampler = self.model.times.validated(batch_idx)
            times = self.model.drawn_times(len(first), draw, sampler)
            loss, parts = self._loss(examples, first, copies, draw, times)
            self._log("validation", loss, parts, len(first))

    def _loss(
        self,
        examples: Examples,
        rows: Tensor,
        copies: Tensor,
        draw: torch.Generator,
        times: Times | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z0, observed = examples.batch(rows, copies)
        z0 = {v: x.to(self.device) for v, x in z0.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.loss(z0, observed, draw, times)

    def _log(self, stage: str, loss: Tensor, parts: dict[str, Tensor], size: int) -> None:
        on_epoch = stage == "validation"
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's connectors
        if not on_epoch and (self.global_step + 1) % every:
            return  # Lightning would throw it away
        self.log(f"{stage}/loss", loss, prog_bar=True, on_epoch=on_epoch, batch_size=size)
        # All at once: every look at a value waits for the GPU.
        counted = torch.stack([*parts.values()]).isfinite().tolist() if parts else []
        for (v, part), some in zip(parts.items(), counted, strict=True):
            if some:
                self.log(f"{stage}/{v}", part, on_epoch=on_epoch, batch_size=size)
