"""Checkpoints are tensors and plain values: one that someone sent runs no code when it is read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from metavoxel.errors import MetaVoxelError
from metavoxel.training.checkpoint import AtomicCheckpoint, averaging, check_checkpoint, fit
from metavoxel.training.joint import Steps


class Line(L.LightningModule):
    """y = a x, trained by AdamW with a schedule, as our modules are."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.network = nn.Linear(width, 1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(Steps(10), batch_size=None)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        x = torch.ones(4, self.network.in_features)
        return (self.network(x) - 3).square().mean()


def train(path: Path, steps: int, width: int = 1) -> Line:
    torch.manual_seed(0)
    module = Line(width)
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            averaging(0.9, torch.device("cpu")),
            AtomicCheckpoint(path, 2, lambda m: m.global_step),
        ],
    )
    fit(trainer, module, path)
    return module


class Hostile:
    """Unpickled as plain pickle does it, it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.made),)


def test_what_was_saved_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    train(path, 4)
    resumed, whole = train(path, 8), train(tmp_path / "other.ckpt", 8)
    assert torch.equal(resumed.network.weight, whole.network.weight)


@pytest.mark.parametrize("how", ["inside", "alone", "plain pickle"])
def test_code_in_a_checkpoint_does_not_run(how: str, tmp_path: Path) -> None:
    path, made = tmp_path / "last.ckpt", tmp_path / "made"
    train(path, 4)
    if how == "inside":
        data = torch.load(path, weights_only=True)
        data["loops"]["fit_loop"]["state_dict"]["more"] = Hostile(made)
        torch.save(data, path)
    elif how == "alone":
        torch.save(Hostile(made), path)
    else:
        path.write_bytes(pickle.dumps(Hostile(made)))
    for read in (check_checkpoint, lambda path: train(path, 8)):
        with pytest.raises(MetaVoxelError, match=r"last\.ckpt: damaged, or not a checkpoint"):
            read(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "change", ["state_dict", "loops", "optimizer_states", "callbacks", "width"]
)
def test_a_checkpoint_of_something_else_is_named(change: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    train(path, 4)
    data = torch.load(path, weights_only=True)
    if change == "width":
        data["state_dict"]["network.weight"] = torch.ones(1, 5)
    elif change == "callbacks":
        data[change] = 3
    else:
        data[change] = {}
    torch.save(data, path)
    with pytest.raises(MetaVoxelError, match=r"last\.ckpt: damaged, or not a checkpoint"):
        train(path, 8)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_checkpoint_that_is_cut_is_named(share: float, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    train(path, 4)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(MetaVoxelError, match=r"last\.ckpt: damaged, .*start anew\."):
        train(path, 8)


def test_a_checkpoint_with_a_changed_byte_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    train(path, 4)
    data = bytearray(path.read_bytes())
    at = data.index(
        torch.load(path, weights_only=True)["state_dict"]["network.weight"].numpy().tobytes()
    )
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(MetaVoxelError, match=r"last\.ckpt: damaged, .*has changed"):
        train(path, 8)


def test_what_fails_after_the_first_step_is_no_fault_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    train(path, 4)

    def bug(*_: object) -> Tensor:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(Line, "training_step", bug)
    with pytest.raises(ZeroDivisionError):
        train(path, 8)


def test_no_file_is_unpickled_anywhere() -> None:
    """Weights are safetensors, checkpoints are read by one function, arrays hold numbers."""
    root = Path(__file__).parents[2] / "src"
    said = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*.py")}
    for text in ("allow_pickle=True", "import pickle", "joblib.load", "cloudpickle", "dill"):
        assert [name for name, code in said.items() if text in code] == [], text
    loads = [name for name, code in said.items() if "torch.load(" in code]
    assert loads == ["metavoxel/training/checkpoint.py"]
    assert 'torch.load(path, map_location="cpu", mmap=True, weights_only=True)' in said[loads[0]]
    fits = [name for name, code in said.items() if "ckpt_path=" in code]
    assert fits == loads
