"""The folders of reports: refused before anything is read, and nobody else's files touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.report import evaluate
from metavoxel.files.owned import MARKER, OwnedFolder, holding
from metavoxel.files.writing import BusyError
from small import write_model_folder, write_own_cohort

QUIET = Console(quiet=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_model_folder(tmp_path / "model")


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    return write_own_cohort(tmp_path / "bids")


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize("name", ["model", "bids"])
def test_a_model_or_a_dataset_is_no_place_for_a_report(
    model: Path, bids: Path, tmp_path: Path, name: str
) -> None:
    before = contents(tmp_path)
    with pytest.raises(MetaVoxelError, match=f"{name} is not empty: it holds"):
        evaluate(tmp_path / "no model", bids, tmp_path / name, 2, 0, QUIET)  # nothing is read
    assert contents(tmp_path) == before


def test_a_second_report_leaves_what_others_put_beside_the_first(
    model: Path, bids: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate(model, bids, out, 2, 0, QUIET)
    mine = ["notes.txt", ".metavoxel-1a2b3c4d-thesis.tex", "answers/notes.txt", "sub/report.html"]
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    (out / "report.md").write_text("edited")
    evaluate(model, bids, out, 2, 0, QUIET)
    assert {(out / name).read_text() for name in mine} == {"mine"}
    assert (out / "report.md").read_text() != "edited"
    ours = {*contents(out)} - {*mine} - {MARKER}
    assert all(
        name in OwnedFolder(out, "evaluate").listed() or name.startswith("answers/")
        for name in ours
    )


def test_a_file_in_the_report_s_place_is_told_before_anything_is_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with holding(out, "evaluate") as place:  # as an evaluation that was killed early
        place.add("answers/")
    (out / "report.html").write_text("mine")
    with pytest.raises(MetaVoxelError, match=r"report\.html: metavoxel evaluate did not write"):
        evaluate(tmp_path / "no model", tmp_path, out, 2, 0, QUIET)
    assert (out / "report.html").read_text() == "mine"


def test_one_evaluation_at_a_time(tmp_path: Path) -> None:
    with (
        holding(tmp_path / "out", "evaluate"),
        pytest.raises(BusyError, match="another metavoxel evaluate is writing here"),
    ):
        evaluate(tmp_path / "no model", tmp_path, tmp_path / "out", 2, 0, QUIET)


def test_what_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError):
        evaluate(tmp_path / "no model", tmp_path, tmp_path / "a" / "out", 2, 0, QUIET)
    assert not (tmp_path / "a" / "out").exists()
