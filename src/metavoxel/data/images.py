"""Images between files and the schema's grid. The affine always travels with the voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image as Picture
from scipy.ndimage import affine_transform, gaussian_filter

from metavoxel.errors import MetaVoxelError
from metavoxel.files.picture import is_picture, read_picture, read_picture_header
from metavoxel.files.volume import read_header, read_voxels
from metavoxel.files.wall import damaged
from metavoxel.files.writing import atomic_write
from metavoxel.schema import Image

_BRIGHTEST = 99.5  # percentile of the positive voxels that becomes 1
_TOUCHED = 0.1  # share of a voxel's neighbourhood that a mask must cover to count
_VOLUME = Image(shape=(1, 1, 1), spacing=(1, 1, 1))
# Of a voxel, that the corners of one grid may be apart in two files: sizes are rounded (0.938 for
# 0.9375), and what takes corners for middles is half a voxel off.
_ROUNDING = 0.25
_WHOLE = 1e-3  # how far a label may be from a whole number: a file's scaling rounds
_FLAT = 1e-3  # sine of the least angle between the axes of a 2D image, seen from above


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: `shape` (2 or 3 axes) and `affine` (4, 4), voxel index to millimetres.

    In 2D the third axis of the affine is the identity, and axes are rows and columns.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """World coordinates (mm) of the middle of the field of view, (3,)."""
        middle = np.zeros(3)
        middle[: len(self.shape)] = (np.array(self.shape) - 1) / 2
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]


@dataclass(frozen=True, eq=False)
class Scan:
    """An image on the schema's grid: `array` (channels, *grid) float32 in [0, 1]; `source` is the
    grid of the file, in the file's own orientation.

    `voxels` (channels, *source) are those of the file, where they were kept, and `unit` is the
    intensity among them that is 1 in the array.
    """

    array: np.ndarray
    grid: Grid
    source: Grid
    voxels: np.ndarray | None = None
    unit: float = 1.0


def read_scan(path: Path, variable: Image) -> Scan:
    """Read a NIfTI or PNG file onto the variable's grid.

    The grid is axis-aligned RAS at the schema's spacing, centred at its `centre` or at the middle
    of the field of view. Intensities: 0 stays 0, the 99.5th percentile of the positive voxels
    becomes 1, the rest is clipped. Raises MetaVoxelError naming the file.
    """
    path = Path(path)
    voxels, source = _load(path, variable)
    check_values(voxels, path)
    grid = model_grid(source, variable)
    placed = np.stack([resample(channel, source, grid) for channel in voxels])
    # Above rounding error only: interpolation leaves a shell of 1e-15 around a padded image.
    positive = placed[placed > 1e-6 * placed.max()]
    if not positive.size:
        raise MetaVoxelError(
            f"{path}: nothing of the image lies on the model's grid. Check the file's affine, or "
            "the schema's shape and centre."
        )
    unit = float(np.percentile(positive, _BRIGHTEST))
    array = (placed / unit).clip(0, 1).astype(np.float32)
    full = _full_scale(path, voxels)
    return Scan(array, grid, source, voxels / np.float32(full), unit / full)


def _full_scale(path: Path, voxels: np.ndarray) -> float:
    """What an image is written by: a picture's intensities as shares of its white, of 8 or 16 bit;
    a volume's as they are."""
    if not is_picture(path):
        return 1.0
    return 255.0 if voxels.max() <= 255 else 65535.0


def as_scan(array: np.ndarray, path: Path, variable: Image) -> Scan:
    """What `read_scan` gave, from its array: where the voxels lie is read off the file again."""
    source = read_source(path, variable)
    return Scan(array, model_grid(source, variable), source)


