"""Web pages: one template and style, light or dark, nothing from the network. Text is escaped.

Whatever goes into an element is text and is escaped, unless it is `Html` already.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from metavoxel.files.writing import atomic_write

_TEMPLATE = Path(__file__).with_name("page.html")
_FIELD = re.compile(r"{{(\w+)}}")
_INTERVAL = re.compile(r"(.+) (\[[^\[\]]*\])")


class Html(str):
    """Text that is HTML already."""


def join(*parts: str) -> Html:
    """The parts one after the other, escaped where they are text."""
    return Html("".join(p if isinstance(p, Html) else html.escape(p) for p in parts))


def element(tag: str, *parts: str, **attributes: str) -> Html:
    """An element with its parts; `class_` stands for the attribute class."""
    said = "".join(f' {k.rstrip("_")}="{html.escape(x)}"' for k, x in attributes.items())
    return Html(f"<{tag}{said}>{join(*parts)}</{tag}>")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Html:
    """A table; an interval in brackets at the end of a cell of text is in small print."""
    lines = [join(*(element("td", small_interval(cell)) for cell in row)) for row in rows]
    heads = join(*(element("th", cell) for cell in head))
    body = join(*(element("tr", line) for line in [heads, *lines]))
    return element("div", element("table", body), class_="table")


def small_interval(text: str) -> Html:
    """Text whose interval in brackets, if it ends in one, is in small print."""
    found = None if isinstance(text, Html) else _INTERVAL.fullmatch(text)
    return join(found[1], " ", element("small", found[2])) if found else join(text)


def facts(pairs: Mapping[str, str]) -> Html:
    """Terms and what is said of each."""
    return element(
        "dl", *(element(t, x) for k, v in pairs.items() for t, x in (("dt", k), ("dd", v)))
    )


def picture(title: str, data: bytes, kind: str = "png") -> Html:
    """An image inside the page: `data` of a kind such as "png" or "svg+xml"."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Html(f'<img alt="{html.escape(title)}" src="{source}">')


def fill(template: Path, **parts: str) -> Html:
    """The template's HTML with its {{FIELDS}}, escaped where they are text."""
    text = template.read_text(encoding="utf-8")
    return Html(_FIELD.sub(lambda found: join(parts[found[1]]), text))


def write_page(path: Path, title: str, body: Iterable[Html], script: str = "") -> None:
    """A whole page; no other script than this one may run. Raises MetaVoxelError on a full disk."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = fill(
        _TEMPLATE,
        TITLE=title,
        BODY=Html("\n".join(body)),
        POLICY=Html(f"; script-src 'sha256-{digest}'" if script else ""),
        SCRIPT=Html(f"<script>{script}</script>" if script else ""),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
