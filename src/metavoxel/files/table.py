"""Tables of BIDS: UTF-8 text, a row a line, cells with tabs between, no quoting."""

from __future__ import annotations

from pathlib import Path

from metavoxel.files.text import read_text
from metavoxel.files.wall import reading


def read_lines(path: Path) -> list[list[str]]:
    """Every line of a .tsv as its cells, stripped. Raises MetaVoxelError naming the file.

    BIDS knows no quoting: a lone " must not swallow the rows after it.
    """
    text = read_text(path)
    with reading(path, "a table", "Save it as UTF-8 text, with tabs between cells."):
        return cells_of(text)


def cells_of(text: str) -> list[list[str]]:
    """The cells of every line of a text."""
    return [[cell.strip() for cell in line.split("\t")] for line in text.split("\n")]
