"""What a picture shows lies where it says: planes, sides, outlines."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from folders import write_nifti
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.mosaic import (
    Window,
    cuts,
    outline,
    read_brain,
    template_edges,
    tile,
    voxel_at,
    window,
)
from metavoxel.preprocess.template import template_brain, template_grid, template_mask

GRID = template_grid(4)


def points(path: str) -> np.ndarray:
    """The points of an SVG path of M and relative l, in pixels."""
    out = []
    for line in path.split("M")[1:]:
        start, _, steps = line.partition("l")
        numbers = [int(n) for n in re.findall(r"-?\d+", start + " " + steps)]
        out.append(np.cumsum(np.array(numbers).reshape(-1, 2), axis=0) / 4)
    return np.concatenate(out)


def test_every_plane_is_upright_with_left_on_the_left() -> None:
    volume = np.zeros((5, 6, 7))
    volume[1, 4, 5] = 1  # left of the middle, forward, up
    place = {c.plane: np.argwhere(c.pixels == 1)[0].tolist() for c in cuts(volume, (1, 4, 5))}
    # rows count from the top, columns from the left (sagittal: from the back)
    assert place == {"sagittal": [1, 4], "coronal": [1, 1], "axial": [1, 1]}


def test_a_pixel_s_voxel_is_its_corner_and_its_place() -> None:
    volume = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    at, shown = (2, 3, 4), Window((1, 1, 2), (5, 6, 6))
    for cut in cuts(volume, at, shown):
        rows, _ = cut.pixels.shape
        for row, column in np.ndindex(*cut.pixels.shape):
            voxel = [*at]
            voxel[cut.right] = cut.corner[0] + column
            voxel[cut.up] = cut.corner[1] + rows - 1 - row
            assert cut.pixels[row, column] == volume[tuple(voxel)]


def test_the_outline_of_a_disc_is_a_circle_about_it() -> None:
    rows, columns = np.mgrid[:40, :50]
    disc = (columns + 0.5 - 20) ** 2 + (rows + 0.5 - 15) ** 2 < 10**2
    radius = np.linalg.norm(points(outline(disc)) - [20, 15], axis=1)
    assert np.abs(radius - 10).max() < 0.75
    assert abs(radius.mean() - 10) < 0.25


def test_the_outline_of_a_mask_on_the_rim_stays_closed_and_of_nothing_is_empty() -> None:
    assert len(points(outline(np.ones((6, 8))))) > 10
    assert outline(np.zeros((6, 8))) == ""


def test_the_window_holds_the_mask_wherever_it_lies() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[0, 5, -1] = True
    shown = window(mask, GRID)
    inside = mask[tuple(slice(a, b) for a, b in zip(shown.low, shown.high, strict=True))]
    assert inside.sum() == 1
    both = template_mask(4) & ~mask
    assert both[tuple(slice(a, b) for a, b in zip(shown.low, shown.high, strict=True))].sum() == (
        both.sum()
    )


def test_the_template_s_edges_are_those_of_its_mask() -> None:
    mask = template_mask(4)
    at, shown = voxel_at(GRID), window(mask, GRID)
    for edge, cut in zip(template_edges(GRID, at, shown), cuts(mask, at, shown), strict=True):
        assert edge.startswith(outline(cut.pixels)) and len(edge) > len(outline(cut.pixels))


@pytest.mark.parametrize("resolution", [4.0, 1.0])
def test_a_tile_is_a_picture_of_pixels_of_at_least_2_mm_with_its_outline(resolution: float) -> None:
    made = tile(template_brain(resolution), template_mask(resolution), template_grid(resolution))
    data = base64.b64decode(made.picture.partition("base64,")[2])
    picture = np.asarray(Picture.open(io.BytesIO(data)).convert("L"), float)
    assert picture.shape == (made.height, made.width)
    assert picture.max() > 180 and picture[0, 0] < 10
    assert made.width < 260 and len(data) < 8000
    assert (points(made.outline).max(axis=0) <= [made.width, made.height]).all()


def test_a_scan_on_another_grid_and_a_mask_on_another_are_refused(tmp_path: Path) -> None:
    brain = write_nifti(tmp_path / "b.nii.gz", np.ones((8, 8, 8), np.float32) * np.arange(8))
    other = write_nifti(tmp_path / "m.nii.gz", np.ones((8, 8, 9), np.float32) * np.arange(9))
    with pytest.raises(MetaVoxelError, match="does not lie on the scan's grid"):
        read_brain(brain, other)
    voxels, mask, grid = read_brain(brain, brain)
    with pytest.raises(MetaVoxelError, match="does not lie on the template's grid"):
        tile(voxels, mask, grid)
