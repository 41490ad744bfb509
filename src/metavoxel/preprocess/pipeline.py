"""One scan, from raw to a brain on the template's grid (section 4 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metavoxel.data.images import Grid, read_volume, resample
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.itk import corrected, rigid, write_rigid
from metavoxel.preprocess.recipe import Recipe
from metavoxel.preprocess.strip import (
    STRIPPERS,
    AlreadyStripped,
    GivenMask,
    Stripper,
    is_stripped,
)
from metavoxel.preprocess.template import (
    REGISTERED_MM,
    template_brain,
    template_grid,
    template_mask,
)

# Far outside what brains are. Children from about five years on, and old adults, are inside.
_BRAIN_ML = (600.0, 2400.0)
# Of the smaller of two brains, the template's and this one, the share that lies in the larger. Not
# their Dice: a small brain is no fault, and nothing here is scaled.
_LEAST_INSIDE = 0.85
# Correlation ratio with the template inside its brain, whatever the contrast. The subjects of IXI
# have 0.41 to 0.53; bottles of 60 to 80 mm, uniform, noisy or striped, 0.13 to 0.30.
_LEAST_LIKENESS = 0.34
_SHADES = 16


@dataclass(frozen=True, eq=False)
class Prepared:
    """A brain on the template's grid: `brain` (x, y, z) in [0, 1], `mask` bool, and what there is
    to say about how it was made."""

    brain: np.ndarray
    mask: np.ndarray
    grid: Grid
    notes: tuple[str, ...]


def prepare(
    scan: Path,
    recipe: Recipe,
    transform: Path,
    baseline: tuple[np.ndarray, Grid] | None = None,
    mask: Path | None = None,
) -> Prepared:
    """Correct, strip, register and scale one scan.

    `transform` is where the rigid transform is written (ITK). A follow-up scan is registered to
    `baseline`, as the paper does; a first scan to the template. `mask` is the brain where the
    recipe takes a given mask. Raises MetaVoxelError, naming the scan, if it cannot be read or what
    comes out is no brain.
    """
    head, there = read_volume(scan)
    head, grid = head.clip(0), _centred(there)
    stripper, notes = _stripper(head, there, recipe, mask)
    try:
        if recipe.bias_correction == "n4":
            head = corrected(head, grid).clip(0)
        found = stripper.brain(head, grid)
        _check_size(found, grid)
        brain = np.where(found, head, 0)
        space = template_grid(REGISTERED_MM)
        fixed = resample(*baseline, space) if baseline else template_brain(REGISTERED_MM)
        to_scan = rigid(brain, grid, fixed, space)
        write_rigid(_shift(there.centre - grid.centre) @ to_scan, transform)
        moved = Grid(grid.shape, np.linalg.inv(to_scan) @ grid.affine)
        out = _placed(brain, found, moved, recipe, notes)
    except MetaVoxelError as error:
        raise MetaVoxelError(f"{scan}: {error}") from error
    return out


def _centred(grid: Grid) -> Grid:
    """A scan's grid with its middle in the template's: the same bits wherever its origin was."""
    affine = grid.affine.copy()
    affine[:3, 3] = 0
    at_zero = Grid(grid.shape, affine)
    affine = _shift(template_grid(REGISTERED_MM).centre - at_zero.centre) @ affine
    return Grid(grid.shape, affine)


def _shift(millimetres: np.ndarray) -> np.ndarray:
    """The translation (4, 4) by so many millimetres."""
    out = np.eye(4)
    out[:3, 3] = millimetres
    return out


def _stripper(
    head: np.ndarray, there: Grid, recipe: Recipe, mask: Path | None
) -> tuple[Stripper, tuple[str, ...]]:
    """What finds the brain in this scan, and what there is to say about the choice."""
    if recipe.skull_strip == "mask":
        return GivenMask(mask, there), ()
    if recipe.skull_strip != "none" and is_stripped(head, there):
        return AlreadyStripped(), ("already stripped: what is not 0 is taken for the brain",)
    return STRIPPERS[recipe.skull_strip](), ()


def _placed(
    brain: np.ndarray, found: np.ndarray, moved: Grid, recipe: Recipe, notes: tuple[str, ...]
) -> Prepared:
    """The brain and its mask on the template's grid; registered is a scan whose affine moved."""
    target = template_grid(recipe.resolution)
    placed = resample(brain, moved, target)
    mask = resample(found.astype(np.float32), moved, target) > 0.5
    _check_place(placed, mask, recipe.resolution)
    scaled = (placed / np.percentile(placed[mask], recipe.brightest)).clip(0, 1)
    return Prepared(scaled.astype(np.float32), mask, target, notes)


def _check_size(found: np.ndarray, grid: Grid) -> None:
    millilitres = found.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1000
    low, high = _BRAIN_ML
    if not low <= millilitres <= high:
        raise MetaVoxelError(
            f"what was found of a brain has {millilitres:.0f} mL; a brain has {low:.0f} to "
            f"{high:.0f}. Look at the scan, and at its voxel size."
        )


def _check_place(brain: np.ndarray, mask: np.ndarray, resolution: float) -> None:
    """Whether what was registered is where the template's brain is, and looks like it."""
    there, template = template_mask(resolution), template_brain(resolution)
    inside = (mask & there).sum() / max(min(mask.sum(), there.sum()), 1)
    alike = likeness(brain[there], template[there])
    if inside < _LEAST_INSIDE or not alike > _LEAST_LIKENESS:
        raise MetaVoxelError(
            f"after registration it does not look like the template ({inside:.0%} inside, "
            f"likeness {alike:.2f}). Is it a brain? Look at the scan."
        )


def likeness(voxels: np.ndarray, template: np.ndarray) -> float:
    """How well the template's shade tells a voxel's: the correlation ratio (Roche et al. 1998)."""
    edges = np.quantile(template, np.linspace(0, 1, _SHADES + 1)[1:-1])
    shade = np.searchsorted(edges, template)
    counts = np.bincount(shade, minlength=_SHADES)
    means = np.bincount(shade, voxels, minlength=_SHADES) / np.maximum(counts, 1)
    variance = voxels.var()
    return float(np.sqrt(means[shade].var() / variance)) if variance > 0 else 0.0
