"""The report of a model: its figures follow from its own table of answers, on any cohort."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation import systems
from metavoxel.evaluation.report import as_markdown, evaluate
from metavoxel.inference.calibration import calibrate
from metavoxel.model_files import write_checksums
from small import write_cohort, write_model_folder, write_own_cohort

QUIET = Console(quiet=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_model_folder(tmp_path / "model")


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    return write_own_cohort(tmp_path / "bids")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_figures_follow_from_the_answers(model: Path, bids: Path, tmp_path: Path) -> None:
    report = evaluate(model, bids, tmp_path / "out", 24, 0, QUIET)
    rows = rows_of(tmp_path / "out" / "answers.csv")
    ages = [r for r in rows if r["variable"] == "age"]
    sexes = [r for r in rows if r["variable"] == "sex"]
    assert [r["record"] for r in ages] == ["sub-08", "sub-09", "sub-10"]
    assert [r["truth"] for r in sexes] == ["F", "M", "F", "M"]
    names = list(report["scores"]["age"])
    assert names == [*rows[0]][3:]
    for system in names:
        error = np.mean([abs(float(r[system]) - float(r["truth"])) for r in ages])
        assert report["scores"]["age"][system]["mae"]["value"] == pytest.approx(error, rel=1e-4)
        hits = np.mean([r[system] == r["truth"] for r in sexes])
        assert report["scores"]["sex"][system]["accuracy"]["value"] == pytest.approx(hits)
    # The population mean of the first eight, 30 to 65, against 70, 75, 80.
    assert report["scores"]["age"]["population mean / majority"]["mae"]["value"] == 27.5
    assert (tmp_path / "out" / "montage-image.png").stat().st_size > 1000
    assert as_markdown(report) == (tmp_path / "out" / "report.md").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


def test_gains_and_the_table_of_scores_say_the_same(
    model: Path, bids: Path, tmp_path: Path
) -> None:
    report = evaluate(model, bids, tmp_path / "out", 3, 0, QUIET)
    table = {
        (r["variable"], r["system"], r["measure"]): r for r in rows_of(tmp_path / "out/scores.csv")
    }
    assert len(table) == sum(len(m) for v in report["scores"].values() for m in v.values())
    for v, measure, sign in (("age", "mae", 1), ("sex", "accuracy", -1)):
        own = float(table[v, "one evaluation", measure]["value"])
        for system, gain in report["gains"][v].items():
            other = float(table[v, system, measure]["value"])
            assert gain["value"] == pytest.approx(sign * (other - own), abs=1e-6)
    # One answer for all has no correlation with anything.
    assert table["age", "population mean / majority", "r"]["value"] == "n/a"


def test_the_page_holds_everything_and_calls_nobody(
    model: Path, bids: Path, tmp_path: Path
) -> None:
    evaluate(model, bids, tmp_path / "out", 24, 0, QUIET)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "{{" not in page
    assert set(re.findall(r'(?:src|href)="([^"#]{4})', page)) == {"data"}
    # Of age: predicted and true, bias, coverage, PIT; of sex: reliability, ROC, confusion.
    assert page.count("data:image/svg+xml") == 7
    assert page.count("data:image/png") == 1
    assert "sub-0" not in page  # nobody is named


def test_coherence_stands_in_every_report_of_a_law(model: Path, tmp_path: Path) -> None:
    """Of one record each of 12 people, 11 of whom have an age."""
    other = write_own_cohort(tmp_path / "other")
    report = evaluate(model, other, tmp_path / "out", 2, 0, QUIET, external=True)
    found = report["coherence"]
    assert found["subjects"] == 12
    assert [c["of"] for c in found["chain_rule"]] == [["age", "sex"]]
    assert found["chain_rule"][0]["max"] < 1e-3
    assert {c["addition"]: c["n"] for c in found["additions"]} == {
        "age | nothing + image": 11,
        "age | nothing + sex": 11,
        "age | image + sex": 11,
        "age | sex + image": 11,
        "sex | nothing + image": 12,
        "sex | nothing + age": 11,
        "sex | image + age": 11,
        "sex | age + image": 11,
    }
    assert "<h2>Coherence</h2>" in (tmp_path / "out" / "report.html").read_text()
    assert "| harmful additions | 0 of 8 |" in (tmp_path / "out" / "report.md").read_text()


def test_a_cohort_of_other_people_counts_whole(model: Path, tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", ["sub-90 40 F", "sub-91 50 M", "sub-92 n/a M"])
    report = evaluate(model, other, tmp_path / "out", 2, 0, QUIET)
    assert "external cohort" in report["people"]
    assert (report["test_records"], report["training_records"]) == (3, 0)
    assert report["scores"]["age"]["one evaluation"]["mae"]["n"] == 2
    assert [*report["scores"]["sex"]] == ["one evaluation"]
    assert "external cohort" in (tmp_path / "out" / "report.html").read_text()


def test_scalars_that_diffuse_are_answered_from_few_samples_and_from_many_too(
    tmp_path: Path,
) -> None:
    model = write_model_folder(tmp_path / "model", "diffusion")
    other = write_cohort(tmp_path / "other", ["sub-90 40 F", "sub-91 50 M", "sub-92 n/a M"])
    report = evaluate(model, other, tmp_path / "out", 2, 0, QUIET)
    assert [*report["scores"]["sex"]] == ["one evaluation", "2 samples, exact", "3 samples, exact"]
    assert report["coherence"] is None  # no law states what is not asked
    assert "Coherence" not in (tmp_path / "out" / "report.html").read_text()


def test_a_variable_that_the_cohort_does_not_have_is_not_scored_and_this_is_said(
    model: Path, tmp_path: Path
) -> None:
    rows = ["sub-90 F", "sub-91 F"]
    other = write_cohort(tmp_path / "other", rows, "participant_id sex")
    report = evaluate(model, other, tmp_path / "out", 2, 0, QUIET)
    assert report["left_out"] == ["age not scored: the cohort has no such column"]
    assert [*report["scores"]] == ["sex"]
    # One class only: no curve, and no page that fails on it.
    assert report["scores"]["sex"]["one evaluation"]["auroc"]["value"] is None


def test_a_cohort_without_any_truth_is_refused(model: Path, tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", ["sub-90 n/a n/a"])
    with pytest.raises(MetaVoxelError, match="none of the 1 records to score has a value for any"):
        evaluate(model, other, tmp_path / "out", 2, 0, QUIET)
    assert not (tmp_path / "out").exists()


def test_a_model_that_answers_by_sampling_is_compared_by_its_samples(
    bids: Path, tmp_path: Path
) -> None:
    model = write_model_folder(tmp_path / "sampling", "diffusion", point="samples")
    report = evaluate(model, bids, tmp_path / "out", 5, 0, QUIET)
    assert report["reference"] == "5 samples, exact"
    assert report["calibration"] == {}
    assert "coverage_50" in report["scores"]["age"]["5 samples, exact"]
    other = write_cohort(tmp_path / "other", ["sub-90 40 F", "sub-91 50 M"])
    alone = evaluate(model, other, tmp_path / "alone", 3, 0, QUIET)
    assert alone["gains"] == {"age": {}, "sex": {}}
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "no system beside 3 samples, exact" in page


def test_conformal_intervals_are_the_models_own_or_come_from_its_validation_subjects(
    model: Path, bids: Path, tmp_path: Path
) -> None:
    """An older model folder holds none; two validation subjects give the 50 % interval alone."""
    fitted = evaluate(model, bids, tmp_path / "fitted", 2, 0, QUIET)
    assert fitted["calibration"]["age"]["n"] == 2
    scores = fitted["scores"]["age"]["one evaluation"]
    assert "conformal_50" in scores
    assert "conformal_80" not in scores
    everything = calibrate(np.zeros(40), None, np.full(40, 1000.0))
    stored = {"one_evaluation": {"age": everything.to_json()}}
    (model / "calibration.json").write_text(json.dumps(stored))
    write_checksums(model)
    own = evaluate(model, bids, tmp_path / "own", 2, 0, QUIET)
    assert own["calibration"]["age"] == everything.to_json()
    assert own["scores"]["age"]["one evaluation"]["conformal_95"]["value"] == 1
    assert own["scores"]["age"]["one evaluation"]["conformal_width_90"]["value"] == 2000


def test_conformal_intervals_are_in_units_of_the_spread_that_an_answer_states(
    model: Path, bids: Path, tmp_path: Path
) -> None:
    """Whatever its distribution: the answers hold quantiles, too."""
    out = tmp_path / "out"
    own = calibrate(np.zeros(40), np.ones(40), np.full(40, 7.0))
    stored = {"one_evaluation": {"age": own.to_json()}}
    (model / "calibration.json").write_text(json.dumps(stored))
    write_checksums(model)
    scores = evaluate(model, bids, out, 2, 0, QUIET)["scores"]["age"]["one evaluation"]
    with np.load(out / "answers" / "one-evaluation.npz") as kept:
        assert kept["samples/age"].shape == (4, 100)
        spread, known = kept["spreads/age"], ~np.isnan(kept["points/age"])
    assert np.ptp(spread) < 0.2 * spread.mean() and known.all()
    assert scores["conformal_width_90"]["value"] == pytest.approx(14 * spread.mean(), rel=0.1)


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(
    bids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a system: what was answered is not asked again."""
    model = write_model_folder(tmp_path / "model", "diffusion")
    monkeypatch.setattr(systems, "BATCH", 4)  # one record of four samples at a time
    monkeypatch.setattr(systems, "_SAVE_EVERY", 0)
    whole = evaluate(model, bids, tmp_path / "whole", 4, 0, QUIET)
    asked: list[tuple[int, int]] = []
    answer = systems.answer

    def counted(*of: Any, **more: Any) -> systems.SystemAnswers:
        asked.append((int(of[4]), len(asked)))
        if len(asked) == 7 and not resumed:
            raise KeyboardInterrupt
        return answer(*of, **more)

    resumed = False
    monkeypatch.setattr(systems, "answer", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, bids, tmp_path / "out", 4, 0, QUIET)
    # One evaluation of all four records, four pieces of 3 samples; one of 4, and the one that fell.
    assert [count for count, _ in asked] == [0, 3, 3, 3, 3, 4, 4]
    assert not (tmp_path / "out" / "report.json").exists()
    resumed, asked[:] = True, []
    again = evaluate(model, bids, tmp_path / "out", 4, 0, QUIET)
    assert [count for count, _ in asked] == [4, 4, 4]
    for part in ("scores", "gains", "pit", "coherence"):
        assert again[part] == whole[part]
    asked.clear()
    evaluate(model, bids, tmp_path / "out", 4, 0, QUIET)
    assert asked == []


