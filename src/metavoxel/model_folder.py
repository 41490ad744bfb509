"""A model on disk: one folder, written whole or not at all, checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from torch import nn

from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.files.wall import reading
from metavoxel.files.weights import load_weights, write_weights
from metavoxel.files.writing import atomic_folder
from metavoxel.files.yaml import read_yaml
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_files import (
    FORMAT,
    KNOWN,
    Encoding,
    Latents,
    Posterior,
    Prior,
    Scaling,
    check_files,
    json_text,
    read_model_schema,
    write_checksums,
)
from metavoxel.posterior.law import Calibration, ScalarLaw
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.schema import Number, Schema
from metavoxel.settings import explain


def save_model(
    model: MetaVoxel, folder: Path | str, files: Mapping[str, str] | None = None
) -> None:
    """Write the model folder, whole or not at all.

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
    if model.law is not None:
        (folder / "posterior.json").write_text(json_text(_posterior(model.law)))
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
    scalings = {
        v: _scaling(schema.numbers[v], saved, f"{folder / 'encoding.json'}, numbers.{v}")
        for v, saved in encoding.numbers.items()
    }
    prior = calibration = None
    if config.diffusion.scalars == "posterior" and len(schema.scalars):
        prior, calibration = _read_posterior(folder / "posterior.json", schema)
    with reading(folder / "config.yaml", "the settings of this model"):
        model = MetaVoxel(schema, config, scalings, prior)
    load_weights(model.autoencoders, folder / "autoencoder.safetensors")
    load_weights(model.denoiser, folder / "denoiser.safetensors")
    if model.law is not None and calibration is not None:
        model.law.calibration = calibration
    return model.to(device).eval()


def read_settings(folder: Path) -> tuple[Schema, ModelConfig]:
    """The schema and configuration of a model folder, without its weights."""
    schema = read_model_schema(folder)
    settings = read_yaml(folder / "config.yaml")
    try:
        config = ModelConfig.model_validate(settings)
    except ValidationError as error:
        raise explain(error, str(folder / "config.yaml")) from None
    return schema, config


def _encoding(model: MetaVoxel) -> Encoding:
    return Encoding(
        numbers={v: asdict(scaling) for v, scaling in model.scalings.items()},
        categorical={v: s.labels for v, s in model.labels.items()},
        images={v: _per_channel(encoder) for v, encoder in model.autoencoders.items()},
    )


def _scaling(kind: Number, saved: dict[str, Any], where: str) -> NormalScores | LinearScaling:
    """The map of a number as it was saved. Raises MetaVoxelError."""
    try:
        if kind.embedding is not None and "std" not in saved:
            return TypeAdapter(kind.embedding).validate_python(saved)
        scaling = Scaling.model_validate(saved)
    except ValidationError as error:
        raise explain(error, where) from None
    if scaling.std is not None:
        return LinearScaling(scaling.low, scaling.high, scaling.std)
    return NormalScores(scaling.low, scaling.high, scaling.components)


def _read_posterior(path: Path, schema: Schema) -> tuple[ScalarPrior, Calibration]:
    """The prior of the scalars and the constants of the evidence. Raises MetaVoxelError."""
    saved = read_model(path, Posterior)
    counts = tuple(len(kind.labels) for kind in schema.categorical.values())
    sizes = len(saved.prior.offset), saved.prior.counts
    for key, fits in (
        ("prior", sizes == (len(schema.numbers), counts)),
        ("temperatures", saved.temperatures.keys() == {*schema.scalars}),
        ("shifts", saved.shifts.keys() <= {*schema.numbers}),
        ("shifts", all(x.keys() <= {*schema.categorical} for x in saved.shifts.values())),
    ):
        if not fits:
            raise MetaVoxelError(
                f"{path}, key {key}: it is not of the variables of schema.json. Copy the model "
                "again, or train it again."
            )
    with reading(path, "the prior of this model"):
        prior = ScalarPrior(**saved.prior.model_dump())
    return prior, Calibration(saved.temperatures, saved.shifts, saved.sharing)


def _posterior(law: ScalarLaw) -> dict[str, Any]:
    constants = asdict(law.calibration)
    return Posterior(prior=Prior(**law.prior.as_dict()), **constants).model_dump(mode="json")


def _per_channel(encoder: nn.Module) -> Latents:
    """Mean and std of the latent's channels, to read; those of the elements are in the weights."""
    mean, std = (encoder.get_buffer(x).flatten(1) for x in ("latent_mean", "latent_std"))
    spread = (std.square().mean(1) + mean.var(1, correction=0)).sqrt()
    return Latents(latent_mean=tuple(mean.mean(1).tolist()), latent_std=tuple(spread.tolist()))
