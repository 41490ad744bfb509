"""qc.tsv: nothing written is lost, nothing malformed is believed, failed scans are left out."""

from __future__ import annotations

import multiprocessing
import os
import resource
from pathlib import Path

import pytest

from folders import AGE, schema, write_bids
from killed import every_kill
from metavoxel.data.bids import read_cohort
from metavoxel.data.quality import (
    Decision,
    append_decision,
    failed_scans,
    last_decisions,
    mend_decisions,
    read_decisions,
    withdraw_decision,
)
from metavoxel.errors import MetaVoxelError

HEADER = "participant_id\tsession_id\tscan\tdecision\tnote\trater\ttime\n"
TIME = "2026-01-02T03:04:05.678+00:00"


def decision(scan: str, what: str, note: str = "n/a", rater: str = "ada") -> Decision:
    return Decision(scan.partition("_")[0], "n/a", scan, what, note, rater, TIME)


def line(scan: str, what: str) -> str:
    return f"{scan.partition('_')[0]}\tn/a\t{scan}\t{what}\tn/a\tada\t{TIME}\n"


def _append_many(root: str, rater: str, count: int) -> None:
    for number in range(count):
        append_decision(Path(root), decision(f"sub-{number:03d}_T1w", "pass", "x" * 200, rater))


def test_what_is_appended_is_read_again_and_the_last_line_counts(tmp_path: Path) -> None:
    made = [
        decision("sub-01_T1w", "pass"),
        decision("sub-02_T1w", "fail", 'cut off, "badly"'),
        decision("sub-01_T1w", "fail"),
        decision("sub-02_T1w", "n/a"),
    ]
    for each in made:
        append_decision(tmp_path, each)
    assert read_decisions(tmp_path) == made
    assert {s: d.decision for s, d in last_decisions(made).items()} == {
        "sub-01_T1w": "fail",
        "sub-02_T1w": "n/a",
    }
    assert failed_scans(tmp_path) == {"sub-01_T1w"}


def test_without_the_file_or_in_an_empty_one_nothing_has_failed(tmp_path: Path) -> None:
    assert failed_scans(tmp_path) == set()
    (tmp_path / "qc.tsv").touch()  # a process may die between making it and its first line
    assert failed_scans(tmp_path) == set()
    append_decision(tmp_path, decision("sub-01_T1w", "fail"))
    assert failed_scans(tmp_path) == {"sub-01_T1w"}


def test_a_decision_is_taken_back_once_and_only_where_there_is_one(tmp_path: Path) -> None:
    append_decision(tmp_path, decision("sub-01_T1w", "fail"))
    for scan in ("sub-01_T1w", "sub-01_T1w", "sub-02_T1w"):
        withdraw_decision(tmp_path, scan, "prepared again", "preprocess")
    assert [(d.scan, d.decision, d.note, d.rater) for d in read_decisions(tmp_path)] == [
        ("sub-01_T1w", "fail", "n/a", "ada"),
        ("sub-01_T1w", "n/a", "prepared again", "preprocess"),
    ]


def test_tabs_and_line_breaks_in_a_note_stay_in_its_cell(tmp_path: Path) -> None:
    append_decision(tmp_path, decision("sub-01_T1w", "fail", "a\tb\nc\r\n d"))
    assert [d.note for d in read_decisions(tmp_path)] == ["a b c d"]


def test_raters_at_the_same_time_lose_no_line_and_tear_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    raters = [context.Process(target=_append_many, args=(str(tmp_path), r, 40)) for r in "abc"]
    for rater in raters:
        rater.start()
    for rater in raters:
        rater.join(60)
    told = read_decisions(tmp_path)
    assert {r: [d.scan for d in told if d.rater == r] for r in "abc"} == {
        r: [f"sub-{n:03d}_T1w" for n in range(40)] for r in "abc"
    }


TORN = [
    b"sub-02\tn/a\tsub-02_",
    b"s",
    b"sub-02\tn/a\tsub-02_T1w\tfail\tgr\xc3",
    b"sub-02\tn/a\tsub-02_T1w\tfail\tn/a\tada\t\0\0\0\0",
    b"\0" * 4096,
]