@pytest.mark.parametrize("changed", ["seed", "weights", "table", "scan"])
def test_answers_are_kept_for_the_same_model_cohort_and_seed_alone(
    changed: str, model: Path, bids: Path, tmp_path: Path
) -> None:
    evaluate(model, bids, tmp_path / "out", 2, 0, QUIET)
    kept = tmp_path / "out" / "answers" / "one-evaluation.npz"
    first, seed = kept.read_bytes(), 0
    if changed == "seed":
        seed = 1
    elif changed == "weights":
        write_model_folder(model)
    elif changed == "table":
        table = bids / "participants.tsv"
        table.write_text(table.read_text().replace("sub-08\t70", "sub-08\t71"))
    else:
        scan = bids / "sub-08" / "anat" / "sub-08_T1w.nii.gz"
        scan.write_bytes((bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").read_bytes())
    evaluate(model, bids, tmp_path / "out", 2, seed, QUIET)
    assert kept.read_bytes() != first


def test_a_damaged_file_of_answers_is_answered_again(
    model: Path, bids: Path, tmp_path: Path
) -> None:
    whole = evaluate(model, bids, tmp_path / "out", 2, 0, QUIET)
    for path in (tmp_path / "out" / "answers").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert evaluate(model, bids, tmp_path / "out", 2, 0, QUIET)["scores"] == whole["scores"]
