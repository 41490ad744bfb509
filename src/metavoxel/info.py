"""What a model folder says about itself, without loading the model (or torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from metavoxel.files.json import read_model
from metavoxel.files.yaml import read_yaml
from metavoxel.model_files import Calibrations, SplitFile, check_files, read_model_schema
from metavoxel.settings import explain


class _Diffusion(BaseModel):
    times: dict[str, Any]


class _Config(BaseModel):
    """The part of a ModelConfig that is told; all of it needs torch."""

    sampling: dict[str, Any]
    diffusion: _Diffusion


def describe(folder: Path) -> dict[str, Any]:
    """Variables, engine, training and validation scores of a model. Raises MetaVoxelError.

    Of its files all but the weights are compared with their checksums.
    """
    check_files(folder, weights=False)
    config = _config(folder / "config.yaml")
    split, calibration = folder / "split.json", folder / "calibration.json"
    files = (f for f in folder.iterdir() if f.is_file())
    facts: dict[str, Any] = {
        "model": str(folder),
        "variables": read_model_schema(folder).model_dump(mode="json")["variables"],
        "sampling": config.sampling,
        "times": config.diffusion.times,
        "megabytes": round(sum(f.stat().st_size for f in files) / 1e6, 1),
    }
    if split.is_file():
        parts = read_model(split, SplitFile)
        facts["subjects"] = {
            "train": len(parts.train),
            "validation": len(parts.validation),
            "test": len(parts.test),
        }
    if calibration.is_file():
        facts["validation"] = read_model(calibration, Calibrations).scores
    return facts


def _config(path: Path) -> _Config:
    try:
        return _Config.model_validate(read_yaml(path))
    except ValidationError as error:
        raise explain(error, str(path)) from None
