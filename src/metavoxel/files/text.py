"""Text files: UTF-8, with or without a byte order mark."""

from __future__ import annotations

from pathlib import Path

from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import reading

MOST_BYTES = 2**30  # of a text: a table of half a million people has some hundred MB
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    """The text of a file, with "\\n" at the end of every line. Raises MetaVoxelError."""
    with reading(path, "text", "Save it as UTF-8."):
        if path.stat().st_size > MOST_BYTES:
            raise MetaVoxelError(f"{path}: more than {MOST_BYTES >> 20} MB are too much for text.")
        return decoded(path.read_bytes())


def decoded(data: bytes) -> str:
    """Bytes as text, with "\n" at the end of every line. Raises ValueError if they are none."""
    if data.startswith(_UTF_16):
        raise ValueError("it is UTF-16")
    if b"\0" in data:
        raise ValueError("it holds zero bytes")
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
