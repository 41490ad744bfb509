"""The page as a person uses it: a real Chromium, a real keyboard, a real server that may die."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from metavoxel.data.quality import last_decisions, read_decisions
from metavoxel.preprocess.report import run_group
from prepared import write_derivative, write_scan
from serving import Server, chromium, serving

SCANS = 12
VIEW = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def derivative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qc") / "out"
    write_derivative(out, SCANS, {"sub-90_T1w": "sub-90_T1w.nii.gz: every voxel is 0."})
    damaged = write_scan(out, "sub-80", seed=3)
    damaged.brain.write_bytes(b"no image")
    return out


@pytest.fixture(scope="module")
def server(derivative: Path) -> Iterator[Server]:
    with serving(derivative) as running:
        yield running


@pytest.fixture
def out(derivative: Path) -> Path:
    (derivative / "qc.tsv").unlink(missing_ok=True)
    return derivative


class Window:
    """One window of the page. Whatever it asks for elsewhere, or throws, is an error."""

    def __init__(self, browser, url: str, own_clock: bool = False) -> None:
        self.page = browser.new_page(viewport=VIEW)
        if own_clock:
            self.page.clock.install()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._check(request.url, url.partition("?")[0]))
        self.page.goto(url)
        self.wait_for_picture()

    def _check(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.errors.append(f"asked for {asked}")

    def wait_for_picture(self) -> None:
        """Until the scan on the screen can be judged."""
        self.until("folder !== '' && (current === null || drawn === current)")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true on the page. (The page's own policy forbids eval, which
        playwright's wait_for_function needs.)"""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"still not true: {expression}"
            self.page.wait_for_timeout(20)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def judge(self, key: str) -> str:
        """Judge the scan on the screen by a key, and wait for the next; the name of the first."""
        name = self.name
        self.press(key)
        self.until(f"current !== '{name}'")
        self.wait_for_picture()
        return name

    @property
    def name(self) -> str:
        return self.page.inner_text("#name")

    @property
    def judged(self) -> str:
        return self.page.inner_text("#judged")

    def count(self, filter_name: str) -> int:
        return int(self.page.inner_text(f'[data-filter="{filter_name}"] b'))


@pytest.fixture
def window(browser, server: Server, out: Path) -> Iterator[Window]:
    opened = Window(browser, server.url)
    yield opened
    opened.page.close()
    assert opened.errors == []


def written(out: Path) -> dict[str, str]:
    return {s: d.decision for s, d in last_decisions(read_decisions(out)).items()}


def test_ten_scans_are_judged_by_keyboard_undone_and_there_after_a_reload(
    window: Window, out: Path
) -> None:
    meant = {"p": "pass", "f": "fail", "u": "unsure"}
    truth = {window.judge(key): meant[key] for key in "ppfpupfppu"}
    assert len(truth) == 10 and written(out) == truth
    assert window.judged == f"10 of {SCANS + 1} judged"

    undone = list(truth)[-1]
    window.press("z")
    window.until(f"current === '{undone}'")
    truth[undone] = "n/a"
    assert written(out) == truth
    assert len(read_decisions(out)) == 11  # nothing is ever taken out of the file

    window.page.reload()
    window.wait_for_picture()
    assert window.name == undone
    assert window.judged == f"9 of {SCANS + 1} judged"
    found = {f: window.count(f) for f in ("undecided", "failed", "unsure", "passed", "all")}
    assert found == {"undecided": 4, "failed": 2, "unsure": 1, "passed": 6, "all": 13}

    window.press("z")  # undo goes on across the reload
    window.until(f"current === '{list(truth)[-2]}'")
    assert written(out)[list(truth)[-2]] == "n/a"


def test_a_scan_that_was_judged_twice_is_undone_twice(window: Window, out: Path) -> None:
    scan = window.judge("p")
    window.press("g")
    window.page.keyboard.type(scan)
    window.press("Enter")
    window.until(f"current === '{scan}'")
    window.wait_for_picture()
    window.judge("f")
    for before in ("pass", "n/a"):
        window.press("z")
        window.until(f"decided('{scan}') === '{before}'")
    assert [d.decision for d in read_decisions(out)] == ["pass", "fail", "pass", "n/a"]


def test_a_server_killed_in_the_middle_loses_nothing_and_the_page_goes_on(
    browser, out: Path
) -> None:
    first = Server(out)
    window = Window(browser, first.url)
    try:
        truth = {window.judge(key): "pass" for key in "ppp"}
        first.kill()
        window.press("f")
        window.page.wait_for_selector("#trouble:not([hidden])")
        assert "The server does not answer" in window.page.inner_text("#trouble")
        assert written(out) == truth
        unjudged = window.name

        with serving(out, first.port):
            window.page.wait_for_selector("#trouble", state="hidden", timeout=90_000)
            window.wait_for_picture()
            assert window.name == unjudged  # what was not written down was not passed over
            truth[window.judge("f")] = "fail"
            assert written(out) == truth
            window.page.reload()
            window.wait_for_picture()
            assert window.judged == f"4 of {SCANS + 1} judged"
    finally:
        first.kill()
        window.page.close()


