"""Telling a file from what it was, however it was copied."""

from __future__ import annotations

import zlib
from pathlib import Path

SMALL = 2**20  # bytes: a file that is read whole to know it again


def version_of(path: Path) -> str:
    """Tells a file from what it was: its size and checksum, or its size and time.

    A gzip file ends with the CRC-32 of what it holds (RFC 1952), and a slice of a scan is small
    enough to be read: however they were copied, they are the same. Of another file an archive keeps
    the time to the second.
    """
    state = path.stat()
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            file.seek(max(0, state.st_size - 8))
            return f"{state.st_size} {file.read(4).hex()}"
        if state.st_size <= SMALL:
            file.seek(0)
            return f"{state.st_size} {zlib.crc32(file.read()):08x}"
    return f"{state.st_size} {int(state.st_mtime)}"
