"""The page's server: what it tells, what it writes down, and whom it answers."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from metavoxel.cli import qc
from metavoxel.data.quality import Decision, append_decision, read_decisions
from metavoxel.errors import MetaVoxelError
from metavoxel.studio.loopback import listen
from metavoxel.studio.review import Review
from prepared import write_derivative, write_scan
from serving import Server, serving


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qc server") / "out"  # a space, as folders have
    write_derivative(folder, 4, {"sub-90_T1w": "a folder: there is no such file."})
    damaged = write_scan(folder, "sub-05", seed=5)
    damaged.brain.write_bytes(damaged.brain.read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def server(out: Path):
    with serving(out) as running:
        yield running


@pytest.fixture(autouse=True)
def _undecided(out: Path) -> None:
    (out / "qc.tsv").unlink(missing_ok=True)


def said(scan: str, decision: str, **more: object) -> dict[str, object]:
    return {"scan": scan, "decision": decision, "rater": "ada", **more}


def test_the_oddest_scan_comes_first_and_failures_have_their_reason(server: Server) -> None:
    status, told, _ = server.call("/api/scans")
    prepared = [s["scan"] for s in told["scans"] if s["prepared"]]
    assert status == 200 and prepared[0] == "sub-04_T1w" and len(prepared) == 5
    failed = next(s for s in told["scans"] if not s["prepared"])
    assert failed["reason"] == "a folder: there is no such file."


def test_a_view_has_three_planes_through_a_voxel_kept_inside(server: Server) -> None:
    status, view, _ = server.call("/api/view?scan=sub-01_T1w&at=-5,20,999")
    assert status == 200
    assert view["at"] == [0, 20, view["shape"][2] - 1]
    assert [p["name"] for p in view["planes"]] == ["sagittal", "coronal", "axial"]
    _, view, _ = server.call("/api/view?scan=sub-01_T1w")
    for plane in view["planes"]:
        assert plane["picture"].startswith("data:image/png;base64,")
        assert plane["mask"].startswith("M") and plane["template"].startswith("M")


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/view?scan=sub-05_T1w", 422, "damaged, or not"),
        ("/api/view?scan=sub-90_T1w", 422, "It was not prepared: a folder"),
        ("/api/view?scan=sub-77_T1w", 422, "there is no scan sub-77_T1w here"),
        ("/api/view?scan=../../etc/passwd", 422, "there is no scan ../../etc/passwd"),
        ("/api/view?scan=sub-01_T1w&at=1,2", 422, '"1,2" is no voxel'),
        ("/api/view?scan=sub-01_T1w&head=true", 422, "the raw scan is not there"),
        ("/api/volume/..%2f..%2fx/brain.nii.gz", 404, ""),
        ("/api/volume/sub-01_T1w/secret.nii.gz", 422, "part"),
        ("/api/view", 422, "scan: say which"),
        *(
            (f"/api/view?scan=sub-01_T1w&at={at}", 422, "is no voxel")
            for at in (
                "%D9%A3,1,1",
                "1,2,3,4",
                "1.5,1,1",
                "--5,1,1",
                "9999999,1,1",
                "9" * 5000 + ",1,1",
                "nan,1,1",
                "1e3,1,1",
                "+1,1,1",
                "1,1,1%0A",
                "1_0,1,1",
                "",
            )
        ),
        ("/api/view?scan=sub-01_T1w&scan=sub-02_T1w", 422, "stands twice"),
        ("/api/view?scan=sub-01_T1w&plane=1", 422, '"plane" is no parameter'),
        ("/api/view?scan=sub-01_T1w&head=yes", 422, "neither true nor false"),
        ("/api/view?scan=%00%ED%A0%80", 422, "there is no scan"),
        ("/api/decisions?seen=-1", 422, "is no whole number"),
        ("/api/decisions?seen=%D9%A3", 422, "is no whole number"),
        ("/api/decisions?seen=1_0", 422, "is no whole number"),
        ("/api/decisions?seen=" + "9" * 5000, 422, "is no whole number"),
        ("/api/decisions?seen=NaN", 422, "is no whole number"),
        ("/api/scans?x=1", 422, '"x" is no parameter'),
        ("/api/nothing", 404, "There is nothing at this address"),
        ("/api/scans/", 404, "There is nothing at this address"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    server: Server, path: str, status: int, sentence: str
) -> None:
    got, told, _ = server.call(path)
    assert got == status
    if sentence:
        assert sentence in told["error"] and "Traceback" not in told["error"]


def test_a_decision_is_in_the_file_when_the_answer_comes(server: Server, out: Path) -> None:
    status, told, _ = server.call("/api/decisions", said("sub-01_T1w", "fail", note=" a\tb\n"))
    made = read_decisions(out)
    assert status == 200 and told["seen"] == 1
    assert [(d.scan, d.decision, d.note, d.rater) for d in made] == [
        ("sub-01_T1w", "fail", "a b", "ada")
    ]
    assert told["decisions"][0]["time"] == made[0].time


@pytest.mark.parametrize(
    "body",
    [
        said("sub-01_T1w", "perhaps"),
        said("sub-77_T1w", "fail"),
        {"decision": "fail"},
        said("sub-01_T1w", "fail", note="x" * 5000),
        [],
    ],
)
def test_what_is_no_decision_is_not_written(server: Server, out: Path, body: object) -> None:
    status, told, _ = server.call("/api/decisions", body, "POST")
    assert status == 422 and told["error"]
    assert read_decisions(out) == []


ODD_BODIES = {
    "nothing": "",
    "no JSON": "{",
    "a key twice": '{"scan": "sub-01_T1w", "decision": "pass", "decision": "fail"}',
    "5,000 digits": '{"scan": "sub-01_T1w", "decision": "pass", "seen": ' + "9" * 5000 + "}",
    "a huge number": '{"scan": "sub-01_T1w", "decision": "pass", "seen": 99999999999999999999}',
    "a number as text": '{"scan": "sub-01_T1w", "decision": "pass", "seen": "3"}',
    "a fraction": '{"scan": "sub-01_T1w", "decision": "pass", "seen": 1.0}',
    "true for a number": '{"scan": "sub-01_T1w", "decision": "pass", "seen": true}',
    "NaN": '{"scan": "sub-01_T1w", "decision": "pass", "seen": NaN}',
    "a negative number": '{"scan": "sub-01_T1w", "decision": "pass", "seen": -1}',
    "an unknown key": '{"scan": "sub-01_T1w", "decision": "pass", "path": "/etc/passwd"}',
    "nests without end": "[" * 30_000,
    "half a character": '{"scan": "sub-01_T1w", "decision": "pass", "note": "\\ud800"}',
    "a zero byte": '{"scan": "sub-01_T1w", "decision": "pass"}\0',
    "a list for text": '{"scan": ["sub-01_T1w"], "decision": "pass"}',
    "null": '{"scan": "sub-01_T1w", "decision": null}',
}


@pytest.mark.parametrize("what", ODD_BODIES)
def test_odd_json_is_one_sentence(server: Server, out: Path, what: str) -> None:
    status, told, _ = server.send("/api/decisions", ODD_BODIES[what].encode())
    assert status == 422 and told["error"].endswith(".") and "Traceback" not in told["error"]
    assert not (out / "qc.tsv").exists()


def test_a_long_body_is_refused(server: Server, out: Path) -> None:
    status, told, _ = server.send("/api/decisions", b"x" * 100_000)
    assert (status, told) == (413, {"error": "A request has at most 64 KB here."})
    pieces = [b"x" * 10_000] * 10  # no length is told
    status, told, _ = server.send("/api/decisions", iter(pieces))
    assert (status, told) == (413, {"error": "A request has at most 64 KB here."})
    assert server.call("/api/decisions")[0] == 200  # it goes on


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused_in_the_page_s_own_form(server: Server, method: str) -> None:
    status, told, _ = server.call("/api/decisions", {}, method)
    assert (status, told) == (405, {"error": "This address is not asked in this way."})


def test_other_addresses_have_a_page_of_one_sentence(server: Server) -> None:
    for path in ("/nothing", "/qc.html", "/static/qc.js", "/%2e%2e/%2e%2e/etc/passwd", "/docs"):
        status, text, headers = server.call(path)
        assert status == 404 and b"There is nothing at this address." in text
        assert headers["content-type"].startswith("text/html")
    assert server.call("/qc.js", range="bytes=x")[0] == 200


def test_without_the_token_s_cookie_nothing_is_answered(server: Server) -> None:
    for path in ("/", "/qc.js", "/niivue.js", "/api/scans", "/api/volume/sub-01_T1w/brain.nii.gz"):
        assert server.call(path, cookie="")[0] == 403
    status, told, _ = server.call("/api/decisions", said("sub-01_T1w", "fail"), cookie="")
    assert status == 403 and "open the address" in told["error"]
    status, _, headers = server.call(f"/?token={server.token}", cookie="")
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"].startswith(server.cookie)


def test_a_link_out_of_the_derivative_is_not_followed(out: Path, tmp_path: Path) -> None:
    """Nor for the mask; what lies in the dataset's own annex is its own."""
    dataset = tmp_path / "sent"
    write_derivative(dataset, 3)
    secret = tmp_path / "secret.nii.gz"
    whole = write_scan(tmp_path / "other", "sub-01")
    whole.brain.rename(secret)
    brains = sorted(dataset.glob("sub-*/anat/*brain_T1w.nii.gz"))
    mask = next(dataset.glob("sub-02/anat/*_mask.nii.gz"))
    annexed = dataset / ".git" / "annex" / "objects" / "key.nii.gz"
    annexed.parent.mkdir(parents=True)
    brains[2].rename(annexed)
    for link, target in ((brains[0], secret), (mask, secret), (brains[2], annexed)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    (tmp_path / "link").symlink_to(dataset)  # the dataset itself may be one
    review = Review(tmp_path / "link")
    for scan in ("sub-01_T1w", "sub-02_T1w"):
        for ask in (review.files, lambda name: review.view(name, None, False)):
            with pytest.raises(MetaVoxelError, match="it is a link out of"):
                ask(scan)
    assert review.view("sub-03_T1w", None, False)["scan"] == "sub-03_T1w"


def test_the_lines_of_another_window_are_told_once(server: Server, out: Path) -> None:
    server.call("/api/decisions", said("sub-01_T1w", "fail"))
    other = Decision("sub-02", "n/a", "sub-02_T1w", "pass", "n/a", "bob", "2026-01-01T00:00:00Z")
    append_decision(out, other)  # as another process would
    _, told, _ = server.call("/api/decisions?seen=1")
    assert [d["rater"] for d in told["decisions"]] == ["bob"] and told["seen"] == 2
    _, told, _ = server.call("/api/decisions?seen=2")
    assert told["decisions"] == []


def test_an_undo_leaves_what_somebody_else_has_decided_since(server: Server, out: Path) -> None:
    _, first, _ = server.call("/api/decisions", said("sub-01_T1w", "fail"))
    mine = first["decisions"][0]["time"]
    server.call("/api/decisions", said("sub-01_T1w", "pass", rater="bob"))
    status, told, _ = server.call("/api/decisions", said("sub-01_T1w", "n/a", expected=mine))
    assert status == 409 and "judged since, by bob" in told["error"]
    assert [d.decision for d in read_decisions(out)] == ["fail", "pass"]


def test_windows_that_decide_at_once_lose_nothing(server: Server, out: Path) -> None:
    def judge(rater: str) -> None:
        for number in range(15):
            scan = f"sub-0{number % 4 + 1}_T1w"
            server.call("/api/decisions", said(scan, "pass", rater=rater, note=str(number)))

    windows = [threading.Thread(target=judge, args=(r,)) for r in ("ada", "bob", "eve")]
    for window in windows:
        window.start()
    for window in windows:
        window.join()
    made = read_decisions(out)
    for rater in ("ada", "bob", "eve"):
        assert [d.note for d in made if d.rater == rater] == [str(n) for n in range(15)]


def test_whatever_was_acknowledged_before_a_kill_is_in_the_file(out: Path) -> None:
    acknowledged: list[str] = []
    with serving(out) as doomed:

        def judge() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                for number in itertools.count():
                    status, told, _ = doomed.call(
                        "/api/decisions", said("sub-01_T1w", "pass", note=str(number))
                    )
                    assert status == 200
                    acknowledged.append(told["made"]["note"])

        window = threading.Thread(target=judge)
        window.start()
        while len(acknowledged) < 20:
            time.sleep(0.001)
        doomed.kill()  # between two lines, or in the middle of one
        window.join(30)
    made = [d.note for d in read_decisions(out)]
    assert made[: len(acknowledged)] == acknowledged
    assert len(made) <= len(acknowledged) + 1  # one may be written and its answer lost


def test_a_malformed_qc_table_is_said_on_the_page(server: Server, out: Path) -> None:
    (out / "qc.tsv").write_text("scan\tdecision\n")
    status, told, _ = server.call("/api/decisions")
    assert status == 422 and 'row 1: there is no column "participant_id"' in told["error"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "["])
