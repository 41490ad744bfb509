"""Samples on disk: a synthetic BIDS cohort, or loose images."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metavoxel.data.images import Grid, write_image
from metavoxel.errors import MetaVoxelError
from metavoxel.files.writing import atomic_folder, atomic_write
from metavoxel.schema import Image, Schema

_NAME = "MetaVoxel samples"
_AS_IT_IS: dict[str, Any] = {
    "quoting": csv.QUOTE_NONE,
    "quotechar": None,
}  # as BIDS tables are read


def write_samples(
    answers: Mapping[str, Any],
    schema: Schema,
    given: Mapping[str, object],
    out: Path,
    question: str,
    seed: int,
) -> None:
    """Write joint samples as a BIDS dataset, whole or not at all: a participant per sample.

    `participants.tsv` holds the asked scalars of every sample and the given ones. Earlier samples
    in `out` are replaced. Raises MetaVoxelError if it holds anything else.
    """
    check_out(out)
    with atomic_folder(out) as temporary:
        _write_dataset(answers, schema, given, temporary, f"{question} (seed {seed})")


def check_out(out: Path) -> None:
    """Raise MetaVoxelError if samples cannot go to `out`, before any is drawn."""
    if out.exists() and not _may_be_replaced(out):
        raise MetaVoxelError(f"{out} is not empty. Choose another --out, or empty it.")


def _may_be_replaced(out: Path) -> bool:
    """Whether `out` is an empty folder, or one that `write_samples` has written."""
    if not out.is_dir():
        return False
    description = out / "dataset_description.json"
    ours = description.is_file() and f'"Name": "{_NAME}"' in description.read_text()
    written = ("dataset_description.json", "participants.tsv", "participants.json")
    others = [p for p in out.iterdir() if not (p.name in written or p.match("sub-synth*"))]
    return not others and (ours or not any(out.iterdir()))


def _write_dataset(
    answers: Mapping[str, Any],
    schema: Schema,
    given: Mapping[str, object],
    out: Path,
    description: str,
) -> None:
    drawn = {v: answers[v] for v in answers}
    count = max((len(a.samples) for a in drawn.values()), default=0)
    names = [f"sub-synth{i + 1:04d}" for i in range(count)]
    for v, answer in drawn.items():
        if v in schema.images:
            _write_volumes(answer.samples, answer.grid, schema.images[v], names, out)
    table = {v: _within(schema.scalars[v], drawn[v].samples) for v in drawn if v in schema.scalars}
    table |= {v: [x] * count for v, x in given.items() if v in schema.scalars}
    _write_table(out / "participants.tsv", names, table)
    _write_json(out / "participants.json", {v: _described(schema.scalars[v]) for v in table})
    about = {
        "Name": _NAME,
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "metavoxel", "Description": description}],
    }
    _write_json(out / "dataset_description.json", about)


def write_images(samples: np.ndarray, grid: Grid, out: Path, label: str) -> list[Path]:
    """Write images (n, C, *grid) as label-01, label-02 ... in `out`; NIfTI in 3D, PNG in 2D."""
    suffix = "png" if samples.ndim == 4 else "nii.gz"
    paths = [out / f"{label}-{i + 1:02d}.{suffix}" for i in range(len(samples))]
    for path, sample in zip(paths, samples, strict=True):
        write_image(sample, grid, path)
    return paths


def _write_volumes(
    samples: np.ndarray, grid: Grid, kind: Image, names: list[str], out: Path
) -> None:
    entities = "".join(f"_{k}-{x}" for k, x in kind.entities.items())
    suffix = "png" if kind.spatial_dims == 2 else "nii.gz"
    for name, sample in zip(names, samples, strict=True):
        write_image(sample, grid, out / name / "anat" / f"{name}{entities}_{kind.suffix}.{suffix}")


def _within(kind: Any, samples: np.ndarray) -> np.ndarray:
    """Numbers inside the range of the schema, so that the dataset can be read under it."""
    bounds = getattr(kind, "range", None)
    return samples if bounds is None else samples.clip(*bounds)


def _described(kind: Any) -> dict[str, Any]:
    if kind.kind == "categorical":
        return {"Levels": {label: label for label in kind.labels}}
    return {"Units": kind.unit} if kind.unit else {}


def _write_table(path: Path, names: list[str], columns: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", **_AS_IT_IS)
        writer.writerow(["participant_id", *columns])
        for i, name in enumerate(names):
            row = [x[i] for x in columns.values()]
            writer.writerow([name, *(f"{x:.6g}" if isinstance(x, float) else x for x in row)])


def _write_json(path: Path, data: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n")
