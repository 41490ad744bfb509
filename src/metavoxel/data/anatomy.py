"""T1w-like brains grown from the MNI152 template, with given measurements built in.

Every voxel of the new brain looks up where it comes from in the template. Head size is a scaling
about the brain's centre; the ventricles grow by moving their wall outward, which pushes the tissue
around it along and fills what is inside with fluid; cortex and hippocampi darken as voxels partly
filled with fluid would. Brain and ventricle volume are set on the deformed brain itself, so that
they can be measured in it. A smooth random deformation, a bias field and noise come on top: they
mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from nilearn.datasets import load_mni152_gm_template, load_mni152_template
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    distance_transform_edt,
    gaussian_filter,
    label,
)
from scipy.ndimage import map_coordinates as look_up

_TEMPLATE_MM = 2  # resolution of the template used; finer scans have more voxels, not more detail
_FLUID = 0.25  # intensity of cerebrospinal fluid, where white matter is about 1
_REACH_MM = 12.0  # how far from the ventricles' wall the tissue moves with it
_SEPTUM_MM = 3.0  # how much later than the rest the midline gives way to the ventricles
_WARP_MM = 1.8  # standard deviation of the random deformation
_BIAS = 0.05  # standard deviation of the log of the bias field
_NOISE = 0.02
_HIPPOCAMPI_MM = ((-26.0, -20.0, -14.0), (26.0, -20.0, -14.0))
_SLICE_MM = 14.0  # height of the axial slice of a 2D cohort: through the lateral ventricles
# The template's own cortical thickness and hippocampi: with them nothing darkens.
_THICKNESS_MM = 3.0
_HIPPOCAMPI_ML = 8.5


@dataclass(frozen=True, eq=False)
class Template:
    """The template's fields on its own grid."""

    affine: np.ndarray
    t1: np.ndarray
    brain: np.ndarray  # 0-1, above 0.5 in the brain
    near: np.ndarray  # 1 in the brain and in the rim that blurring gives it
    cortex: np.ndarray  # grey-matter share of the cortical ribbon, 0-1
    hippocampi: np.ndarray  # smooth indicator, 0-1
    distance: np.ndarray  # to the ventricles' wall, mm, negative inside
    outward: np.ndarray  # (3, ...) direction away from the ventricles
    centre: np.ndarray  # world coordinates of the brain's centre, mm, (3, 1)
    brain_ml: float


@lru_cache(maxsize=2)
def template(resolution: float) -> Template:
    """The MNI152 template, blurred to the resolution (mm) at which brains will be made."""
    image = load_mni152_template(resolution=_TEMPLATE_MM)
    raw = np.asarray(image.get_fdata(), dtype=np.float64)
    grey = np.asarray(load_mni152_gm_template(resolution=_TEMPLATE_MM).get_fdata())
    affine = np.asarray(image.affine, dtype=np.float64)
    brain = raw > 0.05
    t1 = raw / np.percentile(raw[brain], 95)
    world = _world(raw.shape, affine)
    ventricles = _ventricles(t1, brain, world)
    distance = gaussian_filter(_depth(~ventricles) - _depth(ventricles), 1.0)
    slope = np.array(np.gradient(distance, _TEMPLATE_MM))
    slope /= np.maximum(np.linalg.norm(slope, axis=0), 1e-6)
    cortex = np.clip(grey, 0, 1) * (_depth(brain) < 24) * (distance > 8)
    sigma = np.sqrt(max(resolution**2 - _TEMPLATE_MM**2, 0)) / 2.355 / _TEMPLATE_MM
    return Template(
        affine=affine,
        t1=gaussian_filter(t1, sigma),
        # Smooth at the scale of a voxel: sulci would fray the border of coarse scans.
        brain=gaussian_filter(brain.astype(np.float64), resolution / 2 / _TEMPLATE_MM),
        near=np.asarray(binary_dilation(brain, iterations=4), dtype=np.float64),
        cortex=gaussian_filter(cortex, sigma),
        hippocampi=_hippocampi(world),
        distance=distance + _SEPTUM_MM * np.exp(-np.square(world[0] / 2.5)),
        outward=slope,
        centre=world[:, brain].mean(1)[:, None],
        brain_ml=float(brain.sum()) * _TEMPLATE_MM**3 / 1000,
    )


