"""A first schema from a BIDS folder, for a person to edit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image as Picture

from metavoxel.data.bids import ScanFile, participants_file, scan_files
from metavoxel.data.tables import Table, at_least, read_table
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Categorical, Continuous, Image, Schema

_FEW = 10  # this many distinct integers or fewer, in a column nothing describes, are labels
_MULTIPLE = 8  # grid axes are padded to multiples of it: two levels in the encoder, two beneath


def infer_schema(root: Path, resolution: float | None = None) -> Schema:
    """The variables of a BIDS folder: one image per suffix, one scalar per column.

    Kinds come from participants.json (Levels: categorical, Units: continuous) or else from the
    values. The grid covers the first scan, at its own spacing or at `resolution` millimetres.
    Columns that are empty, or the same for everyone, are left out. Raises MetaVoxelError.
    """
    root = Path(root)
    table = read_table(participants_file(root))
    files = list(scan_files(root))
    if not files:
        raise MetaVoxelError(f"{root}: there is no image under sub-*/. Give a BIDS dataset.")
    variables: dict[str, Any] = {}
    suffixes = sorted({f.suffix for f in files})
    for suffix in suffixes:
        first = next(f for f in files if f.suffix == suffix)
        variables["image" if len(suffixes) == 1 else suffix.lower()] = _image(first, resolution)
    for column in table.columns:
        if column != "participant_id":
            kind = _scalar(table, column)
            if kind is not None:
                variables[column] = kind
    return Schema(variables=variables)


def _image(file: ScanFile, resolution: float | None) -> Image:
    entities = {k: v for k, v in file.entities.items() if k in ("space", "desc")}
    try:
        size, spacing, channels = _geometry(file.path)
    except Exception as error:  # any reader may fail in its own way on a damaged file
        raise MetaVoxelError(f"{file.path}: cannot be read ({error}). Copy it again.") from None
    wanted = spacing if resolution is None else (resolution,) * len(size)
    extent = [n * s for n, s in zip(size, spacing, strict=True)]
    shape = [
        math.ceil(e / w / _MULTIPLE - 1e-6) * _MULTIPLE for e, w in zip(extent, wanted, strict=True)
    ]
    return Image(
        suffix=file.suffix,
        entities=entities,
        shape=tuple(shape),
        spacing=tuple(round(float(w), 4) for w in wanted),
        channels=channels,
    )


def _geometry(path: Path) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """Shape, spacing (mm) along the canonical axes, and channels of a file."""
    if path.suffix == ".png":
        with Picture.open(path) as picture:
            return (picture.height, picture.width), (1.0, 1.0), 1
    image: Any = nib.as_closest_canonical(nib.load(path))  # type: ignore[arg-type]
    zooms = image.header.get_zooms()
    channels = image.shape[3] if len(image.shape) > 3 else 1
    return tuple(image.shape[:3]), tuple(map(float, zooms[:3])), channels


def _scalar(table: Table, column: str) -> Continuous | Categorical | None:
    cells = [cell for _, cell in table.known(column)]
    described: Mapping[str, Any] = table.described.get(column) or {}
    if len(set(cells)) < 2:
        return None
    levels = [str(level) for level in described.get("Levels") or {}]
    if levels:
        unlisted = sorted(set(cells) - set(levels))
        return _categorical([*levels, *unlisted], described)
    numbers = _numbers(cells)
    if numbers is None:
        labels = sorted(set(cells))
        return (
            _categorical(labels, described) if len(labels) <= max(_FEW, len(cells) // 10) else None
        )
    whole = np.allclose(numbers, np.round(numbers))
    if not described.get("Units") and whole and len(set(cells)) <= _FEW:
        return _categorical(sorted(set(cells), key=float), described)
    low, high = _outward(float(numbers.min()), float(numbers.max()))
    return Continuous(unit=described.get("Units"), range=(low, high))


def _categorical(labels: list[str], described: Mapping[str, Any]) -> Categorical:
    ordered = "order" in str(described.get("Description", "")).lower() or (
        len(labels) > 2 and _numbers(labels) is not None
    )
    return Categorical(labels=tuple(labels), ordered=ordered)


def _numbers(cells: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(at_least(cell)[0]) for cell in cells])
    except ValueError:
        return None


def _outward(low: float, high: float) -> tuple[float, float]:
    """The range rounded outward to two significant digits of its width."""
    step = 10 ** math.floor(math.log10(high - low)) / 2
    return round(math.floor(low / step) * step, 6), round(math.ceil(high / step) * step, 6)
