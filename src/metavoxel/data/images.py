"""Images between files and the schema's grid. The affine always travels with the voxels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image as Picture
from PIL import UnidentifiedImageError
from scipy.ndimage import affine_transform, gaussian_filter

from metavoxel.errors import MetaVoxelError
from metavoxel.files.writing import atomic_write
from metavoxel.schema import Image

_BRIGHTEST = 99.5  # percentile of the positive voxels that becomes 1
_TOUCHED = 0.1  # share of a voxel's neighbourhood that a mask must cover to count
_VOLUME = Image(shape=(1, 1, 1), spacing=(1, 1, 1))
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


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
    grid of the file, in the file's own orientation."""

    array: np.ndarray
    grid: Grid
    source: Grid


def read_scan(path: Path, variable: Image) -> Scan:
    """Read a NIfTI or PNG file onto the variable's grid.

    The grid is axis-aligned RAS at the schema's spacing, centred at its `centre` or at the middle
    of the field of view. Intensities: 0 stays 0, the 99.5th percentile of the positive voxels
    becomes 1, the rest is clipped. Raises MetaVoxelError naming the file.
    """
    path = Path(path)
    voxels, source = _load(path, variable)
    _check_values(voxels, path)
    grid = model_grid(source, variable)
    placed = np.stack([resample(channel, source, grid) for channel in voxels])
    # Above rounding error only: interpolation leaves a shell of 1e-15 around a padded image.
    positive = placed[placed > 1e-6 * placed.max()]
    if not positive.size:
        raise MetaVoxelError(
            f"{path}: nothing of the image lies on the model's grid. Check the file's affine, or "
            "the schema's shape and centre."
        )
    scaled = placed / np.percentile(positive, _BRIGHTEST)
    return Scan(scaled.clip(0, 1).astype(np.float32), grid, source)


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
    _check_values(voxels, path)
    upright = nib.as_closest_canonical(nib.Nifti1Image(voxels[0], source.affine))
    return np.asarray(upright.dataobj), Grid(upright.shape, np.asarray(upright.affine))


def read_mask(path: Path, variable: Image, scan: Scan) -> np.ndarray:
    """Which voxels (*grid) of the variable's grid a mask on the grid of `scan`'s file touches.

    Every value but 0 counts. Raises MetaVoxelError if the mask lies on another grid.
    """
    path = Path(path)
    voxels, source = _load(path, variable.model_copy(update={"channels": 1}))
    here, there = source, scan.source
    if here.shape != there.shape or not np.allclose(here.affine, there.affine, atol=1e-3):
        raise MetaVoxelError(
            f"{path}: the mask does not lie on the scan's grid (shape {list(here.shape)}; the scan "
            f"has {list(there.shape)}, or another affine). Resample it to the scan."
        )
    if not voxels.any():
        raise MetaVoxelError(f"{path}: every voxel is 0. Mark what is to be filled with 1.")
    touched = resample((voxels[0] != 0).astype(np.float32), source, scan.grid)
    return touched > _TOUCHED


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
    """Where the voxels of a readable file lie, in its own orientation, without reading them."""
    path = Path(path)
    if _is_picture(path):
        with Picture.open(path) as picture:
            return Grid((picture.height, picture.width), np.eye(4))
    image: Any = nib.load(path)  # type: ignore[arg-type]
    return Grid(tuple(image.shape[: variable.spatial_dims]), np.asarray(image.affine))


def to_source(array: np.ndarray, grid: Grid, source: Grid) -> np.ndarray:
    """Resample an image (channels, *grid) back onto the grid of the file it came from."""
    return np.stack([resample(channel, grid, source) for channel in array])


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
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), grid.affine), temporary)