@pytest.mark.parametrize("torn", TORN)
def test_a_line_torn_by_a_power_failure_is_kept_beside_and_said(
    tmp_path: Path, torn: bytes
) -> None:
    path = tmp_path / "qc.tsv"
    path.write_bytes((HEADER + line("sub-01_T1w", "pass")).encode() + torn)
    told = append_decision(tmp_path, decision("sub-03_T1w", "fail"))
    assert "qc.tsv: its last line was cut short and does not count" in told
    assert [d.scan for d in read_decisions(tmp_path)] == ["sub-01_T1w", "sub-03_T1w"]
    assert (tmp_path / "qc.tsv.unfinished").read_bytes() == torn + b"\n"
    path.write_bytes(path.read_bytes() + b"again")
    assert mend_decisions(tmp_path) and not mend_decisions(tmp_path)
    assert (tmp_path / "qc.tsv.unfinished").read_bytes() == torn + b"\nagain\n"
    assert [d.scan for d in read_decisions(tmp_path)] == ["sub-01_T1w", "sub-03_T1w"]


@pytest.mark.parametrize("torn", ["p", "participant_id\tsess", HEADER[:-1]])
def test_a_header_that_was_cut_short_is_begun_again(tmp_path: Path, torn: str) -> None:
    (tmp_path / "qc.tsv").write_text(torn)
    append_decision(tmp_path, decision("sub-01_T1w", "fail"))
    assert failed_scans(tmp_path) == {"sub-01_T1w"}


