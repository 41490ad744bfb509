"""What a killed or damaged disk left of kept results is done again, or said: never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.experiment.generated import read_rows
from metavoxel.evaluation.experiment.pieces import Piece, Pieces
from metavoxel.evaluation.systems import Kept, SystemAnswers


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    kept = Kept(tmp_path, "key")
    kept.write("one", SystemAnswers({"age": np.arange(4.0)}, {"age": np.ones((4, 2))}, seconds=1.5))
    return kept


def test_what_is_kept_is_read(kept: Kept) -> None:
    found = kept.read("one")
    assert found is not None and found.seconds == 1.5
    np.testing.assert_array_equal(found.points["age"], np.arange(4.0))
    assert Kept(kept.folder, "another key").read("one") is None
    assert kept.read("two") is None


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_answers_that_are_cut_are_asked_again(share: float, kept: Kept) -> None:
    path = kept.folder / "one.npz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert kept.read("one") is None


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"key": "key"},
        {"key": "key", "seconds": "many"},
        {"key": "key", "seconds": 1.0, "colours/age": np.zeros(4)},
        {"key": "key", "seconds": 1.0, "points/age": np.zeros(4), "samples/age": np.zeros((3, 2))},
        {"key": "key", "seconds": 1.0, "points/age": np.array(3.0)},
        {"key": "key", "seconds": 1.0, "points/age": np.array([object()] * 4)},
    ],
)
def test_answers_of_another_kind_are_asked_again(arrays: dict[str, Any], kept: Kept) -> None:
    np.savez(kept.folder / "one.npz", **arrays)
    assert kept.read("one") is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"key": "same"}', b"null"])
def test_a_piece_whose_record_is_damaged_is_done_again(data: bytes, tmp_path: Path) -> None:
    done: list[str] = []
    piece = Piece("a piece", lambda console: done.append("once"), lambda: "same")
    pieces, quiet = Pieces(tmp_path, [piece]), Console(quiet=True)
    pieces.run(quiet)
    pieces.run(quiet)
    assert done == ["once"] and pieces.done(piece)
    assert [*pieces.seconds()] == ["a piece"]
    (tmp_path / "a-piece.json").write_bytes(data)
    assert not pieces.done(piece)
    pieces.run(quiet)
    assert len(done) == 2 and pieces.done(piece)


@pytest.mark.parametrize("data", [b"", b"{}", b"[3]", b"[{]", b"\xff"])
def test_measures_that_are_damaged_are_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "measures.json"
    path.write_bytes(data)
    with pytest.raises(MetaVoxelError, match=r"measures\.json"):
        read_rows(path)
