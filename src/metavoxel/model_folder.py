"""A model on disk: one folder, written whole or not at all, checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from pydantic import ValidationError
from torch import nn

from metavoxel.diffusion.temper import Temper
from metavoxel.diffusion.together import JointNormal
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.files.wall import reading
from metavoxel.files.weights import load_weights, write_weights
from metavoxel.files.writing import atomic_folder
from metavoxel.files.yaml import read_yaml
from metavoxel.model import MetaVoxel, ModelConfig
from metavoxel.model_files import (
    FORMAT,
    KNOWN,
    Encoding,
    JointScalars,
    Latents,
    Scaling,
    Tempers,
    check_files,
    json_text,
    read_model_schema,
    write_checksums,
)
from metavoxel.schema import Schema
from metavoxel.settings import explain

# What folders mean that were written before these settings were.
BEFORE = {
    "image_schedule": None,
    "continuous_prior": "normal",
    "scalars_together": False,
    "image_follows_scalars": False,
}
# Settings that are gone, and what they were where a folder does without them.
GONE = {"scalars_alone": False}


def save_model(
    model: MetaVoxel, folder: Path | str, files: Mapping[str, str] | None = None
) -> None:
    """Write the model folder of DESIGN.md, whole or not at all.

    `files` are further text files by name (model card, calibration, split, run settings).
    """
    with atomic_folder(Path(folder)) as temporary:
        write_model(model, temporary, files or {})


def write_model(model: MetaVoxel, folder: Path, files: Mapping[str, str]) -> None:
    """The same into a folder that may exist. Raises ValueError for a file that no model has."""
    if others := files.keys() - KNOWN:
        raise ValueError(f"{min(others)} is no file of a model")
    folder.mkdir(parents=True, exist_ok=True)
    schema = {"format": FORMAT, **model.schema.model_dump(mode="json")}
    (folder / "schema.json").write_text(json_text(schema))
    config = yaml.safe_dump(model.config.model_dump(mode="json"), sort_keys=False)
    (folder / "config.yaml").write_text(config)
    (folder / "encoding.json").write_text(json_text(_encoding(model).model_dump(mode="json")))
    write_weights(model.autoencoders, folder / "autoencoder.safetensors")
    write_weights(model.denoiser, folder / "denoiser.safetensors")
    tempers = {v: vars(temper) for v, temper in model.tempers.items()}
    (folder / "tempers.json").write_text(json_text(tempers))
    for name, text in files.items():
        (folder / name).write_text(text)
    write_checksums(folder)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> MetaVoxel:
    """Read a model folder whose files are those of its checksums.

    Raises MetaVoxelError naming the file that is missing, has changed, or cannot be read.
    """
    folder = Path(folder)
    check_files(folder)
    schema, config = read_settings(folder)
    encoding = read_model(folder / "encoding.json", Encoding)
    encoding.check(schema, folder / "encoding.json")
    scalings = {v: LinearScaling(**s.model_dump()) for v, s in encoding.continuous.items()}
    together = encoding.scalars and JointNormal(**encoding.scalars.model_dump())
    with reading(folder / "config.yaml", "the settings of this model"):
        model = MetaVoxel(schema, config, scalings, together)
    load_weights(model.autoencoders, folder / "autoencoder.safetensors")
    load_weights(model.denoiser, folder / "denoiser.safetensors")
    if (folder / "tempers.json").is_file():  # older folders have none
        model.tempers = _tempers(folder / "tempers.json", model)
    return model.to(device).eval()


def _tempers(path: Path, model: MetaVoxel) -> dict[str, Temper]:
    tempers = read_model(path, Tempers).root
    if others := tempers.keys() - model.read_outs.keys():
        raise MetaVoxelError(f"{path}: {min(others)} has no spread to be tempered. Copy it again.")
    return {v: Temper(**factors.model_dump()) for v, factors in tempers.items()}


def read_settings(folder: Path) -> tuple[Schema, ModelConfig]:
    """The schema and configuration of a model folder, without its weights."""
    schema = read_model_schema(folder)
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


def _encoding(model: MetaVoxel) -> Encoding:
    together = model.together
    return Encoding(
        continuous={v: Scaling(**vars(s)) for v, s in model.scalings.items()},
        categorical={v: s.labels for v, s in model.labels.items()},
        images={v: _per_channel(encoder) for v, encoder in model.autoencoders.items()},
        scalars=None if together is None else JointScalars(**together.as_dict()),
    )


def _per_channel(encoder: nn.Module) -> Latents:
    """Mean and std of the latent's channels, to read; those of the elements are in the weights."""
    mean, std = encoder.latent_mean.flatten(1), encoder.latent_std.flatten(1)  # type: ignore[union-attr]
    spread = (std.square().mean(1) + mean.var(1, correction=0)).sqrt()
    return Latents(latent_mean=tuple(mean.mean(1).tolist()), latent_std=tuple(spread.tolist()))