FOREIGN = {
    "a CSV": b"scan,decision\nsub-01_T1w,fail",
    "a CSV of one line": b"scan,decision,comment,by,at,why,where",
    "another table": b"subject\tqc\nsub-01\tgood\nsub-02\tbad",
    "other columns": b"scan\tdecision\nsub-01_T1w\tpass\n",
    "UTF-16": (HEADER + "sub-01").encode("utf-16"),
    "Latin-1": HEADER.encode()
    + "sub-01\tn/a\tsub-01_T1w\tpass\tüber\tada\tn/a\n".encode("latin-1"),
    "zero bytes": HEADER.encode() + b"sub-01\tn/a\tsub-01_T1w\tpass\t\0\0\tada\tn/a\n" + b"cut",
    "a wrong row": HEADER.encode() + b"sub-01 pass\ncut",
    "a wrong last row": HEADER.encode() + line("sub-01_T1w", "maybe").encode()[:-1],
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_that_is_no_table_of_decisions_is_never_changed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "qc.tsv"
    path.write_bytes(FOREIGN[what])
    for change in (
        mend_decisions,
        lambda root: append_decision(root, decision("sub-1_T1w", "fail")),
    ):
        with pytest.raises(MetaVoxelError, match=r"qc\.tsv"):
            change(tmp_path)
    assert path.read_bytes() == FOREIGN[what]
    assert [p.name for p in tmp_path.iterdir()] == ["qc.tsv"]


@pytest.mark.parametrize("what", ["a folder", "a link to nothing", "a link in a circle"])
def test_what_is_no_file_is_not_taken_for_an_absent_one(tmp_path: Path, what: str) -> None:
    path = tmp_path / "qc.tsv"
    if what == "a folder":
        path.mkdir()
    else:
        path.symlink_to("annexed" if what == "a link to nothing" else "qc.tsv")
    for use in (
        failed_scans,
        mend_decisions,
        lambda root: append_decision(root, decision("sub-01_T1w", "fail")),
    ):
        with pytest.raises(MetaVoxelError, match=r"qc\.tsv"):
            use(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["qc.tsv"]


def test_a_table_that_a_spreadsheet_saved_is_read_and_added_to(tmp_path: Path) -> None:
    """A byte order mark, and CRLF at the end of every line, the last one too."""
    text = "\ufeff" + HEADER + line("sub-01_T1w", "fail") + line("sub-02_T1w", "pass")
    (tmp_path / "qc.tsv").write_bytes(text.replace("\n", "\r\n").encode())
    assert mend_decisions(tmp_path) == ""
    assert append_decision(tmp_path, decision("sub-02_T1w", "fail")) == ""
    assert failed_scans(tmp_path) == {"sub-01_T1w", "sub-02_T1w"}


NAMES = ["sub-01_acq-a  b_T1w", "sub-01_acq-a\u00a0\u00a0b_T1w", "sub-01_acq-ü脳_T1w", "'=1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_decision_counts_whatever_the_scan_is_called(tmp_path: Path, name: str) -> None:
    append_decision(tmp_path, decision(name, "fail"))
    assert failed_scans(tmp_path) == {name}


@pytest.mark.parametrize(
    "name", ["a\tb", "a\nb", "a\rb", " a", "a ", "\u00a0a", "a\0b", "a\x1cb", "a\udc80", ""]
)
def test_a_name_that_fits_no_cell_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MetaVoxelError, match=r"cannot stand in qc\.tsv.*Rename the scan"):
        append_decision(tmp_path, decision(name, "fail"))
    assert not list(tmp_path.iterdir())


FORMULAS = ["=1+1", "+49 89", "-5 dB", "@here", "'=1", "''=1", '"=HYPERLINK(1)"', "＝1", "'\"+"]


@pytest.mark.parametrize("note", FORMULAS)
def test_what_a_spreadsheet_would_run_is_text_there_and_the_same_here(
    tmp_path: Path, note: str
) -> None:
    append_decision(tmp_path, decision("sub-01_T1w", "fail", note, rater=note))
    cells = (tmp_path / "qc.tsv").read_text().splitlines()[1].split("\t")
    assert cells[4] == cells[5] == f"'{note}"
    assert [(d.note, d.rater) for d in read_decisions(tmp_path)] == [(note, note)]


@pytest.mark.parametrize("note", ["'tis cut", "''", "'", "n/a", "a=b", '"quoted"', "5 - 3"])
def test_other_notes_stand_as_they_are(tmp_path: Path, note: str) -> None:
    append_decision(tmp_path, decision("sub-01_T1w", "fail", note))
    assert f"\t{note}\t" in (tmp_path / "qc.tsv").read_text()
    assert [d.note for d in read_decisions(tmp_path)] == [note]


def test_characters_that_are_no_text_do_not_reach_the_file(tmp_path: Path) -> None:
    append_decision(tmp_path, decision("sub-01_T1w", "fail", "a\0b\x07c\ud800d\x85e"))
    assert [d.note for d in read_decisions(tmp_path)] == ["a b c d e"]


def test_a_killed_writer_costs_no_line_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "qc.tsv"
    for _ in every_kill(lambda: append_decision(tmp_path, decision("sub-02_T1w", "fail"))):
        assert set(failed_scans(tmp_path)) <= {"sub-02_T1w"}
    path.write_text(HEADER + line("sub-01_T1w", "fail") + "torn")
    for _ in every_kill(lambda: append_decision(tmp_path, decision("sub-02_T1w", "fail"))):
        kept = path.read_text() + "".join(p.read_text() for p in tmp_path.glob("*.unfinished"))
        assert line("sub-01_T1w", "fail") in kept and "torn" in kept


def test_a_file_that_an_editor_left_without_a_last_line_break_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "qc.tsv").write_text((HEADER + line("sub-01_T1w", "fail")).rstrip("\n"))
    append_decision(tmp_path, decision("sub-02_T1w", "fail"))
    assert failed_scans(tmp_path) == {"sub-01_T1w", "sub-02_T1w"}


def _append_to_full_disk(root: str) -> None:
    size = (Path(root) / "qc.tsv").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))  # room for half a line
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        append_decision(Path(root), decision("sub-02_T1w", "fail"))
    except MetaVoxelError as error:
        os._exit(7 if "qc.tsv cannot be written" in str(error) else 1)
    os._exit(0)


