"""Pages escape what is text, and run no script but their own."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from metavoxel.files.html import Html, element, facts, join, picture, table, write_page

EVIL = '<script>"&'
SAFE = "&lt;script&gt;&quot;&amp;"


def test_text_is_escaped_wherever_it_goes_and_only_once() -> None:
    assert element("p", EVIL, class_=EVIL) == f'<p class="{SAFE}">{SAFE}</p>'
    assert join(element("b", EVIL), EVIL) == f"<b>{SAFE}</b>{SAFE}"
    for made in (table([EVIL], [[EVIL]]), facts({EVIL: EVIL}), picture(EVIL, b"")):
        assert SAFE in made and EVIL not in made


def test_an_interval_that_ends_a_cell_is_small() -> None:
    made = table(["a"], [["5.1 [4, 6]"], ["5.1 ± 2 [4, 6]"], ["5 [4, 6] (of 8)"], [Html("1 [2]")]])
    assert re.findall("<td>(.*?)</td>", made) == [
        "5.1 <small>[4, 6]</small>",
        "5.1 ± 2 <small>[4, 6]</small>",
        "5 [4, 6] (of 8)",
        "1 [2]",
    ]


def test_a_page_allows_its_own_script_alone(tmp_path: Path) -> None:
    script = "alert('1 < 2')\n"
    write_page(tmp_path / "with.html", EVIL, [element("p", "{{SCRIPT}}")], script)
    text = (tmp_path / "with.html").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and f"<script>{script}</script>" in text
    assert f"<title>{SAFE}</title>" in text and "<p>{{SCRIPT}}</p>" in text
    write_page(tmp_path / "without.html", "a", [])
    assert "script" not in (tmp_path / "without.html").read_text()
