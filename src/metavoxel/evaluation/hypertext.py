"""What the pages of reports are made of: one HTML file, light or dark, no network, no scripts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from metavoxel.evaluation.scores import Score
from metavoxel.files.writing import atomic_write

_TEMPLATE = Path(__file__).with_name("page.html")


def write_html(path: Path, title: str, body: str) -> None:
    """A whole page. `title` is text, `body` HTML."""
    page = _TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("{{TITLE}}", html.escape(title)).replace("{{BODY}}", body)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def cell(score: Score) -> str:
    """A figure with its interval in small print."""
    value, _, ends = str(score).partition(" ")
    return f"{value} <small>{ends}</small>" if ends else value


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Head and cells are HTML."""
    cells = "".join(f"<th>{each}</th>" for each in head)
    lines = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="table"><table><tr>{cells}</tr>{lines}</table></div>'


def picture(title: str, fig: Figure, kind: str, attributes: str = "") -> str:
    """A figure inside the page, as "svg" or "png". It is closed."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format=kind, dpi=120)
    plt.close(fig)
    return _embedded(title, buffer.getvalue(), {"svg": "svg+xml"}.get(kind, kind), attributes)


def picture_file(title: str, path: Path, attributes: str = "") -> str:
    """A PNG file inside the page."""
    return _embedded(title, path.read_bytes(), "png", attributes)


def _embedded(title: str, data: bytes, kind: str, attributes: str) -> str:
    text = base64.b64encode(data).decode()
    return f'<img {attributes} alt="{html.escape(title)}" src="data:image/{kind};base64,{text}">'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """What a page says of itself; text."""
    rows = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(x)}</dd>" for k, x in pairs)
    return f"<dl>{rows}</dl>"
