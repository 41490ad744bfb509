"""The template that scans are registered to, and the grids on which they are written."""

from __future__ import annotations

import math
from functools import lru_cache

import nibabel as nib
import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

from metavoxel.data.images import Grid, resample

REGISTERED_MM = 2.0  # registration happens at this resolution, whatever is written
# The edges of the field of view (mm), axis by axis: the template's brain and a margin.
_FIELD_OF_VIEW = ((-95.0, 97.0), (-129.0, 95.0), (-73.0, 119.0))


def template_grid(resolution: float) -> Grid:
    """The axis-aligned RAS grid over the template at a voxel size in millimetres."""
    low = np.array([low for low, _ in _FIELD_OF_VIEW])
    extent = [high - low for low, high in _FIELD_OF_VIEW]
    affine = np.diag([resolution] * 3 + [1.0])
    affine[:3, 3] = low + resolution / 2
    return Grid(tuple(math.ceil(x / resolution - 1e-6) for x in extent), affine)


@lru_cache(maxsize=4)
def template_brain(resolution: float) -> np.ndarray:
    """The skull-stripped T1w template on its grid: ICBM 2009a symmetric, as nilearn ships it."""
    return _on_grid(load_mni152_template(resolution=1), resolution)


@lru_cache(maxsize=4)
def template_mask(resolution: float) -> np.ndarray:
    """Which voxels of the grid are the template's brain."""
    return _on_grid(load_mni152_brain_mask(resolution=1), resolution) > 0.5


def _on_grid(image: nib.Nifti1Image, resolution: float) -> np.ndarray:
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    source = Grid(voxels.shape, np.asarray(image.affine))
    return resample(voxels, source, template_grid(resolution)).clip(0)