def test_a_name_that_was_pointed_here_is_refused(server: Server, host: str) -> None:
    for path in ("/", "/api/scans", "/api/volume/sub-01_T1w/brain.nii.gz"):
        assert server.call(path, host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:9", "localhost"])
def test_this_machine_s_names_are_answered_on_any_port_of_a_tunnel(
    server: Server, host: str
) -> None:
    assert server.call("/api/decisions", host=host.format(port=server.port))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_site_cannot_decide(server: Server, out: Path, headers: dict[str, str]) -> None:
    status, _, _ = server.call("/api/decisions", said("sub-01_T1w", "pass"), **headers)
    assert status == 403
    assert read_decisions(out) == []


def test_another_site_cannot_look_but_a_link_can_be_followed(server: Server) -> None:
    picture = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}
    assert server.call("/api/view?scan=sub-01_T1w", None, "", **picture)[0] == 403
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    status, _, headers = server.call("/", None, "", **link)
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells")
def test_it_listens_on_loopback_only(server: Server) -> None:
    addresses = {  # that listen on this port, in hexadecimal
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == server.port
    }
    assert addresses == {f"0100007F:{server.port:04X}"}


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MetaVoxelError, match=f"Port {port} cannot be had"):
            listen(port)


def test_the_viewer_is_served_from_here_with_its_licence(server: Server) -> None:
    status, data, headers = server.call("/niivue.js")
    assert status == 200 and headers["content-encoding"] == "gzip" and len(data) > 500_000
    static = Path(__import__("metavoxel.studio.qc").studio.qc.__file__).with_name("static")
    assert "BSD 2-Clause" in (static / "niivue" / "LICENSE").read_text()


def test_a_decision_survives_the_disk_s_error_as_a_sentence(server: Server, out: Path) -> None:
    (out / "qc.tsv").mkdir()
    try:
        status, told, _ = server.call("/api/decisions", said("sub-01_T1w", "pass"))
    finally:
        (out / "qc.tsv").rmdir()
    assert status == 422 and "qc.tsv: this is a folder." in told["error"]
    assert json.dumps(told).count("Traceback") == 0


def test_without_its_parts_it_is_said_what_to_install(monkeypatch, tmp_path: Path) -> None:
    for name in [n for n in sys.modules if n.startswith("metavoxel.studio")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MetaVoxelError, match=r"needs fastapi.*pip install 'metavoxel\[qc\]'"):
        qc(tmp_path)


def test_a_folder_that_is_no_derivative_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match="there is no derivative here"):
        qc(tmp_path)
