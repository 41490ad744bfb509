"""Where voxels lie is what the header says; what it does not say is not guessed."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.freesurfer import MGHImage
from nibabel.nifti1 import Nifti1Extension
from PIL import Image as Picture

from folders import noise
from metavoxel.errors import MetaVoxelError
from metavoxel.files.picture import picture_shape, read_picture, read_picture_header
from metavoxel.files.volume import read_header, read_voxels

VOXELS = noise(4, 5, 6)
AFFINE = np.array([[-2.0, 0.3, 0, 10], [0.3, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
UNKNOWN = 77  # no code of a type
STRAIGHT = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])


def header_of(affine: np.ndarray = AFFINE, kind: type = nib.Nifti1Image) -> Any:
    """A header with these as sform (code 1) and qform (code 1)."""
    image = kind(VOXELS, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1, strip_shears=True)
    return image.header


def mgh() -> MGHImage:
    array: Any = VOXELS  # nibabel's stubs want a shape that cannot be set
    return MGHImage(array, AFFINE)


def write(path: Path, header: Any, voxels: np.ndarray = VOXELS) -> Path:
    """A file with a header as it stands, which nibabel would correct on writing."""
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["scl_slope"] = header["scl_slope"] if header["scl_slope"] != 0 else 1
    kind = header.get_data_dtype() if int(header["datatype"]) != UNKNOWN else np.float32
    data = np.asfortranarray(voxels.astype(kind)).tobytes(order="F")
    path.write_bytes(header.binaryblock + b"\0" * 4 + data)
    return path


def both(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine; the header alone says the same."""
    voxels, header = read_voxels(path)
    alone = read_header(path)
    assert alone.shape == header.shape == voxels.shape
    np.testing.assert_array_equal(alone.affine, header.affine)
    return voxels, header.affine


def refused(path: Path, message: str) -> None:
    for read in (read_header, read_voxels):
        with pytest.raises(MetaVoxelError, match=message) as error:
            read(path)
        assert str(path) in str(error.value)


STORED: dict[str, tuple[str, Callable[[], Any]]] = {
    "packed": ("x.nii.gz", lambda: nib.Nifti1Image(VOXELS, AFFINE)),
    "not packed": ("x.nii", lambda: nib.Nifti1Image(VOXELS, AFFINE)),
    "big letters": ("x.NII.GZ", lambda: nib.Nifti1Image(VOXELS, AFFINE)),
    "NIfTI-2": ("x.nii.gz", lambda: nib.Nifti2Image(VOXELS, AFFINE)),
    "big endian": (
        "x.nii.gz",
        lambda: nib.Nifti1Image(VOXELS, AFFINE, nib.Nifti1Header(endianness=">")),
    ),
    "MGH": ("x.mgh", mgh),
    "MGZ": ("x.mgz", mgh),
    "one volume of four axes": ("x.nii", lambda: nib.Nifti1Image(VOXELS[..., None], AFFINE)),
}


@pytest.mark.parametrize("case", STORED)
def test_however_it_is_stored_it_reads_the_same(case: str, tmp_path: Path) -> None:
    name, make = STORED[case]
    lower = tmp_path / name.lower()
    nib.save(make(), lower)
    voxels, affine = both(lower.rename(tmp_path / name))
    np.testing.assert_allclose(voxels.reshape(VOXELS.shape), VOXELS, atol=1e-6)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "slope"), [(np.uint64, 1), (np.int8, 2), (np.float64, 1), (np.uint16, -0.5)]
)
def test_numbers_of_any_type_are_read_with_their_scale(
    kind: type, slope: float, tmp_path: Path
) -> None:
    counts = np.arange(120).reshape(4, 5, 6)
    image = nib.Nifti1Image(counts.astype(kind), AFFINE, dtype=kind)
    image.header.set_slope_inter(slope, 3)
    header = image.header
    header["scl_slope"], header["scl_inter"] = slope, 3
    voxels, _ = both(write(tmp_path / "x.nii", header, counts))
    np.testing.assert_allclose(voxels, counts * slope + 3)