@pytest.mark.parametrize("keys", [[], ["ArrowRight"]], ids=["nothing", "another scan"])
def test_the_page_goes_on_though_no_poll_met_the_silent_server(
    browser, out: Path, keys: list[str]
) -> None:
    """A decision alone finds the server silent; it is back, and may have shown another scan, before
    the page asks again. The page's clock stands still meanwhile: no poll can come between."""
    first = Server(out)
    window = Window(browser, first.url, own_clock=True)
    try:
        window.page.clock.pause_at(window.page.evaluate("Date.now() + 1000"))
        window.page.wait_for_load_state("networkidle")
        first.kill()
        window.press("f")
        window.page.wait_for_selector("#trouble:not([hidden])")
        with serving(out, first.port):
            window.press(*keys)
            window.until("drawn === current && !unanswered" if keys else "unanswered")
            assert window.page.is_visible("#trouble")  # nothing was polled yet
            window.page.clock.run_for(window.page.evaluate("POLL_MS"))
            window.page.wait_for_selector("#trouble", state="hidden", timeout=20_000)
            assert written(out) == {}
            window.wait_for_picture()
            judged = window.judge("f")
            assert written(out) == {judged: "fail"}
    finally:
        first.kill()
        window.page.close()
    assert window.errors == []


def test_two_windows_see_each_other_and_undo_only_their_own(browser, server: Server, out: Path):
    one, two = Window(browser, server.url), Window(browser, server.url)
    two.page.fill("#rater", "bob")
    two.page.press("#rater", "Enter")
    first = one.judge("p")
    assert two.name == first  # it does not know yet
    two.judge("f")
    one.until(f"decided('{first}') === 'fail'")
    one.press("z")
    one.page.wait_for_selector("#trouble:not([hidden])")
    assert "judged since, by bob" in one.page.inner_text("#trouble")
    assert [d.decision for d in read_decisions(out)] == ["pass", "fail"]
    two.press("z")
    two.until(f"decided('{first}') === 'pass'")
    assert written(out) == {first: "pass"}
    one.page.close()
    two.page.close()
    assert one.errors == two.errors == []


def test_a_note_goes_with_its_scan(window: Window, out: Path) -> None:
    first = window.name
    window.press("n")
    window.page.keyboard.type("cut off; p f u z")  # letters here are no keys
    window.press("Enter")
    window.until(f"noteOf(last.get('{first}')) !== ''")
    assert [(d.decision, d.note) for d in read_decisions(out)] == [("n/a", "cut off; p f u z")]
    window.judge("f")
    assert [(d.decision, d.note) for d in read_decisions(out)][-1] == ("fail", "cut off; p f u z")
    assert window.page.input_value("#note") == ""
    second = window.name
    window.press("n")
    window.page.keyboard.type("fine")
    window.page.click("#decide .pass")  # without leaving the note first
    window.until(f"decided('{second}') === 'pass'")
    assert last_decisions(read_decisions(out))[second].note == "fine"


def test_jump_filters_and_what_was_not_prepared(window: Window) -> None:
    window.press("g")
    window.page.keyboard.type("sub-07_T1w")
    window.press("Enter")
    window.until("current === 'sub-07_T1w'")
    window.wait_for_picture()
    window.judge("u")
    window.press("3")
    window.until("current === 'sub-07_T1w'")
    window.press("6")
    window.until("current === 'sub-90_T1w'")
    window.wait_for_picture()
    assert window.page.inner_text("#sentence") == (
        "It was not prepared: sub-90_T1w.nii.gz: every voxel is 0."
    )
    assert window.page.is_disabled("#decide .pass")
    window.press("5", "g")
    window.page.keyboard.type("80")
    window.press("Enter")
    window.until("current === 'sub-80_T1w'")
    window.wait_for_picture()
    assert "not an image that can be read" in window.page.inner_text("#sentence")


def test_outlines_switch_and_slices_move(window: Window) -> None:
    page = window.page
    assert page.locator(".plane").count() == 3
    assert page.locator("path.mask:visible").count() == 3
    window.press("m")
    assert page.locator("path.mask:visible").count() == 0
    assert page.locator("path.template:visible").count() == 3
    window.press("t")
    assert page.locator("path.template:visible").count() == 0
    before = page.inner_text("[data-plane=axial] .where")
    window.press("ArrowUp")
    window.until(f"document.querySelector('[data-plane=axial] .where').textContent !== '{before}'")
    window.press("r")
    window.until(f"document.querySelector('[data-plane=axial] .where').textContent === '{before}'")
    window.press("h")  # there is no raw dataset here: it is said, and the brain stays
    page.wait_for_selector("#trouble:not([hidden])")
    assert "the raw scan is not there" in page.inner_text("#trouble")
    window.until("document.querySelectorAll('.plane').length === 3 && !switches.head")
    at = page.evaluate("at")
    page.locator("[data-plane=axial] svg").click(position={"x": 60, "y": 80})
    window.until(f"at[0] !== {at[0]} && at[1] !== {at[1]} && at[2] === {at[2]}")


def test_a_closer_look_needs_no_network(window: Window) -> None:
    window.press("v")
    window.until("document.querySelector('#closer span').textContent.includes('wheel')")
    window.press("p")  # judging needs the page itself
    assert window.page.is_visible("#closer")
    window.press("v")
    assert not window.page.is_visible("#closer")
    assert window.judged.startswith("0 of")


def test_the_group_report_sorts_searches_and_shows_every_brain(browser, out: Path) -> None:
    run_group(out, Console(quiet=True))
    page = browser.new_page(viewport=VIEW)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((out / "group_T1w.html").as_uri())
    names = page.locator("#scans tbody td:nth-child(2)")
    assert names.count() == SCANS + 1
    assert names.first.inner_text() == f"sub-{SCANS}_T1w"
    page.click("th button:text-is('brain volume')")
    column = page.locator("#scans tbody td:nth-child(5)").all_inner_texts()
    assert column == sorted(column, key=float, reverse=True)
    page.click("#as-wall")
    assert page.locator("#scans .wall figure").count() == SCANS + 1
    assert page.locator("#scans .wall svg.tile").count() == SCANS
    page.fill("#search", "sub-03")
    assert page.locator("#scans .wall figure").count() == 1
    assert "every voxel is 0" in page.inner_text("#failures")
    page.close()
    assert errors == []
