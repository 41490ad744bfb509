"""Pictures of a prepared brain: cuts in three planes, and outlines that stay sharp at any size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from contourpy import LineType, contour_generator
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from metavoxel.data.images import Grid, read_volume, read_volume_mask, resample
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.template import template_brain, template_grid, template_mask

# Where the planes cross (mm, MNI152) unless told: beside the midline, through the hippocampi and
# the lateral ventricles, where a bad mask or a wrong registration shows.
CENTRE = (-4.0, -18.0, 12.0)
_SMOOTH = 0.7  # voxels: rounds the stairs of a binary mask, moves its outline by less than half one
_WHITE_MATTER = 0.77  # of the template's brightest: between its grey and its white matter
_MARGIN_MM = 6.0
_TILE_MM = 2.0
_TICKS = 4  # outlines are written in quarters of a pixel
# Ten thousand tiles stand in one page: their pictures are WebP of this quality, and their outlines
# keep every second point.
_QUALITY = 70
_TILE_STEP = 2
# (name, axis cut across, axis to the right, axis upwards, what lies left, what lies right)
_PLANES = (
    ("sagittal", 0, 1, 2, "P", "A"),
    ("coronal", 1, 0, 2, "L", "R"),
    ("axial", 2, 0, 1, "L", "R"),
)


@dataclass(frozen=True, eq=False)
class Cut:
    """One plane of a volume, upright: `pixels` (rows, columns) in [0, 1].

    `right` and `up` are the volume's axes along the picture's, `corner` the voxel of its lower left
    pixel; the left hand of the subject is on the left.
    """

    plane: str
    across: int
    right: int
    up: int
    sides: tuple[str, str]
    corner: tuple[int, int]
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Window:
    """The box of voxels that pictures show: half open, axis by axis."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]


def read_brain(brain: Path, mask: Path) -> tuple[np.ndarray, np.ndarray, Grid]:
    """A prepared brain and its mask on one grid. Raises MetaVoxelError naming the file."""
    voxels, grid = read_volume(brain)
    return voxels, read_volume_mask(mask, grid), grid


def voxel_at(grid: Grid, millimetres: Sequence[float] = CENTRE) -> tuple[int, int, int]:
    """The voxel of a grid next to a place (mm), inside the grid."""
    index = np.linalg.inv(grid.affine) @ [*millimetres, 1.0]
    inside = np.clip(np.round(index[:3]), 0, np.array(grid.shape) - 1).astype(int)
    return (int(inside[0]), int(inside[1]), int(inside[2]))


