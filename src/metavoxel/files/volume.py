"""Volumes: NIfTI and MGH. Where the voxels lie is what the header says, never a library's guess."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.quaternions import quat2mat

from metavoxel.errors import MetaVoxelError
from metavoxel.files.limits import check_voxels
from metavoxel.files.wall import reading

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
_KIND = "an image that can be read"
_FOLDER = (
    "Give a file; if it holds DICOM files, ask with --preprocess, which converts and prepares them."
)
_GZIP = b"\x1f\x8b"  # how gzip begins; NIfTI and MGH begin otherwise
_UNITS = {0: (1.0, "unset, so millimetres"), 1: (1e3, "metres"), 2: (1.0, "mm"), 3: (1e-3, "µm")}
_SMALLEST, _LARGEST = 0.05, 50.0  # millimetres: no scanner's voxel is smaller, or larger
_FARTHEST = 1e6  # millimetres from the origin: beyond, too few digits are left for a voxel
_FLAT = 1e-3  # of a voxel's volume over the product of its sides: its axes lie in a plane
_MOST_BEFORE = 2**24  # bytes of header and extensions before the voxels
_CHUNK = 2**24
_GOOD_RAS = slice(28, 30)  # of MGH's header: whether what it says of directions is meant


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
    """Shape and place of a volume, without its voxels. Raises MetaVoxelError.

    One whose first three axes hold too many voxels is refused here, one with too many in all
    when they are read.
    """
    with reading(path, _KIND, folder=_FOLDER):
        header = _described(_raw_header(path), path)
        check_voxels(path, header.shape[:3])
        return header


def read_voxels(path: Path) -> tuple[np.ndarray, Header]:
    """The voxels of a volume as float32, in the file's order of axes. Raises MetaVoxelError.

    A compressed file is read to its end, so that its checksum is looked at.
    """
    with reading(path, _KIND, folder=_FOLDER):
        raw = _raw_header(path)
        header = _described(raw, path)
        check_voxels(path, header.shape)
        size = raw.get_data_offset() + prod(header.shape) * raw.get_data_dtype().itemsize
        data = io.BytesIO(_first_bytes(path, size + _MOST_BEFORE))
        with np.errstate(all="ignore"):  # what is not finite is told by whoever asked
            return np.asarray(ArrayProxy(data, raw), dtype=np.float32), header


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM by what it holds: its name often has no ending. Never raises."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False


def _raw_header(path: Path) -> Any:
    """A header as nibabel takes it apart, as it stands: nothing of it corrected."""
    if not path.name.lower().endswith(ENDINGS):
        if is_dicom_file(path):
            raise MetaVoxelError(
                f"{path}: this is DICOM. Ask with --preprocess, which converts and prepares it; or "
                "convert it to NIfTI."
            )
        raise MetaVoxelError(
            f"{path}: images are read from NIfTI (.nii.gz, .nii), MGH (.mgz, .mgh) and pictures "
            "(.png, .jpg, .tif). Convert it, or correct its name."
        )
    start = _first_bytes(path, 540)
    if path.name.lower().endswith((".mgz", ".mgh")):
        header = _mgh_header(start, path)
    else:
        header = _nifti_header(start)
    shape = header.get_data_shape()
    if not shape or min(shape) < 1:
        raise ValueError(f"its header gives the shape {'x'.join(map(str, shape)) or 'nothing'}")
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        raise ValueError("the type of its voxels is none that is known") from None
    if dtype.kind not in "biuf":
        raise MetaVoxelError(
            f"{path}: the voxels are of type {dtype}, not numbers. Save one real number per voxel."
        )
    return header


def _nifti_header(start: bytes) -> Any:
    """The header of a NIfTI file that begins like this. Raises ValueError."""
    for kind, size, magic in (
        (nib.Nifti1Header, 348, b"n+1\0"),
        (nib.Nifti2Header, 540, b"n+2\0"),
    ):
        for order in ("<", ">"):
            if int.from_bytes(start[:4], "little" if order == "<" else "big") == size:
                header: Any = kind(start[:size], endianness=order, check=False)
                if not header["magic"].tobytes().ljust(4, b"\0").startswith(magic[:3]):
                    raise ValueError("its header has no voxels after it, as .hdr has none")
                begin, slope = float(header["vox_offset"]), float(header["scl_slope"])
                if not size <= begin <= _MOST_BEFORE:
                    raise ValueError(f"its voxels begin at byte {begin:g}")
                if np.isinf(slope):  # 0 and NaN mean that none was set
                    raise ValueError("scl_slope is infinite")
                return header
    raise ValueError("it does not begin as NIfTI does")


def _mgh_header(start: bytes, path: Path) -> Any:
    """The header of an MGH file that begins like this. Raises ValueError, MetaVoxelError."""
    header: Any = MGHHeader(start, check=False)
    if int(header["version"]) != 1:
        raise ValueError("it does not begin as MGH does")
    # nibabel puts its own guess of the directions where the file gives none.
    if int.from_bytes(start[_GOOD_RAS], "big") != 1:
        raise _no_sides(path, "goodRASFlag is not 1")
    return header


def _first_bytes(path: Path, most: int) -> bytes:
    """The first bytes of a file, unpacked; of a file with fewer, all, its checksum compared.

    Whether it is packed is what it holds, whatever its name.
    """
    parts, left = [], most
    with path.open("rb") as stored:
        packed = stored.read(len(_GZIP)) == _GZIP
        stored.seek(0)
        file = gzip.GzipFile(fileobj=stored, mode="rb") if packed else stored
        while left and (part := file.read(min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
        if not left and most > _MOST_BEFORE and file.read(1):
            raise ValueError("it holds far more than its header says")
    return b"".join(parts)


def _described(raw: Any, path: Path) -> Header:
    """What a header says, in millimetres. Raises MetaVoxelError where it says nothing sound."""
    shape = tuple(int(n) for n in raw.get_data_shape())
    if isinstance(raw, MGHHeader):
        affine, unit = np.asarray(raw.get_affine()), "mm"
    else:
        affine, code = _nifti_affine(raw, path), int(raw["xyzt_units"]) % 8
        if code not in _UNITS:
            raise ValueError(f"xyzt_units is {code}, no unit of length")
        affine[:3] *= _UNITS[code][0]
        unit = _UNITS[code][1]
    header = Header(shape, np.asarray(affine, dtype=float))
    _check_place(header, path)
    _check_size(header, unit, path)
    return header


def _nifti_affine(raw: Any, path: Path) -> np.ndarray:
    """The sform, else the qform. Raises MetaVoxelError if there is none, or they contradict."""
    sform = raw.get_sform() if int(raw["sform_code"]) > 0 else None
    qform = _qform(raw) if int(raw["qform_code"]) > 0 else None
    if sform is None and qform is None:
        raise _no_sides(path, "sform_code and qform_code are 0")
    if sform is None or qform is None:
        return np.array(qform if sform is None else sform, dtype=float)
    if _contradict(sform, _rotation(raw)):
        raise _no_sides(path, "its sform and its qform contradict each other")
    return np.array(sform, dtype=float)


def _qform(raw: Any) -> np.ndarray:
    sizes = np.array(raw["pixdim"][1:4], dtype=float)
    if (sizes <= 0).any():
        raise ValueError(f"pixdim is {sizes.min():g}, no voxel size")
    out = np.eye(4)
    out[:3, :3] = _rotation(raw) * sizes
    out[:3, 3] = raw["qoffset_x"], raw["qoffset_y"], raw["qoffset_z"]
    return out


def _rotation(raw: Any) -> np.ndarray:
    """The directions of the voxel axes by the quaternion; a pixdim[0] of 0 counts as 1 (NIfTI)."""
    out = quat2mat(np.asarray(raw.get_qform_quaternion(), dtype=float))
    return out * [1, 1, -1 if float(raw["pixdim"][0]) == -1 else 1]


def _contradict(sform: np.ndarray, directions: np.ndarray) -> bool:
    """Whether what one calls right the other calls left, or one mirrors the other.

    They may differ by a rotation and a scale: a sform often comes of a registration.
    """
    linear = np.asarray(sform, dtype=float)[:3, :3]
    lengths = np.linalg.norm(linear, axis=0)
    if not (np.isfinite(linear).all() and np.isfinite(directions).all() and lengths.min() > 0):
        return False  # a fault of another kind, which is told for itself
    turn = linear / lengths @ directions.T
    return bool(np.linalg.det(turn) < 0 or turn[0, 0] <= 0)


def _check_place(header: Header, path: Path) -> None:
    """Raise MetaVoxelError unless every voxel lies at a place of its own."""
    why = None
    if not np.isfinite(header.affine).all():
        why = "it holds NaN or infinity"
    elif np.abs(header.affine).max() > _FARTHEST:
        why = "they lie more than a kilometre away"
    elif header.spacing.min() <= 0:
        why = "a voxel has no size along an axis"
    elif abs(np.linalg.det(header.affine[:3, :3] / header.spacing)) < _FLAT:
        why = "its axes lie in one plane"
    if why is not None:
        raise MetaVoxelError(
            f"{path}: the affine of its header does not say where the voxels lie ({why}). Repair "
            "the header, or convert the scan again from its source."
        )


def _check_size(header: Header, unit: str, path: Path) -> None:
    """Raise MetaVoxelError if the voxels of a 3D volume are of a size that no scan's are."""
    if len(header.shape) < 3 or min(header.shape[:3]) == 1:
        return
    sizes = header.spacing
    if not (sizes.min() >= _SMALLEST and sizes.max() <= _LARGEST):
        told = " x ".join(f"{x:.3g}" for x in sizes)
        raise MetaVoxelError(
            f"{path}: a voxel measures {told} mm by its header (its unit is {unit}); scans have "
            f"{_SMALLEST:g} to {_LARGEST:g} mm. Correct the voxel size or the unit (xyzt_units)."
        )


def _no_sides(path: Path, why: str) -> MetaVoxelError:
    return MetaVoxelError(
        f"{path}: its header does not say which side is left ({why}). Convert the scan again from "
        "its source, or set the header's orientation."
    )