def test_on_a_full_disk_the_file_stays_whole_and_it_is_said(tmp_path: Path) -> None:
    append_decision(tmp_path, decision("sub-01_T1w", "fail"))
    before = (tmp_path / "qc.tsv").read_bytes()
    process = multiprocessing.get_context("fork").Process(
        target=_append_to_full_disk, args=(str(tmp_path),)
    )
    process.start()
    process.join(30)
    assert process.exitcode == 7
    assert (tmp_path / "qc.tsv").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("participant_id\tscan\n", 'qc.tsv, row 1: there is no column "session_id"'),
        ("\n", 'qc.tsv, row 1: there is no column "participant_id"'),
        (
            HEADER + line("sub-01_T1w", "pass") + line("sub-02_T1w", "maybe"),
            'qc.tsv, row 3, column "decision": "maybe" is no decision',
        ),
        (HEADER + "sub-01 pass\n", "qc.tsv, row 2: 1 cells where the header has 7"),
        (HEADER + line("n/a", "pass"), 'qc.tsv, row 2, column "scan": it is empty'),
    ],
)
def test_a_malformed_file_is_named_with_row_and_column(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "qc.tsv").write_text(text)
    with pytest.raises(MetaVoxelError) as error:
        failed_scans(tmp_path)
    assert said in str(error.value)


def test_nothing_is_added_under_other_columns(tmp_path: Path) -> None:
    (tmp_path / "qc.tsv").write_text("scan\tdecision\nsub-01_T1w\tpass\n")
    with pytest.raises(MetaVoxelError, match="row 1: decisions are added under the columns"):
        append_decision(tmp_path, decision("sub-01_T1w", "fail"))


ROWS = ["participant_id age", "sub-01 40", "sub-02 50", "sub-03 60"]
SCHEMA = schema(age=AGE)


def with_image(root: Path) -> dict[str, str]:
    cohort = read_cohort(root, SCHEMA)
    images = {r.id: r.values.get("image") for r in cohort.records}
    return {i: p.name for i, p in images.items() if isinstance(p, Path)}


def test_a_failed_scan_is_as_if_it_were_not_there_and_its_row_stays(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ROWS, ["sub-01_T1w", "sub-02_T1w", "sub-03_T1w"])
    text = HEADER + line("sub-01_T1w", "fail") + line("sub-02_T1w", "fail")
    (root / "qc.tsv").write_text(text + line("sub-02_T1w", "pass") + line("sub-09_T1w", "fail"))
    cohort = read_cohort(root, SCHEMA)
    assert {r.id: sorted(r.values) for r in cohort.records} == {
        "sub-01": ["age"],
        "sub-02": ["age", "image"],
        "sub-03": ["age", "image"],
    }
    told = [w for w in cohort.warnings if "quality control" in w]
    assert told == ["1 scans failed quality control and are left out (such as sub-01_T1w)."]


def test_a_decision_holds_for_the_derivative_of_the_raw_scan(tmp_path: Path) -> None:
    names = [f"sub-0{i}_ses-1_space-MNI_res-2_desc-brain_T1w" for i in (1, 2)]
    root = write_bids(tmp_path, ROWS, names)
    (root / "qc.tsv").write_text(HEADER + line("sub-02_ses-1_T1w", "fail"))
    assert with_image(root) == {"sub-01_ses-1": f"{names[0]}.nii.gz"}


def test_another_run_takes_the_place_of_one_that_failed(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ROWS[:2], ["sub-01_run-1_T1w", "sub-01_run-2_T1w"])
    (root / "qc.tsv").write_text(HEADER + line("sub-01_run-1_T1w", "fail"))
    assert with_image(root) == {"sub-01": "sub-01_run-2_T1w.nii.gz"}


def test_a_cohort_of_which_every_scan_failed_is_refused(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ROWS[:2], ["sub-01_T1w"])
    (root / "qc.tsv").write_text(HEADER + line("sub-01_T1w", "fail"))
    with pytest.raises(MetaVoxelError, match=r"qc\.tsv: all 1 scans failed quality control"):
        read_cohort(root, SCHEMA)