def window(mask: np.ndarray, grid: Grid) -> Window:
    """What to show: the mask and the template's brain, with a margin."""
    margin = round(_MARGIN_MM / float(grid.affine[0, 0]))
    shown = mask | _template(grid)[1]
    low, high = [], []
    for axis in range(3):
        where = np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis})))
        low.append(max(0, int(where[0]) - margin))
        high.append(min(shown.shape[axis], int(where[-1]) + 1 + margin))
    return Window((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def cuts(volume: np.ndarray, at: Sequence[int], shown: Window | None = None) -> list[Cut]:
    """The sagittal, coronal and axial cuts of a volume (x, y, z) RAS through a voxel."""
    shown = shown or Window((0, 0, 0), volume.shape)
    out = []
    for name, across, right, up, *sides in _PLANES:
        plane = np.moveaxis(volume.take(at[across], axis=across), 0, 1)[::-1]  # up is the first row
        rows = slice(volume.shape[up] - shown.high[up], volume.shape[up] - shown.low[up])
        columns = slice(shown.low[right], shown.high[right])
        corner = (shown.low[right], shown.low[up])
        part = plane[rows, columns]
        out.append(Cut(name, across, right, up, (sides[0], sides[1]), corner, part))
    return out


def outline(
    field: np.ndarray, level: float = 0.5, shift: tuple[float, float] = (0, 0), step: int = 1
) -> str:
    """Where a picture (rows, columns) crosses a level, as an SVG path in quarters of a pixel.

    `shift` (right, down) moves it, in pixels; of its points every `step`-th is kept. Nothing
    crosses: an empty path.
    """
    smooth = gaussian_filter(np.pad(field.astype(np.float32), 1), _SMOOTH)
    lines = contour_generator(z=smooth, line_type=LineType.Separate).lines(level)
    # A pixel's middle is half a pixel from its corner; the rim that was added is one pixel wide.
    move = np.array(shift) - 0.5
    return "".join(_path((np.asarray(line) + move) * _TICKS, step) for line in lines)


def _path(points: np.ndarray, step: int) -> str:
    kept = np.concatenate([points[:-1:step], points[-1:]])
    steps = np.diff(np.round(kept).astype(int), axis=0, prepend=0)
    first, rest = steps[0], steps[1:][np.any(steps[1:] != 0, axis=1)]
    moves = " ".join(f"{x} {y}" for x, y in rest)
    return f"M{first[0]} {first[1]}l{moves}" if len(rest) > 1 else ""


def template_edges(grid: Grid, at: Sequence[int], shown: Window) -> list[str]:
    """The template's outline and white matter in the three planes, as paths; on its grids only."""
    return list(_edges(float(grid.affine[0, 0]), tuple(at), shown.low, shown.high))


@lru_cache(maxsize=512)
def _edges(
    spacing: float,
    at: tuple[int, ...],
    low: tuple[int, int, int],
    high: tuple[int, int, int],
) -> list[str]:
    shown = Window(low, high)
    brain = cuts(template_brain(spacing), at, shown)
    mask = cuts(template_mask(spacing), at, shown)
    return [
        outline(m.pixels) + outline(b.pixels, _WHITE_MATTER)
        for b, m in zip(brain, mask, strict=True)
    ]


def _template(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The template and its mask on a prepared scan's grid. Raises MetaVoxelError on any other."""
    spacing = float(grid.affine[0, 0])
    there = template_grid(spacing) if spacing > 0 else None
    if there is None or there.shape != grid.shape or not np.allclose(there.affine, grid.affine):
        raise MetaVoxelError(
            "It does not lie on the template's grid. Prepare it again with metavoxel preprocess."
        )
    return template_brain(spacing), template_mask(spacing)


def png(pixels: np.ndarray) -> str:
    """A picture (rows, columns) in [0, 1] as a data URI."""
    return _encoded(pixels, "png")


@dataclass(frozen=True)
class Tile:
    """A brain at a glance: three cuts side by side as a data URI, and the mask's outline on them
    as an SVG path. `width` and `height` in pixels."""

    picture: str
    outline: str
    width: int
    height: int


def tile(brain: np.ndarray, mask: np.ndarray, grid: Grid) -> Tile:
    """A brain's tile, of pixels of at least 2 mm."""
    spacing = float(grid.affine[0, 0])
    if spacing < _TILE_MM:
        coarse = template_grid(_TILE_MM)
        brain = resample(brain, grid, coarse)
        mask = resample(mask.astype(np.float32), grid, coarse) > 0.5
        grid = coarse
    shown = window(mask, grid)
    at = voxel_at(grid)
    images, masks = cuts(brain, at, shown), cuts(mask, at, shown)
    height = max(c.pixels.shape[0] for c in images)
    canvas = np.zeros((height, sum(c.pixels.shape[1] for c in images)), dtype=np.float32)
    paths, left = [], 0
    for image, found in zip(images, masks, strict=True):
        rows, columns = image.pixels.shape
        top = (height - rows) // 2
        canvas[top : top + rows, left : left + columns] = image.pixels
        paths.append(outline(found.pixels, shift=(left, top), step=_TILE_STEP))
        left += columns
    return Tile(_encoded(canvas, "webp"), "".join(paths), canvas.shape[1], height)


def _encoded(pixels: np.ndarray, kind: str) -> str:
    levels = np.round(pixels.clip(0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    settings = {"quality": _QUALITY, "method": 4} if kind == "webp" else {"compress_level": 3}
    Picture.fromarray(levels).save(file, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