def test_a_scale_that_was_not_set_is_none(tmp_path: Path) -> None:
    header = header_of()
    for slope in (np.nan, 1.0):
        header["scl_slope"], header["scl_inter"] = slope, np.nan if np.isnan(slope) else 0
        np.testing.assert_allclose(both(write(tmp_path / "x.nii", header))[0], VOXELS)


def test_a_qform_alone_says_where_the_voxels_lie(tmp_path: Path) -> None:
    header = header_of(STRAIGHT)
    header["sform_code"] = 0
    header["srow_x"] = np.nan  # and what is not in force says nothing
    np.testing.assert_allclose(both(write(tmp_path / "x.nii", header))[1], STRAIGHT, atol=1e-5)
    header["pixdim"][0] = 0  # counts as 1, by the standard
    mirrored = np.abs(STRAIGHT) * np.sign(both(write(tmp_path / "x.nii", header))[1])
    np.testing.assert_allclose(both(tmp_path / "x.nii")[1], mirrored, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "millimetres"), [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)]
)
def test_units_are_read(unit: str, millimetres: float, tmp_path: Path) -> None:
    header = header_of(np.diag([1 / millimetres] * 3 + [1]) @ AFFINE)
    header.set_xyzt_units(unit)
    np.testing.assert_allclose(both(write(tmp_path / "x.nii", header))[1], AFFINE, rtol=1e-5)


def test_a_sform_may_be_turned_and_scaled_against_the_qform(tmp_path: Path) -> None:
    """As one that comes of a registration is."""
    header = header_of()
    turned = np.array([[0.8, 0.6, 0, 0], [-0.6, 0.8, 0, 0], [0, 0, 1.1, 0], [0, 0, 0, 1]]) @ AFFINE
    header.set_sform(turned, 4)
    np.testing.assert_allclose(both(write(tmp_path / "x.nii", header))[1], turned, atol=1e-5)


def changed(**fields: Any) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        for name, value in fields.items():
            header[name] = value

    return change


def sform(affine: np.ndarray) -> Callable[[Any], None]:
    return lambda header: header.set_sform(affine, 1)


def pixdim(axis: int, size: float) -> Callable[[Any], None]:
    """Where the qform alone is in force."""

    def change(header: Any) -> None:
        header["sform_code"] = 0
        header["pixdim"][axis] = size

    return change


def diagonal(*sizes: float) -> np.ndarray:
    return np.diag([*sizes, 1.0])


