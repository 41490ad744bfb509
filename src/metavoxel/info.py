"""What a model folder says about itself, without loading the model (or torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metavoxel.errors import MetaVoxelError
from metavoxel.files.yaml import read_yaml
from metavoxel.schema import parse_schema


def describe(folder: Path) -> dict[str, Any]:
    """Variables, engine, training and validation scores of a model. Raises MetaVoxelError."""
    if not (folder / "schema.json").is_file():
        raise MetaVoxelError(
            f"{folder}: this is not a model folder (it has no schema.json). Give the folder that "
            "metavoxel train wrote with --out."
        )
    data = dict(read_yaml(folder / "schema.json"))
    data.pop("format", None)
    schema = parse_schema(data, str(folder / "schema.json"))
    config = read_yaml(folder / "config.yaml")
    if not {"sampling", "diffusion"} <= {*config}:
        raise MetaVoxelError(f"{folder / 'config.yaml'}: this is no configuration; copy it again.")
    split = folder / "split.json"
    calibration = folder / "calibration.json"
    facts: dict[str, Any] = {
        "model": str(folder),
        "variables": schema.model_dump(mode="json")["variables"],
        "sampling": config["sampling"],
        "times": config["diffusion"]["times"],
        "megabytes": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 1),
    }
    if split.is_file():
        parts = read_yaml(split)
        facts["subjects"] = {p: len(parts.get(p, ())) for p in ("train", "validation", "test")}
    if calibration.is_file():
        facts["validation"] = read_yaml(calibration).get("scores", {})
    return facts
