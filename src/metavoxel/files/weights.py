"""Weights of networks as safetensors: no pickle, so that a model folder cannot run code."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from metavoxel.files.wall import reading


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name. Raises MetaVoxelError."""
    with reading(path, "weights (safetensors)"):
        return load_file(path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module with the weights of a file. Raises MetaVoxelError if they do not fit."""
    tensors = read_weights(path)
    with reading(path, "weights of this network"):
        module.load_state_dict(tensors)


def write_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights. A full disk raises OSError, as any file would."""
    tensors = {k: x.detach().cpu().contiguous().clone() for k, x in module.state_dict().items()}
    path.touch()
    mode = path.stat().st_mode & 0o777  # as the umask has it: safetensors writes 0600
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)
