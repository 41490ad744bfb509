"""T1w-like brains grown from the MNI152 template, with four measurements built in.

Every voxel of the new brain looks up where it comes from in the template. Head size is a scaling
about the brain's centre; the ventricles grow by moving their wall outward, which pushes the tissue
around it along and fills what is inside with fluid; cortex and hippocampus lose intensity as voxels
partly filled with fluid would. On top come a smooth random deformation, a bias field and noise,
which mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from nilearn.datasets import load_mni152_gm_template, load_mni152_template
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, label
from scipy.ndimage import map_coordinates as look_up

_TEMPLATE_MM = 2  # resolution at which the template's geometry is worked out
_FLUID = 0.25  # intensity of cerebrospinal fluid, where white matter is about 1
_REACH_MM = 12.0  # how far from the ventricles' wall the tissue moves with it
_HIPPOCAMPI_MM = ((-26.0, -20.0, -14.0), (26.0, -20.0, -14.0))
_THICKEST_MM = 3.0  # cortical thickness of the template as it is
_LARGEST_HIPPOCAMPI_ML = 8.5


@dataclass(frozen=True, eq=False)
class Template:
    """The template's fields on its own grid, and how a volume becomes a displacement of the wall."""

    affine: np.ndarray
    t1: np.ndarray
    cortex: np.ndarray  # grey-matter share of the cortical ribbon, 0-1
    hippocampi: np.ndarray  # smooth indicator, 0-1
    distance: np.ndarray  # to the ventricles' wall, mm, negative inside
    outward: np.ndarray  # (3, ...) direction away from the ventricles
    brain_ml: float
    centre: np.ndarray  # world coordinates of the brain's centre, mm
    wall_mm: np.ndarray  # displacements of the ventricles' wall, rising
    ventricle_ml: np.ndarray  # and the ventricular volume each gives

    def wall(self, volume_ml: float) -> float:
        """How far (mm) the wall must move for this ventricular volume."""
        return float(np.interp(volume_ml, self.ventricle_ml, self.wall_mm))


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
    distance = distance_transform_edt(~ventricles) - distance_transform_edt(ventricles)
    distance = gaussian_filter(distance, 1.0) * _TEMPLATE_MM
    slope = np.stack(np.gradient(distance, _TEMPLATE_MM))
    slope /= np.maximum(np.linalg.norm(slope, axis=0), 1e-6)
    walls = np.linspace(-4, 14, 73)
    volumes = np.array([(distance < d).sum() for d in walls]) * _TEMPLATE_MM**3 / 1000
    depth = distance_transform_edt(brain) * _TEMPLATE_MM
    cortex = np.clip(grey, 0, 1) * (depth < 24) * (distance > 8)
    sigma = np.sqrt(max(resolution**2 - _TEMPLATE_MM**2, 0)) / 2.355 / _TEMPLATE_MM
    return Template(
        affine,
        gaussian_filter(t1, sigma),
        gaussian_filter(cortex, sigma),
        _hippocampi(world),
        distance,
        slope,
        float(brain.sum()) * _TEMPLATE_MM**3 / 1000,
        world[:, brain].mean(1),
        walls,
        volumes,
    )


def grow(
    measured: Mapping[str, float],
    affine: np.ndarray,
    shape: tuple[int, int, int],
    resolution: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A brain with these measurements on a grid, (shape) float32, 0 outside and about 0-1 inside."""
    base = template(resolution)
    size = (measured["brain_volume"] / base.brain_ml) ** (1 / 3)
    points = _world(shape, affine)
    points = points + _smooth(rng, shape, resolution, 3, length_mm=24, amount=1.8)
    points = base.centre[:, None, None, None] + (points - base.centre[:, None, None, None]) / size
    # Volumes scale with the head: the wall moves until the ventricles fill their share of it.
    wall = base.wall(measured["ventricle_volume"] / size**3)
    places = _voxel(points, base.affine)
    beyond = look_up(base.distance, places, order=1, mode="nearest") - wall
    push = wall * np.exp(-np.maximum(beyond, 0) / _REACH_MM)
    moved = points - push * np.stack([look_up(f, places, order=1) for f in base.outward])
    places = _voxel(moved, base.affine)
    t1, cortex, hippocampi = (
        look_up(f, places, order=1) for f in (base.t1, base.cortex, base.hippocampi)
    )
    thinned = np.clip(1 - measured["cortical_thickness"] / _THICKEST_MM, 0, 1)
    shrunk = np.clip(1 - measured["hippocampus_volume"] / _LARGEST_HIPPOCAMPI_ML, 0, 1)
    fluid = np.clip(1.6 * thinned * cortex + 1.3 * shrunk * hippocampi, 0, 0.9)
    inside = 1 / (1 + np.exp(np.clip(4 * beyond / max(resolution, 2), -30, 30)))
    fluid = np.maximum(fluid, inside)
    brain = np.where(t1 > 0.05, (1 - fluid) * t1 + fluid * np.minimum(t1, _FLUID), 0)
    bias = np.exp(_smooth(rng, shape, resolution, 1, length_mm=60, amount=0.05)[0])
    noise = 0.02 * rng.standard_normal(shape)
    return np.where(brain > 0, np.clip(brain * bias + noise, 0, None), 0).astype(np.float32)


def grid(resolution: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape of the MNI-space grid at a resolution (mm); axes are multiples of 8."""
    extent, centre = np.array([160.0, 192.0, 160.0]), np.array([0.0, -18.0, 4.0])
    shape = tuple(int(np.ceil(e / resolution / 8 - 1e-6) * 8) for e in extent)
    affine = np.diag([resolution, resolution, resolution, 1.0])
    affine[:3, 3] = centre - (np.array(shape) - 1) / 2 * resolution
    return affine, shape  # type: ignore[return-value]


def _ventricles(t1: np.ndarray, brain: np.ndarray, world: np.ndarray) -> np.ndarray:
    """The lateral ventricles: the largest dark pieces deep inside the template's brain."""
    x, y, z = world
    box = (np.abs(x) < 34) & (y > -52) & (y < 36) & (z > -6) & (z < 34)
    dark = (t1 < 0.5) & binary_erosion(brain, iterations=8) & box
    pieces, count = label(dark)
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
    steps = np.meshgrid(
        *(np.linspace(1, c - 2, n) for c, n in zip(coarse, shape, strict=True)), indexing="ij"
    )
    knots = rng.standard_normal((count, *coarse))
    return np.stack([look_up(k, steps, order=3, mode="nearest") for k in knots]) * amount


def _world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """World coordinates (3, *shape) of a grid's voxels, in mm."""
    index = np.indices(shape, dtype=np.float64).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def _voxel(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxel coordinates (3, ...) of world points."""
    inverse = np.linalg.inv(affine)
    flat = inverse[:3, :3] @ points.reshape(3, -1) + inverse[:3, 3:]
    return flat.reshape(points.shape)
