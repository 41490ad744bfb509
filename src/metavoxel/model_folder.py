"""A model on disk: one folder, written whole or not at all, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from metavoxel.diffusion.temper import Temper
from metavoxel.diffusion.together import JointNormal
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.errors import MetaVoxelError
from metavoxel.files.writing import atomic_folder
from metavoxel.files.yaml import read_yaml
from metavoxel.model import MetaVoxel, ModelConfig
from metavoxel.schema import Schema, parse_schema
from metavoxel.settings import explain

CHECKSUMS = "checksums.json"
# What folders mean that were written before these settings were.
BEFORE = {
    "image_schedule": None,
    "continuous_prior": "normal",
    "scalars_together": False,
    "image_follows_scalars": False,
}
# Settings that are gone, and what they were where a folder does without them.
GONE = {"scalars_alone": False}
FORMAT = 1  # of the model folder; raised when an older reader could misread a newer folder


def save_model(
    model: MetaVoxel, folder: Path | str, files: Mapping[str, str] | None = None
) -> None:
    """Write the model folder of DESIGN.md, whole or not at all.

    `files` are further text files by name (model card, calibration, split, run settings).
    """
    with atomic_folder(Path(folder)) as temporary:
        write_model(model, temporary, files or {})


def write_model(model: MetaVoxel, folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    schema = {"format": FORMAT, **model.schema.model_dump(mode="json")}
    (folder / "schema.json").write_text(json.dumps(schema, indent=2) + "\n")
    config = yaml.safe_dump(model.config.model_dump(mode="json"), sort_keys=False)
    (folder / "config.yaml").write_text(config)
    (folder / "encoding.json").write_text(json.dumps(_encoding(model), indent=2) + "\n")
    save_weights(model.autoencoders, folder / "autoencoder.safetensors")
    save_weights(model.denoiser, folder / "denoiser.safetensors")
    tempers = {v: vars(temper) for v, temper in model.tempers.items()}
    (folder / "tempers.json").write_text(json.dumps(tempers, indent=2) + "\n")
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / CHECKSUMS).write_text(json.dumps(checksums(folder), indent=2) + "\n")


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every other file of a model folder, by name."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != CHECKSUMS)
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> MetaVoxel:
    """Read a model folder. Raises MetaVoxelError naming what is missing or unreadable."""
    folder = Path(folder)
    if not (folder / "schema.json").is_file():
        raise MetaVoxelError(
            f"{folder}: this is not a model folder (it has no schema.json). Give the folder that "
            "metavoxel train wrote with --out."
        )
    schema, config = read_settings(folder)
    encoding = read_yaml(folder / "encoding.json")
    try:
        scalings = {v: LinearScaling(**s) for v, s in encoding["continuous"].items()}
        together = JointNormal(**encoding["scalars"]) if "scalars" in encoding else None
        model = MetaVoxel(schema, config, scalings, together)
        for module, name in ((model.autoencoders, "autoencoder"), (model.denoiser, "denoiser")):
            module.load_state_dict(load_file(folder / f"{name}.safetensors"))
        if (folder / "tempers.json").is_file():  # older folders have none
            tempers = read_yaml(folder / "tempers.json")
            model.tempers = {v: Temper(**factors) for v, factors in tempers.items()}
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MetaVoxelError(
            f"{folder}: the model cannot be read ({reason}). Copy or train it again."
        ) from None
    return model.to(device).eval()


def read_settings(folder: Path) -> tuple[Schema, ModelConfig]:
    """The schema and configuration of a model folder, without its weights."""
    data: dict[str, Any] = dict(read_yaml(folder / "schema.json"))
    if data.pop("format", None) != FORMAT:
        raise MetaVoxelError(f"{folder}: written by another version of metavoxel; train it again.")
    schema = parse_schema(data, str(folder / "schema.json"))
    settings = read_yaml(folder / "config.yaml")
    match settings:
        case {"diffusion": dict(diffusion), "denoiser": dict(denoiser)}:
            settings["diffusion"] = BEFORE | diffusion
            kept = {k: x for k, x in denoiser.items() if k not in GONE or x != GONE[k]}
            settings["denoiser"] = kept
    try:
        config = ModelConfig.model_validate(settings)
    except ValidationError as error:
        raise explain(error, str(folder / "config.yaml")) from None
    return schema, config


def _encoding(model: MetaVoxel) -> dict[str, Any]:
    return {
        "continuous": {
            v: {k: x for k, x in vars(s).items() if k != "mixture" or x}
            for v, s in model.scalings.items()
        },
        "categorical": {v: list(s.labels) for v, s in model.labels.items()},
        "images": {v: _per_channel(encoder) for v, encoder in model.autoencoders.items()},
    } | ({} if model.together is None else {"scalars": model.together.as_dict()})


def _per_channel(encoder: nn.Module) -> dict[str, list[float]]:
    """Mean and std of the latent's channels, to read; those of the elements are in the weights."""
    mean, std = encoder.latent_mean.flatten(1), encoder.latent_std.flatten(1)  # type: ignore[union-attr]
    spread = (std.square().mean(1) + mean.var(1, correction=0)).sqrt()
    return {"latent_mean": mean.mean(1).tolist(), "latent_std": spread.tolist()}


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights as safetensors. A full disk raises OSError, as any file would."""
    tensors = {k: x.detach().cpu().contiguous().clone() for k, x in module.state_dict().items()}
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
