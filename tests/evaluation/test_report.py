"""The report of a model: its figures follow from its own table of answers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from folders import AGE, SEX, noise, schema, write_bids, write_nifti
from metavoxel.data.splits import Split, write_split
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.report import as_markdown, evaluate
from metavoxel.model import MetaVoxel, ModelConfig, save_model

SETTINGS = {
    "encoding": {"kind": "identity"},
    "denoiser": {"channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8},
    "sampling": {"steps": 2},
}
QUIET = Console(quiet=True)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An untrained model, and a cohort of 12 whose last 4 are its test subjects, one of no age."""
    ages = [*range(30, 85, 5), "n/a"]
    names = [f"sub-{i:02d}" for i in range(12)]
    rows = [f"{s} {a} {'FM'[i % 2]}" for i, (s, a) in enumerate(zip(names, ages, strict=True))]
    bids = write_bids(tmp_path / "bids", ["participant_id age sex", *rows], [])
    for i, s in enumerate(names):
        write_nifti(bids / s / "anat" / f"{s}_T1w.nii.gz", noise(8, 8, 8) ** (1 + i / 12))
    of = schema(age=AGE, sex=SEX)
    model = MetaVoxel(of, ModelConfig.model_validate(SETTINGS), {"age": LinearScaling(0, 100, 0.5)})
    save_model(model, tmp_path / "model")
    split = Split(tuple(names[:6]), tuple(names[6:8]), tuple(names[8:]), "by hand")
    write_split(split, tmp_path / "model" / "split.json")
    return tmp_path / "model", bids


def test_the_figures_follow_from_the_answers(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = evaluate(*folders, tmp_path / "out", 24, 0, QUIET)
    with (tmp_path / "out" / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    ages = [r for r in rows if r["variable"] == "age"]
    sexes = [r for r in rows if r["variable"] == "sex"]
    assert [r["record"] for r in ages] == ["sub-08", "sub-09", "sub-10"]
    assert [r["truth"] for r in sexes] == ["F", "M", "F", "M"]
    systems = list(report["scores"]["age"])
    assert systems == [*rows[0]][3:]
    for system in systems:
        error = np.mean([abs(float(r[system]) - float(r["truth"])) for r in ages])
        assert report["scores"]["age"][system]["mae"]["value"] == pytest.approx(error, rel=1e-4)
        hits = np.mean([r[system] == r["truth"] for r in sexes])
        assert report["scores"]["sex"][system]["accuracy"]["value"] == pytest.approx(hits)
    # The population mean of the first eight, 30 to 65, against 70, 75, 80.
    assert report["scores"]["age"]["population mean / majority"]["mae"]["value"] == 27.5
    assert (tmp_path / "out" / "montage-image.png").stat().st_size > 1000
    assert as_markdown(report) == (tmp_path / "out" / "report.md").read_text()


def test_another_cohort_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    rows = ["participant_id age sex", "sub-90 40 F", "sub-91 50 M"]
    other = write_bids(tmp_path / "other", rows, ["sub-90_T1w"])
    with pytest.raises(MetaVoxelError, match="none of the model's 4 test subjects is here"):
        evaluate(folders[0], other, tmp_path / "out", 2, 0, QUIET)