def grow(
    measured: Mapping[str, float],
    affine: np.ndarray,
    shape: tuple[int, int, int],
    resolution: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A brain with these measurements on a grid, (shape) float32, 0 outside and about 0-1 inside.

    The grid must hold the whole head: the volumes are counted on it.
    """
    base = template(resolution)
    voxel_ml = resolution**3 / 1000
    points, near = _placed(base, measured["brain_volume"], affine, shape, resolution, rng)
    places = _voxel(points, base.affine)
    inside_skull = look_up(base.brain, places, order=1) > 0.5
    # The wall moves until the ventricles hold their volume in this very brain.
    distance = look_up(base.distance, places, order=1, mode="nearest")
    volumes = (np.arange(distance.size) + 0.5) * voxel_ml
    wall = float(np.interp(measured["ventricle_volume"], volumes, np.sort(distance)))
    beyond = distance - wall
    push = wall * np.exp(-np.maximum(beyond, 0) / _REACH_MM)
    moved = points - push * np.stack([look_up(f, places, order=1) for f in base.outward])
    places = _voxel(moved, base.affine)
    t1, cortex, hippocampi = (
        look_up(f, places, order=1) for f in (base.t1, base.cortex, base.hippocampi)
    )
    thinned = 1 - measured["cortical_thickness"] / _THICKNESS_MM
    shrunk = 1 - measured["hippocampus_volume"] / _HIPPOCAMPI_ML
    fluid = np.clip(1.6 * thinned * cortex + 1.8 * shrunk * hippocampi, -0.3, 0.95)
    inside = 1 / (1 + np.exp(np.clip(4 * beyond / max(resolution, 2), -30, 30)))
    fluid = fluid + (1 - fluid) * inside
    signal = (1 - fluid) * t1 + fluid * np.minimum(t1, _FLUID)
    bias = np.exp(_smooth(rng, shape, resolution, 1, length_mm=60, amount=_BIAS)[0])
    brain = np.zeros(shape)
    brain[near] = np.where(inside_skull, np.maximum(signal, 1e-3), 0)
    noisy = brain * bias + _NOISE * rng.standard_normal(shape)
    return np.where(brain > 0, np.maximum(noisy, 0), 0).astype(np.float32)


def grid(resolution: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape of the MNI-space grid at a resolution (mm); axes are multiples of 8."""
    extent, centre = np.array([160.0, 192.0, 160.0]), np.array([0.0, -18.0, 4.0])
    x, y, z = (int(np.ceil(e / resolution / 8 - 1e-6) * 8) for e in extent)
    affine = np.diag([resolution, resolution, resolution, 1.0])
    affine[:3, 3] = centre - (np.array([x, y, z]) - 1) / 2 * resolution
    return affine, (x, y, z)


def middle(affine: np.ndarray) -> int:
    """Index of the axial plane that a 2D cohort shows: through the lateral ventricles."""
    return round((_SLICE_MM - affine[2, 3]) / affine[2, 2])


def _placed(
    base: Template,
    brain_ml: float,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    resolution: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Where in the template (mm) the voxels of a head of this size lie: (3, n) and their mask."""
    warp = _smooth(rng, shape, resolution, 3, length_mm=24, amount=_WARP_MM)
    points = (_world(shape, affine) + warp).reshape(3, -1) - base.centre
    size = (brain_ml / base.brain_ml) ** (1 / 3)
    near = look_up(base.near, _voxel(points / size + base.centre, base.affine), order=0) > 0
    points = points[:, near]
    # The random deformation changes the volume by a few per cent, which one correction undoes.
    share = look_up(base.brain, _voxel(points / size + base.centre, base.affine), order=1)
    size *= (brain_ml / ((share > 0.5).sum() * resolution**3 / 1000)) ** (1 / 3)
    return points / size + base.centre, near.reshape(shape)


def _depth(mask: np.ndarray) -> np.ndarray:
    """Distance of the template's voxels in a mask to its border, mm; 0 outside."""
    return np.asarray(distance_transform_edt(mask)) * _TEMPLATE_MM


def _ventricles(t1: np.ndarray, brain: np.ndarray, world: np.ndarray) -> np.ndarray:
    """The lateral ventricles: the largest dark pieces deep inside the template's brain."""
    x, y, z = world
    box = (np.abs(x) < 34) & (y > -52) & (y < 36) & (z > -6) & (z < 34)
    deep = np.asarray(binary_erosion(brain, iterations=8), dtype=bool)
    dark = (t1 < 0.5) & deep & box
    pieces, count = label(dark)  # type: ignore[misc]  # scipy's stub: or a number, where `output` is given
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    keep = [i + 1 for i in np.argsort(sizes)[::-1][:2] if sizes[i] > 0.2 * sizes.max()]
    return np.isin(pieces, keep)


def _hippocampi(world: np.ndarray) -> np.ndarray:
    """A smooth indicator of both hippocampi: elongated blobs at their MNI coordinates."""
    blobs = np.zeros(world.shape[1:])
    for x, y, z in _HIPPOCAMPI_MM:
        d = [(world[0] - x) / 7, (world[1] - y) / 13, (world[2] - z) / 7]
        blobs = np.maximum(blobs, np.exp(-sum(np.square(a) for a in d)))
    return blobs


def _smooth(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    resolution: float,
    count: int,
    length_mm: float,
    amount: float,
) -> np.ndarray:
    """Smooth random fields (count, *shape), cubic between knots of standard deviation `amount`."""
    coarse = tuple(max(3, int(np.ceil(n * resolution / length_mm)) + 3) for n in shape)
    fields = amount * rng.standard_normal((count, *coarse))
    for axis, (n, knots) in enumerate(zip(shape, coarse, strict=True), start=1):
        # One axis at a time: tensor-product splines need no three-dimensional look-up.
        fields = np.moveaxis(np.tensordot(_spline(n, knots), fields, (1, axis)), 0, axis)
    return fields


@lru_cache(maxsize=16)
def _spline(n: int, knots: int) -> np.ndarray:
    """Weights (n, knots) of a cubic spline through its knots, at n places between the outermost."""
    at = np.linspace(1, knots - 2, n)[None]
    return np.stack([look_up(k, at, order=3, mode="nearest") for k in np.eye(knots)], axis=1)


def _world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """World coordinates (3, *shape) of a grid's voxels, in mm."""
    index = np.indices(shape, dtype=np.float64).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def _voxel(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxel coordinates (3, ...) of world points."""
    inverse = np.linalg.inv(affine)
    flat = inverse[:3, :3] @ points.reshape(3, -1) + inverse[:3, 3:]
    return flat.reshape(points.shape)