def read_volume(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a 3D scan as it is: voxels (x, y, z) float32, canonical (RAS), and where they lie.

    Raises MetaVoxelError naming the file.
    """
    path = Path(path)
    voxels, source = _load(path, _VOLUME)
    check_values(voxels, path)
    return _upright(voxels, source)


def read_mask(path: Path, variable: Image, scan: Scan) -> np.ndarray:
    """Which voxels (*grid) of the variable's grid a mask on the grid of `scan`'s file touches.

    Every label but 0 counts. Raises MetaVoxelError if the mask lies on another grid, leaves
    nothing to go by, or is none (see `marked`).
    """
    return touched(read_marks(path, variable, scan), scan, path)


def read_marks(path: Path, variable: Image, scan: Scan) -> np.ndarray:
    """Which voxels (*source) of `scan`'s own file a mask on its grid marks. Raises MetaVoxelError
    as `read_mask`."""
    path = Path(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise MetaVoxelError(f"{path}: JPEG blurs the edges of a mask. Save it as PNG.")
    voxels, source = _load(path, variable.model_copy(update={"channels": 1}))
    found = marked(_on_grid_of(scan.source, voxels[0], source, path), path)
    if found.all():
        raise MetaVoxelError(
            f"{path}: every voxel is marked, so that nothing of the image is left to go by. Mark "
            "only what is to be filled."
        )
    return found


def touched(marks: np.ndarray, scan: Scan, name: Path | str) -> np.ndarray:
    """Which voxels (*grid) of the model's grid are touched by marked ones (*source) of the file's.

    Raises MetaVoxelError, naming the mask, if none is.
    """
    found = resample(marks.astype(np.float32), scan.source, scan.grid) > _TOUCHED
    if not found.any():
        raise MetaVoxelError(
            f"{name}: nothing of what it marks lies on the model's grid, or all of it is much "
            "smaller than a voxel there. Mark more."
        )
    return found


def read_volume_mask(path: Path, grid: Grid) -> np.ndarray:
    """Which voxels of a scan that `read_volume` gave with `grid` a mask marks (bool, canonical).

    Raises MetaVoxelError as `read_mask`.
    """
    path = Path(path)
    voxels, there = _load(path, _VOLUME)
    return marked(_on_grid_of(grid, voxels[0], there, path), path)


def marked(mask: np.ndarray, name: Path | str) -> np.ndarray:
    """Which voxels a mask marks, whatever its labels (bool).

    Raises MetaVoxelError, naming the mask, if it marks nothing, or if its values are no labels:
    NaN, negative, or fractions, as probabilities are.
    """
    _check_finite(mask, name)
    if not mask.any():
        raise MetaVoxelError(f"{name}: every voxel is 0. Mark what is meant with 1.")
    if mask.min() < 0:
        raise MetaVoxelError(
            f"{name}: the mask holds {mask.min():g}, and what lies below 0 says neither inside nor "
            "outside. Write 0 outside and 1 inside."
        )
    fraction = np.abs(mask - np.round(mask))
    if fraction.max() > _WHOLE:
        value = float(mask.flat[fraction.argmax()])
        raise MetaVoxelError(
            f"{name}: the mask holds {value:.3g}, which is no label, as if it were a probability. "
            "Threshold it: write 0 outside and 1 inside."
        )
    return mask > 0.5


def model_grid(source: Grid, variable: Image) -> Grid:
    """The grid on which a model sees an image that lies on `source`."""
    dims = variable.spatial_dims
    centre = source.centre.copy()
    if variable.centre is not None:
        centre[:dims] = variable.centre
    affine = np.diag([*variable.spacing, *[1.0] * (4 - dims)])
    middle = np.zeros(3)
    middle[:dims] = (np.array(variable.shape) - 1) / 2 * np.array(variable.spacing)
    affine[:3, 3] = centre - middle
    return Grid(tuple(variable.shape), affine)


def read_source(path: Path, variable: Image) -> Grid:
    """Where the voxels of a file lie, in its own orientation, without reading them.

    Raises MetaVoxelError naming the file, also if it cannot be an image of the variable.
    """
    path, dims = Path(path), variable.spatial_dims
    if is_picture(path):
        header = read_picture_header(path)
        shape = header.shape if variable.channels == 1 else (*header.shape, header.channels)
        _check_axes(shape, path, variable)
        return Grid(header.shape, np.eye(4))
    volume = read_header(path)
    _check_axes(volume.shape, path, variable)
    if dims == 2 and abs(np.linalg.det(volume.affine[:2, :2] / volume.spacing[:2])) < _FLAT:
        raise MetaVoxelError(
            f"{path}: the affine does not say where the 2D voxels lie: the slice is not axial. "
            "Save it with the affine of an axial slice."
        )
    return Grid(volume.shape[:dims], volume.affine)


def to_file(array: np.ndarray, scan: Scan, marks: np.ndarray | None = None) -> np.ndarray:
    """An image (channels, *grid) as the scan's file would hold it, (channels, *source): on its grid
    and in its intensities. Outside of `marks` (*source) they are the file's own voxels."""
    own = scan.unit * np.stack([resample(channel, scan.grid, scan.source) for channel in array])
    return own if marks is None or scan.voxels is None else np.where(marks, own, scan.voxels)


def write_image(array: np.ndarray, grid: Grid, path: Path) -> None:
    """Write an image (channels, *grid) in [0, 1]: NIfTI as float32, PNG as 8 bit. Atomic.

    Raises MetaVoxelError if the name is of neither kind, or the disk cannot take it.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz", ".png")):
        raise MetaVoxelError(f"{path}: images are written as .nii.gz, .nii or .png. Rename it.")
    if path.suffix == ".png" and array.ndim != 3:
        raise MetaVoxelError(f"{path}: a PNG holds 2D images only. Name it .nii.gz.")
    with atomic_write(path) as temporary:
        if path.suffix == ".png":
            levels = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
            pixels = levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)
            Picture.fromarray(pixels).save(temporary)
        else:
            voxels = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
            if voxels.ndim == 2:
                voxels = voxels[..., None]
            image = nib.Nifti1Image(voxels.astype(np.float32), grid.affine)
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, temporary)


def _load(path: Path, variable: Image) -> tuple[np.ndarray, Grid]:
    """Voxels (channels, *shape) as float32 and where they lie.

    What the header says is held against the variable before a voxel is read.
    """
    source = read_source(path, variable)
    if is_picture(path):
        voxels = read_picture(path)
        if voxels.shape[:2] != source.shape:
            raise damaged(path, "a picture", "its header gives another size than its pixels have")
        if variable.channels == 1 and voxels.ndim == 3:
            voxels = voxels.mean(-1)  # grey
    else:
        voxels, _ = read_voxels(path)
    if variable.channels == 1:
        return voxels.reshape(1, *source.shape), source
    return np.moveaxis(voxels.reshape(*source.shape, variable.channels), -1, 0), source


def _check_axes(shape: Sequence[int], path: Path, variable: Image) -> None:
    """Raise MetaVoxelError unless an image of a shape, channels last, is one of the variable's."""
    dims, channels = variable.spatial_dims, variable.channels
    while len(shape) > dims and shape[-1] == 1:
        shape = shape[:-1]
    flat = dims == 3 and (len(shape) < 3 or 1 in shape[:3] or is_picture(path))
    if not flat and len(shape) == dims and channels == 1:
        return
    if not flat and len(shape) == dims + 1 and shape[-1] == channels:
        return
    told, wanted = "x".join(map(str, shape)), f"{dims}D with {channels} channel(s)"
    if flat:
        raise MetaVoxelError(f"{path}: this is a 2D image ({told}); wanted is {wanted}.")
    if len(shape) == dims + 1:
        part = "volume" if dims == 3 else "slice"
        raise MetaVoxelError(
            f"{path}: the image has {len(shape)} axes, the last of length {shape[-1]}; "
            f"wanted is {wanted}. Pick one {part} and save it alone."
        )
    raise MetaVoxelError(
        f"{path}: the image is {told}; wanted is {wanted}. Give another image, or correct the "
        "schema."
    )


def _upright(voxels: np.ndarray, source: Grid) -> tuple[np.ndarray, Grid]:
    """The first channel of a volume in canonical orientation (RAS)."""
    image = nib.as_closest_canonical(nib.Nifti1Image(voxels[0], source.affine))
    return np.asarray(image.dataobj), Grid(image.shape, np.asarray(image.affine))


def _on_grid_of(scan: Grid, mask: np.ndarray, there: Grid, path: Path) -> np.ndarray:
    """The voxels of a mask that lies `there`, in the order of the scan's axes.

    Raises MetaVoxelError unless both are one grid, whichever way its axes run.
    """
    image = nib.Nifti1Image(mask.reshape((*mask.shape, 1)[:3]), there.affine)
    orientation: Any = nib.io_orientation(np.linalg.inv(scan.affine) @ there.affine)
    turned = image.as_reoriented(orientation)
    differ = _difference(Grid(turned.shape[: mask.ndim], np.asarray(turned.affine)), scan)
    if differ:
        raise MetaVoxelError(
            f"{path}: the mask does not lie on the scan's grid ({differ}). Resample it to the scan."
        )
    return np.asarray(turned.dataobj).reshape(scan.shape)


def _difference(mask: Grid, scan: Grid) -> str | None:
    """What tells two grids apart, whose axes run alike; None: nothing but rounding."""
    if mask.shape != scan.shape:
        shapes = ["x".join(map(str, grid.shape)) for grid in (mask, scan)]
        return f"along the scan's axes it has {shapes[0]} voxels, the scan {shapes[1]}"
    ends = np.array([*np.ndindex(2, 2, 2)]) * ((*scan.shape, 1)[:3] - np.ones(3))
    apart = (mask.affine - scan.affine) @ np.c_[ends, np.ones(8)].T  # (4, 8), mm
    if np.abs(np.linalg.inv(scan.affine) @ apart).max() <= _ROUNDING:
        return None
    return f"their corners lie up to {np.linalg.norm(apart, axis=0).max():.4g} mm apart"


def _check_finite(voxels: np.ndarray, name: Path | str) -> None:
    count = int((~np.isfinite(voxels)).sum())
    if count:
        raise MetaVoxelError(
            f"{name}: {count} voxels are NaN or infinite. Repair the image (for example set them "
            "to 0) and try again."
        )


def check_values(voxels: np.ndarray, name: Path | str) -> None:
    """Raise MetaVoxelError, naming the image, if its voxels show nothing or are no numbers."""
    _check_finite(voxels, name)
    if not voxels.any():
        raise MetaVoxelError(f"{name}: every voxel is 0. Check how the image was made.")
    if voxels.min() == voxels.max():
        raise MetaVoxelError(f"{name}: every voxel is {voxels.min():g}. Check how it was made.")
    if voxels.max() <= 0:
        raise MetaVoxelError(
            f"{name}: no voxel is above 0. Shift the intensities so that air is 0."
        )


def resample(voxels: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """One channel from one grid to another, linearly; blurred first where the target is coarser."""
    dims = voxels.ndim
    to_source_voxel = np.linalg.inv(source.affine) @ target.affine
    matrix, offset = to_source_voxel[:dims, :dims], to_source_voxel[:dims, 3]
    if np.allclose(to_source_voxel, np.eye(4), atol=1e-5) and source.shape == target.shape:
        return voxels
    blurred = gaussian_filter(voxels, _blur(source.affine, target.affine, dims), mode="nearest")
    # grid-constant, not constant: that one drops a whole edge plane when rounding puts it 1e-15
    # outside the image.
    return affine_transform(
        blurred,
        matrix,
        offset,  # type: ignore[arg-type]  # scipy's stub knows only a single number
        target.shape,
        order=1,
        mode="grid-constant",
    )


def _blur(source: np.ndarray, target: np.ndarray, dims: int) -> Sequence[float]:
    """Standard deviation, in source voxels per axis, of the blur that keeps a coarser grid from
    aliasing: the blurs of the two voxel sizes, as widths of 2.355 sigma, subtracted in square."""
    fine = np.linalg.norm(source[:3, :3], axis=0)[:dims]
    # The target's spacing along each source axis: oblique axes see a mix of spacings.
    direction = source[:3, :3] / np.linalg.norm(source[:3, :3], axis=0)
    coarse = np.abs(direction.T @ target[:3, :3]).max(axis=1)[:dims]
    widths = [math.sqrt(max(c * c - f * f, 0)) / 2.355 for c, f in zip(coarse, fine, strict=True)]
    return [w / f for w, f in zip(widths, fine, strict=True)]
