"""Which version of a file it is."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from metavoxel.files.versions import SMALL, version_of


def test_a_gzip_file_is_known_by_what_it_holds_whenever_it_was_written(tmp_path: Path) -> None:
    scan, copy, other = (tmp_path / name for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"))
    scan.write_bytes(gzip.compress(b"brain", mtime=0))
    copy.write_bytes(scan.read_bytes())
    os.utime(copy, (0, 0))
    other.write_bytes(gzip.compress(b"brian", mtime=0))
    assert scan.stat().st_size == other.stat().st_size
    assert version_of(scan) == version_of(copy) != version_of(other)


def test_a_damaged_gzip_file_has_a_version_too(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"\x1f\x8b")
    assert version_of(tmp_path / "scan.nii.gz")


def test_a_small_file_is_known_by_what_it_holds(tmp_path: Path) -> None:
    scan, copy, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    scan.write_bytes(b"slice")
    copy.write_bytes(b"slice")
    os.utime(copy, (0, 0))
    other.write_bytes(b"clise")
    assert version_of(scan) == version_of(copy) != version_of(other)


@pytest.mark.parametrize("content", [bytes(SMALL + 1), b"image" + bytes(SMALL)])
def test_another_file_is_known_by_its_size_and_time(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"

    def version(content: bytes, written: float) -> str:
        path.write_bytes(content)
        os.utime(path, (10, written))
        return version_of(path)

    assert version(content, 10.25) == version(content, 10.75)
    assert version(content, 10) != version(content, 12)
    assert version(content, 10) != version(content + b"more", 10)