LEFT = r"does not say which side is left \("
WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "no codes": (changed(sform_code=0, qform_code=0), LEFT + "sform_code and qform_code are 0"),
    "left and right": (sform(np.diag([-1, 1, 1, 1]) @ AFFINE), LEFT + "its sform and its qform"),
    "up and down": (sform(np.diag([1, 1, -1, 1]) @ AFFINE), LEFT + "its sform and its qform"),
    "half a turn": (sform(np.diag([-1, -1, 1, 1]) @ AFFINE), LEFT + "its sform and its qform"),
    "NaN": (changed(srow_x=np.nan), r"where the voxels lie \(it holds NaN"),
    "far away": (changed(srow_x=[-2, 0, 0, 1e30]), r"where the voxels lie \(.*kilometre"),
    "zeros": (sform(np.zeros((4, 4))), r"where the voxels lie \(a voxel has no size"),
    "two axes in line": (
        sform(np.array([[-2.0, -2, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])),
        r"where the voxels lie \(its axes lie in one plane",
    ),
    "a quaternion that is none": (
        changed(sform_code=0, quatern_b=2.0, quatern_c=2.0),
        "not an image that can be read",
    ),
    "no voxel size": (pixdim(2, 0), "pixdim is 0, no voxel size"),
    "a negative voxel size": (pixdim(1, -2), "pixdim is -2, no voxel size"),
    "too small": (sform(diagonal(-0.001, 0.001, 0.001)), r"0\.001 x 0\.001 x 0\.001 mm .*0\.05"),
    "too large": (sform(diagonal(-2, 2, 51)), r"2 x 2 x 51 mm .*its unit is unset.*50"),
    "metres": (changed(xyzt_units=1), r"e\+03 mm .*its unit is metres"),
    "no unit": (changed(xyzt_units=5), "xyzt_units is 5"),
    "complex": (changed(datatype=32), "complex64, not numbers"),
    "colours": (changed(datatype=128), "not numbers"),
    "an unknown type": (changed(datatype=UNKNOWN), "the type of its voxels is none"),
    "no axis": (changed(dim=[0] * 8), "not an image that can be read"),
    "an axis of nothing": (changed(dim=[3, 4, 0, 6, 1, 1, 1, 1]), "gives the shape 4x0x6"),
    "a negative axis": (changed(dim=[3, 4, -5, 6, 1, 1, 1, 1]), "gives the shape 4x-5x6"),
    "too many voxels": (changed(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "35,181,150,961,663"),
    "an infinite scale": (changed(scl_slope=np.inf), "scl_slope is infinite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_header_that_says_nothing_sound_gets_a_sentence(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    header = header_of()
    change(header)
    refused(write(tmp_path / "x.nii", header), message)


@pytest.mark.parametrize("offset", [0, 300, 2**30, np.nan, -5])
def test_voxels_begin_inside_the_file(offset: float, tmp_path: Path) -> None:
    path = write(tmp_path / "x.nii", header_of())
    data = bytearray(path.read_bytes())
    data[108:112] = struct.pack("<f", offset)
    path.write_bytes(bytes(data))
    refused(path, "its voxels begin at byte")


def test_a_short_file_and_one_that_begins_late_are_damaged(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.nii", header_of()).read_bytes()
    late = bytearray(whole)
    late[108:112] = struct.pack("<f", 10_000)
    for content in (whole[:-1], bytes(late)):
        (tmp_path / "y.nii").write_bytes(content)
        with pytest.raises(MetaVoxelError, match=r"y\.nii: damaged"):
            read_voxels(tmp_path / "y.nii")


def test_extensions_of_a_header_are_passed_over_whatever_their_size(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header.extensions.append(Nifti1Extension("comment", b"x" * 100))
    nib.save(image, tmp_path / "x.nii")
    data = bytearray((tmp_path / "x.nii").read_bytes())
    for size in (2**31 - 1, 0, 7):
        data[352:356] = struct.pack("<i", size)
        (tmp_path / "x.nii").write_bytes(bytes(data))
        np.testing.assert_allclose(both(tmp_path / "x.nii")[0], VOXELS)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii"])
def test_the_checksum_of_a_packed_file_is_looked_at(name: str, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(write(tmp_path / name, header_of()).read_bytes()))
    data[-8] ^= 1
    (tmp_path / name).write_bytes(bytes(data))
    with pytest.raises(MetaVoxelError, match=rf"{name}: damaged.*CRC"):
        read_voxels(tmp_path / name)


@pytest.mark.parametrize(("stored", "named"), [("nii", "nii.gz"), ("mgh", "mgz")])
def test_a_file_is_packed_if_it_holds_gzip_whatever_its_name(
    stored: str, named: str, tmp_path: Path
) -> None:
    image = mgh() if stored == "mgh" else nib.Nifti1Image(VOXELS, AFFINE)
    nib.save(image, tmp_path / f"x.{stored}")
    plain = (tmp_path / f"x.{stored}").read_bytes()
    for name, content in ((named, plain), (stored, gzip.compress(plain))):
        (tmp_path / f"y.{name}").write_bytes(content)
        voxels, affine = both(tmp_path / f"y.{name}")
        np.testing.assert_array_equal(voxels, VOXELS)
        np.testing.assert_allclose(affine, AFFINE, atol=1e-5)


def test_a_folder_of_dicom_files_is_asked_with_preprocess(tmp_path: Path) -> None:
    refused(tmp_path, "this is a folder. Give a file; if it holds DICOM files, ask with --preproc")


def test_directions_that_mgh_does_not_give_are_not_made_up(tmp_path: Path) -> None:
    nib.save(mgh(), tmp_path / "x.mgh")
    data = bytearray((tmp_path / "x.mgh").read_bytes())
    data[28:30] = b"\0\0"
    (tmp_path / "x.mgh").write_bytes(bytes(data))
    refused(tmp_path / "x.mgh", LEFT + "goodRASFlag is not 1")
    (tmp_path / "x.mgz").write_bytes(gzip.compress(bytes(data)))
    refused(tmp_path / "x.mgz", LEFT + "goodRASFlag is not 1")


@pytest.mark.parametrize(
    "name", ["x.img", "x.hdr", "x.mnc", "x.nrrd", "x.gii", "x.nii.zst", "x.nii.bz2", "x.mha", "x"]
)
def test_other_kinds_of_file_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    refused(tmp_path / name, r"images are read from NIfTI \(.nii.gz, .nii\), MGH")


def test_a_header_without_its_voxels_is_said(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(VOXELS, AFFINE), tmp_path / "x.img")
    (tmp_path / "x.hdr").rename(tmp_path / "x.nii")
    refused(tmp_path / "x.nii", "no voxels after it")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claims(width: int, height: int) -> bytes:
    """A PNG whose header claims so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


@pytest.mark.parametrize(
    ("size", "said"),
    [(12_500, r"156,250,000 voxels .*METAVOXEL_MOST_VOXELS"), (60_000, "more than .* pixels")],
)
def test_a_picture_is_refused_by_its_header(size: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(claims(size, size))
    for read in (read_picture, picture_shape):
        with pytest.raises(MetaVoxelError, match=said):
            read(path)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 1), ("I;16", 1), ("F", 1), ("RGB", 3), ("RGBA", 3), ("LA", 3), ("P", 3), ("CMYK", 3)],
)
def test_a_picture_s_header_says_what_its_pixels_are(
    mode: str, channels: int, tmp_path: Path
) -> None:
    Picture.new(mode, (7, 5)).save(tmp_path / "x.tif")
    header = read_picture_header(tmp_path / "x.tif")
    assert (header.shape, header.channels) == ((5, 7), channels)
    assert read_picture(tmp_path / "x.tif").shape == ((5, 7) if channels == 1 else (5, 7, 3))


def test_sixteen_bits_are_read_in_either_order_of_bytes(tmp_path: Path) -> None:
    counts = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1000
    for mode, kind in (("I;16", "<u2"), ("I;16B", ">u2")):
        picture = Picture.frombytes(mode, (7, 5), counts.astype(kind).tobytes())
        picture.save(tmp_path / "x.tif")
        np.testing.assert_array_equal(read_picture(tmp_path / "x.tif"), counts)


def test_a_file_of_several_pictures_is_refused(tmp_path: Path) -> None:
    pages = [Picture.new("L", (7, 5), k) for k in range(3)]
    for name in ("x.tif", "x.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.raises(MetaVoxelError, match=r"it holds 3 pictures"):
            picture_shape(tmp_path / name)


@pytest.mark.parametrize("name", ["x.jpg", "x.tif", "x.png"])
@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_a_picture_that_is_turned_by_a_note_is_refused(
    name: str, orientation: int, tmp_path: Path
) -> None:
    """Mirrored, half a turn, a quarter: what some programs show is not what is stored."""
    notes = Picture.Exif()
    notes[0x0112] = orientation
    Picture.new("L", (7, 5), 3).save(tmp_path / name, exif=notes)
    with pytest.raises(MetaVoxelError, match="EXIF orientation turns or mirrors it"):
        read_picture(tmp_path / name)
    notes[0x0112] = 1
    Picture.new("L", (7, 5), 3).save(tmp_path / name, exif=notes)
    assert read_picture(tmp_path / name).shape == (5, 7)
