"""A first schema from a BIDS folder, for a person to edit."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
_LOOKED_AT = 20  # scans of each suffix whose headers decide the grid
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")  # as schema.Name


def infer_schema(
    root: Path, resolution: float | None = None, warn: Callable[[str], None] = lambda _: None
) -> Schema:
    """The variables of a BIDS folder: one image per suffix, one scalar per column.

    Kinds come from participants.json (Levels: categorical, Units: continuous) or else from the
    values. One grid covers the first scans of every suffix, at their finest spacing or at
    `resolution` millimetres. Left out are columns of which nothing can be learnt (empty, the same
    for everyone, free text) or whose name is no variable's; `warn` is told of each, in a sentence.
    Raises MetaVoxelError.
    """
    root = Path(root)
    if resolution is not None and not 0 < resolution < math.inf:
        raise MetaVoxelError(f"A resolution of {resolution:g} mm makes no grid; give one above 0.")
    table = read_table(participants_file(root))
    files: dict[str, list[ScanFile]] = {}
    for file in scan_files(root):
        files.setdefault(file.suffix, []).append(file)
    if not files:
        raise MetaVoxelError(f"{root}: there is no image under sub-*/. Give a BIDS dataset.")
    images = _images(root, files, resolution)
    if len(images) == 1 and "image" not in table.columns:
        images = {"image": next(iter(images.values()))}
    scalars = {}
    for column in table.columns:
        if column == "participant_id":
            continue
        kind, where = _scalar(table, column), f'{table.path}, row 1: column "{column}"'
        if kind is None:
            warn(f"{where} is left out: it is empty, the same for everyone, or free text.")
        elif column in images or not _NAME.match(column):
            warn(
                f"{where} is left out: it cannot name a variable. Rename it with letters, digits "
                "and _, and unlike any image's suffix."
            )
        else:
            scalars[column] = kind
    return Schema(variables={**images, **scalars})


def _images(
    root: Path, files: Mapping[str, Sequence[ScanFile]], resolution: float | None
) -> dict[str, Image]:
    """One image variable per suffix, all on one grid, which a schema wants."""
    looked_at = {
        suffix: [_geometry(f.path) for f in fs[:_LOOKED_AT]] for suffix, fs in files.items()
    }
    seen = [g for geometries in looked_at.values() for g in geometries]
    if len({len(g.shape) for g in seen}) > 1:
        raise MetaVoxelError(f"{root}: 2D and 3D images cannot share a schema. Write one by hand.")
    axes = range(len(seen[0].shape))
    finest = [min(g.spacing[i] for g in seen) for i in axes]
    spacing = finest if resolution is None else [resolution for _ in axes]
    extent = [max(g.shape[i] * g.spacing[i] for g in seen) for i in axes]
    shape = [
        math.ceil(e / s / _MULTIPLE - 1e-6) * _MULTIPLE
        for e, s in zip(extent, spacing, strict=True)
    ]
    return {
        suffix.lower(): Image(
            suffix=suffix,
            entities={k: v for k, v in fs[0].entities.items() if k in ("space", "desc")},
            shape=tuple(shape),
            spacing=tuple(round(float(x), 4) for x in spacing),
            channels=looked_at[suffix][0].channels,
        )  # type: ignore[call-arg]
        for suffix, fs in files.items()
    }


@dataclass(frozen=True)
class _Geometry:
    """Shape, spacing (mm) along the canonical axes, and channels of a file."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int


def _geometry(path: Path) -> _Geometry:
    try:
        if path.suffix == ".png":
            with Picture.open(path) as picture:
                return _Geometry((picture.height, picture.width), (1.0, 1.0), 1)
        image: Any = nib.load(path)  # type: ignore[arg-type]
    except Exception as error:  # any reader may fail in its own way on a damaged file
        raise MetaVoxelError(f"{path}: cannot be read ({error}). Copy it again.") from None
    shape, zooms = list(image.shape), image.header.get_zooms()
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()  # a single slice is 2D
    axes = list(range(min(3, len(shape))))
    if len(axes) == 3:  # from the header alone: reorienting the voxels would load them
        axes = [int(i) for i in np.argsort(nib.io_orientation(image.affine)[:, 0])]
    channels = shape[3] if len(shape) > 3 else 1
    return _Geometry(tuple(shape[i] for i in axes), tuple(float(zooms[i]) for i in axes), channels)


def _scalar(table: Table, column: str) -> Continuous | Categorical | None:
    cells = [cell for _, cell in table.known(column)]
    described = table.described.get(column)
    described = described if isinstance(described, Mapping) else {}
    if len(set(cells)) < 2:
        return None
    said = described.get("Levels")
    levels = [str(level) for level in said] if isinstance(said, Mapping | list) else []
    few_others = 2 * len({*cells} - {*levels}) <= len({*cells})  # else they are codes for missing
    if len(levels) > 1 and few_others:
        return _categorical(levels, described)  # a cell that is none of them is an error on reading
    numbers = _numbers(cells)
    # A typo among the numbers must not make the column vanish: reading it will name the cell.
    mostly_numbers = len(numbers) > len(cells) / 2
    if described.get("Units") or mostly_numbers:
        return _continuous_or_codes(cells, numbers, described)
    labels = sorted(set(cells))
    return _categorical(labels, described) if len(labels) <= max(_FEW, len(cells) // 10) else None


def _continuous_or_codes(
    cells: Sequence[str], numbers: np.ndarray, described: Mapping[str, Any]
) -> Continuous | Categorical | None:
    unit = described.get("Units")
    codes = len(numbers) == len(cells) and np.allclose(numbers, np.round(numbers))
    if not unit and codes and len(set(cells)) <= _FEW:
        return _categorical(sorted(set(cells), key=lambda cell: _numbers([cell])[0]), described)
    if len(numbers) == 0 or numbers.min() == numbers.max():
        return Continuous(unit=unit, range=None)
    return Continuous(unit=unit, range=_outward(float(numbers.min()), float(numbers.max())))


def _categorical(labels: Sequence[str], described: Mapping[str, Any]) -> Categorical:
    said = re.search(r"(?<!not )\bordered\b", str(described.get("Description", "")).lower())
    codes = len(labels) > 2 and len(_numbers(labels)) == len(labels)
    return Categorical(labels=tuple(labels), ordered=bool(said) or codes)


def _numbers(cells: Sequence[str]) -> np.ndarray:
    """The finite numbers among the cells."""
    found = []
    for cell in cells:
        with contextlib.suppress(ValueError):
            found.append(float(at_least(cell)[0]))
    numbers = np.array(found)
    return numbers[np.isfinite(numbers)]


def _outward(low: float, high: float) -> tuple[float, float]:
    """The range rounded outward to two significant digits of its width."""
    step = 10 ** math.floor(math.log10(high - low)) / 2
    return round(math.floor(low / step) * step, 6), round(math.ceil(high / step) * step, 6)
