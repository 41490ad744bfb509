"""Volumes: NIfTI and MGH. Where the voxels lie is what the header says, never a library's guess."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer import MGHImage

from metavoxel.errors import MetaVoxelError
from metavoxel.files.limits import check_voxels
from metavoxel.files.wall import reading

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
_KIND = "an image that can be read"
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_MOST_BEFORE = 2**24  # bytes of header and extensions before the voxels
_CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class Header:
    """What a volume's header says: `shape` (any number of axes) and `affine` (4, 4), voxel index
    to millimetres, RAS."""

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along the first three axes (mm)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def read_header(path: Path) -> Header:
    """Shape and place of a volume, without its voxels. Raises MetaVoxelError."""
    with reading(path, _KIND):
        return _header(_image(path, whole=False), path)


def read_voxels(path: Path) -> tuple[np.ndarray, Header]:
    """The voxels of a volume as float32, in the file's order of axes. Raises MetaVoxelError.

    A compressed file is read to its end, so that its checksum is looked at.
    """
    with reading(path, _KIND):
        image = _image(path, whole=True)
        header = _header(image, path)
        if image.get_data_dtype().kind not in "biuf":
            raise MetaVoxelError(
                f"{path}: the voxels are of type {image.get_data_dtype()}, not numbers. Save one "
                "real number per voxel."
            )
        with np.errstate(all="ignore"):  # what is not finite is told by whoever asked
            return np.asarray(image.dataobj, dtype=np.float32), header


def _image(path: Path, whole: bool) -> Any:
    """An image of nibabel's; with `whole`, one whose voxels can be read."""
    if not path.name.lower().endswith(ENDINGS):
        raise MetaVoxelError(
            f"{path}: images are read from NIfTI (.nii.gz, .nii), MGH (.mgz, .mgh) and pictures "
            "(.png, .jpg, .tif). Convert it, or correct its name."
        )
    packed = path.name.lower().endswith((".gz", ".mgz"))
    start = _first_bytes(path, 540, packed)
    kind = _kind(start, path)
    header = kind.header_class(start[: kind.header_class.template_dtype.itemsize], check=False)
    check_voxels(path, header.get_data_shape())
    before = int(header.get_data_offset())
    if not 0 <= before <= _MOST_BEFORE:
        raise ValueError(f"its voxels begin at byte {before}")
    if not packed:
        return kind.from_filename(path)
    size = before + prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    return kind.from_bytes(_first_bytes(path, size + _MOST_BEFORE if whole else before, packed))


def _kind(start: bytes, path: Path) -> Any:
    """The class of nibabel's that reads a file which begins like this."""
    if path.name.lower().endswith((".mgz", ".mgh")):
        return MGHImage
    for kind, size in ((nib.Nifti1Image, 348), (nib.Nifti2Image, 540)):
        if int.from_bytes(start[:4], "little") == size or int.from_bytes(start[:4], "big") == size:
            return kind
    raise ValueError("it does not begin as NIfTI does")


def _first_bytes(path: Path, most: int, packed: bool) -> bytes:
    """The first bytes of a file, unpacked; of a file with fewer, all, its checksum compared."""
    parts, left = [], most
    with gzip.open(path) if packed else path.open("rb") as file:
        while left and (part := file.read(min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
        if not left and most > _MOST_BEFORE and file.read(1):
            raise ValueError("it holds far more than its header says")
    return b"".join(parts)


def _header(image: Any, path: Path) -> Header:
    affine = np.array(image.affine, dtype=float)
    if isinstance(image, MGHImage):
        if int(image.header["goodRASFlag"]) != 1:
            raise _no_sides(path, "goodRASFlag is not 1")
    else:
        _check_sides(image, path)
        unit = image.header.get_xyzt_units()[0]
        affine[:3] *= _MILLIMETRES.get(unit, 1.0)
    return Header(tuple(int(n) for n in image.shape), affine)


def _check_sides(image: Any, path: Path) -> None:
    """Whether a NIfTI header says which side is left. Raises MetaVoxelError."""
    codes = int(image.header["sform_code"]), int(image.header["qform_code"])
    if codes == (0, 0):
        raise _no_sides(path, "sform_code and qform_code are 0")
    if min(codes) > 0:
        sform, qform = image.header.get_sform(), image.header.get_qform()
        if _left_to_right(sform) != _left_to_right(qform):
            raise _no_sides(path, "its sform and its qform contradict each other")


def _left_to_right(affine: np.ndarray) -> tuple[int, bool]:
    """Which voxel axis runs from side to side, and whether it runs to the right."""
    axis = int(np.abs(affine[0, :3] / np.linalg.norm(affine[:3, :3], axis=0)).argmax())
    return axis, bool(affine[0, axis] > 0)


def _no_sides(path: Path, why: str) -> MetaVoxelError:
    return MetaVoxelError(
        f"{path}: its header does not say which side is left ({why}). Convert the scan again from "
        "its source, or set the header's orientation."
    )
