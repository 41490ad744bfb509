"""The group level names every scan: measures and oddity, failures and what cannot be read."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from metavoxel.data.quality import Decision, append_decision
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.group import read_group
from metavoxel.preprocess.logs import write_status
from metavoxel.preprocess.report import MEASURES, run_group
from prepared import write_derivative, write_scan

FAILED = {"sub-90_T1w": "sub-90_T1w.nii.gz: the file is damaged (<script>alert(1)</script>)."}
QUIET = Console(quiet=True)


def rows_of(out: Path, suffix: str = "T1w") -> dict[str, dict[str, str]]:
    with (out / f"group_{suffix}.tsv").open() as file:
        return {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}


def data_of(out: Path) -> dict[str, dict]:
    """What the page shows, by scan."""
    text = (out / "group_T1w.html").read_text()
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return {row["scan"]: row for row in json.loads(found[1])["rows"]}


@pytest.fixture(scope="module")
def derivative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_derivative(tmp_path_factory.mktemp("report") / "out", 8, FAILED)
    line = Decision("sub-03", "n/a", "sub-03_T1w", "fail", "n/a", "ada", "2026-01-01T00:00:00Z")
    append_decision(out, line)
    run_group(out, QUIET)
    return out


def test_failures_come_first_and_then_the_oddest(derivative: Path) -> None:
    scans = read_group(derivative)
    assert scans[0].name == "sub-90_T1w" and scans[0].brain is None
    assert scans[1].name == "sub-08_T1w"  # a third of it is cut off
    assert scans[1].outlier_score > 2 * scans[2].outlier_score
    assert len(scans) == 9


def test_the_table_has_a_row_for_every_scan_and_describes_its_columns(derivative: Path) -> None:
    rows = rows_of(derivative)
    assert set(rows) == {f"sub-{n:02d}_T1w" for n in range(1, 9)} | set(FAILED)
    assert rows["sub-08_T1w"]["status"] == "prepared"
    assert rows["sub-08_T1w"]["notes"] == "already stripped"
    assert float(rows["sub-02_T1w"]["brain_volume"]) > 1000
    assert rows["sub-02_T1w"]["seconds"] == "22"
    assert (rows["sub-03_T1w"]["decision"], rows["sub-04_T1w"]["decision"]) == ("fail", "n/a")
    failed = rows["sub-90_T1w"]
    assert failed["status"] == "failed" and failed["reason"] == FAILED["sub-90_T1w"]
    assert failed["brain_volume"] == failed["outlier_score"] == failed["seconds"] == "n/a"
    described = json.loads((derivative / "group_T1w.json").read_text())
    assert list(described) == list(failed)
    assert all(column["Description"] for column in described.values())
    assert described["brain_volume"]["Units"] == "mL"


def test_every_measure_that_is_taken_is_described(derivative: Path) -> None:
    assert set(read_group(derivative)[-1].measures) == set(MEASURES)


def test_the_page_is_whole_in_itself_and_shows_every_scan(derivative: Path) -> None:
    text = (derivative / "group_T1w.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text and "{{" not in text
    rows = data_of(derivative)
    assert all(rows[f"sub-{n:02d}_T1w"]["tile"] for n in range(1, 9))
    assert "8 scans are prepared, 1 failed" in text


def test_a_reason_cannot_become_markup_nor_a_traceback(derivative: Path) -> None:
    text = (derivative / "group_T1w.html").read_text()
    assert "<script>alert" not in text and "Traceback" not in text
    assert data_of(derivative)["sub-90_T1w"]["reason"] == FAILED["sub-90_T1w"]


def test_what_cannot_be_read_has_its_sentence_and_stops_nothing(tmp_path: Path) -> None:
    out = write_derivative(tmp_path / "out", 4)
    damaged = write_scan(out, "sub-05", seed=5)
    damaged.brain.write_bytes(damaged.brain.read_bytes()[:2000])
    unmeasured = write_scan(out, "sub-06", seed=6)
    facts = json.loads(unmeasured.sidecar.read_text())
    facts["MetaVoxel"]["Measures"]["symmetry"] = None
    unmeasured.sidecar.write_text(json.dumps(facts))
    unreadable = write_scan(out, "sub-07", seed=7)
    unreadable.sidecar.write_text("{")
    write_status(out, "sub-08_T1w", status="running")
    (out / "logs" / "sub-09_T1w.json").write_text("{")
    run_group(out, QUIET)
    rows, shown = rows_of(out), data_of(out)
    assert "damaged, or not an image" in shown["sub-05_T1w"]["reason"]
    assert shown["sub-05_T1w"]["tile"] is None
    assert rows["sub-06_T1w"]["outlier_score"] == "inf"
    assert rows["sub-06_T1w"]["oddest_measure"] == "symmetry"
    assert "prepare the scan again" in rows["sub-07_T1w"]["reason"]
    assert "interrupted" in rows["sub-08_T1w"]["reason"]
    assert rows["sub-08_T1w"]["status"] == "unfinished"
    assert "log cannot be read" in rows["sub-09_T1w"]["reason"]
    assert all(shown[f"sub-0{n}_T1w"]["tile"] for n in (1, 2, 3, 4, 6))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "there is no derivative here"),
        (["dataset_description.json"], "no scan has been prepared here yet"),
    ],
)
def test_a_folder_without_scans_is_one_sentence(
    tmp_path: Path, files: list[str], said: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(MetaVoxelError, match=said):
        run_group(tmp_path, QUIET)


def test_a_page_of_ten_thousand_scans_can_be_sent_about(derivative: Path) -> None:
    rows = data_of(derivative)
    bytes_each = len(json.dumps(rows["sub-01_T1w"]))
    assert bytes_each * 10_000 < 100e6