def _load(path: Path, variable: Image) -> tuple[np.ndarray, Grid]:
    """Voxels (channels, *shape) as float32 and where they lie."""
    if not path.exists():
        raise MetaVoxelError(f"{path}: there is no such file. Check the path.")
    if path.is_dir():
        raise MetaVoxelError(f"{path}: this is a folder; give an image file (.nii.gz, .nii, .png).")
    picture = _is_picture(path)
    try:
        voxels, affine = _load_picture(path) if picture else _load_nifti(path)
    except (ImageFileError, HeaderDataError, UnidentifiedImageError):
        raise MetaVoxelError(
            f"{path}: this is not an image that can be read. Give NIfTI (.nii.gz, .nii) or PNG."
        ) from None
    except (EOFError, OSError, SyntaxError, ValueError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MetaVoxelError(
            f"{path}: the file is damaged or incomplete ({reason}). Copy it again from its source."
        ) from None
    if picture and variable.channels == 1 and voxels.ndim == 3:
        voxels = voxels.mean(-1)  # grey
    _check_affine(affine, path, variable.spatial_dims)
    return _as_channels(voxels, affine, path, variable)


def _load_picture(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with Picture.open(path) as picture:
        if "A" in picture.getbands() or "transparency" in picture.info:
            whole = picture.convert("RGBA")  # what shows through is black, as air is
            picture = Picture.alpha_composite(Picture.new("RGBA", whole.size, "black"), whole)
        kept = picture if picture.mode in ("L", "I", "I;16", "F", "RGB") else picture.convert("RGB")
        return np.asarray(kept, dtype=np.float32), np.eye(4)


def _load_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image: Any = nib.load(path)  # type: ignore[arg-type]
    if np.dtype(image.get_data_dtype()).kind not in "biuf":
        raise MetaVoxelError(
            f"{path}: the voxels are of type {image.get_data_dtype()}, not numbers. Save one real "
            "number per voxel."
        )
    return np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine)


def _check_affine(affine: np.ndarray, path: Path, dims: int) -> None:
    in_plane = affine[:dims, :dims]
    if not np.isfinite(affine).all() or abs(np.linalg.det(in_plane)) < 1e-9:
        raise MetaVoxelError(
            f"{path}: the affine does not say where the {dims}D voxels lie. Repair the header."
        )


def _as_channels(
    voxels: np.ndarray, affine: np.ndarray, path: Path, variable: Image
) -> tuple[np.ndarray, Grid]:
    dims, channels = variable.spatial_dims, variable.channels
    while voxels.ndim > dims and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    flat = dims == 3 and (voxels.ndim < 3 or 1 in voxels.shape[:3] or _is_picture(path))
    if not flat and voxels.ndim == dims and channels == 1:
        return voxels[None], Grid(voxels.shape, affine)
    if not flat and voxels.ndim == dims + 1 and voxels.shape[-1] == channels:
        return np.moveaxis(voxels, -1, 0), Grid(voxels.shape[:-1], affine)
    shape, wanted = "x".join(map(str, voxels.shape)), f"{dims}D with {channels} channel(s)"
    if flat:
        raise MetaVoxelError(f"{path}: this is a 2D image ({shape}); wanted is {wanted}.")
    if voxels.ndim == dims + 1:
        part = "volume" if dims == 3 else "slice"
        raise MetaVoxelError(
            f"{path}: the image has {voxels.ndim} axes, the last of length {voxels.shape[-1]}; "
            f"wanted is {wanted}. Pick one {part} and save it alone."
        )
    raise MetaVoxelError(
        f"{path}: the image is {shape}; wanted is {wanted}. Give another image, or correct the "
        "schema."
    )


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _PICTURES


def _check_values(voxels: np.ndarray, path: Path) -> None:
    if not np.isfinite(voxels).all():
        count = int((~np.isfinite(voxels)).sum())
        raise MetaVoxelError(
            f"{path}: {count} voxels are NaN or infinite. Repair the image (for example set them "
            "to 0) and try again."
        )
    if not voxels.any():
        raise MetaVoxelError(f"{path}: every voxel is 0. Check how the image was made.")
    if voxels.min() == voxels.max():
        raise MetaVoxelError(f"{path}: every voxel is {voxels.min():g}. Check how it was made.")
    if voxels.max() <= 0:
        raise MetaVoxelError(
            f"{path}: no voxel is above 0. Shift the intensities so that air is 0."
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
        offset,  # type: ignore[arg-type]  # the stub knows only a single number
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
