"""What the page's server answers: JSON for the page itself, a sentence for whoever else asks."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

_FRESH = {"cache-control": "no-store"}  # scans may be prepared again while the page is open


class Json(JSONResponse):
    """JSON in ASCII: names of files may hold what is no Unicode."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def error_answer(
    path: str,
    status: int,
    sentence: str,
    headers: Mapping[str, str] | None = None,
    reload: bool = False,
) -> Response:
    """A sentence about what went wrong: {"error": ...} below /api, a page elsewhere.

    With `reload` the page asks for itself once more.
    """
    headers = {**_FRESH, **(headers or {})}
    if path == "/api" or path.startswith("/api/"):
        return Json({"error": sentence}, status, headers)
    again = '<meta http-equiv="refresh" content="0">' if reload else ""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8">{again}<title>metavoxel qc</title>'
        f"<p>{html.escape(sentence)}</p></html>\n",
        status,
        headers,
    )
