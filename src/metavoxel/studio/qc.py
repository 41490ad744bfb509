"""metavoxel qc: one scan a screen, a key a decision."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from rich.console import Console
from rich.markup import escape

from metavoxel.data.quality import QC_TABLE
from metavoxel.errors import MetaVoxelError
from metavoxel.studio.loopback import address, listen, serve
from metavoxel.studio.review import ConflictError, Review, as_json

_STATIC = Path(__file__).with_name("static")
_PAGE = ("qc.html", "qc.js", "planes.js", "closer.js", "qc.css")
_FRESH = {"cache-control": "no-store"}  # scans may be prepared again while the page is open


class Judgement(BaseModel):
    """What the page sends. `expected` is given by undo only: the time of the line it undoes."""

    scan: str = Field(max_length=500)
    decision: Literal["pass", "fail", "unsure", "n/a"]
    note: str = Field(default="", max_length=2000)
    rater: str = Field(default="", max_length=100)
    expected: str | None = Field(default=None, max_length=100)
    seen: int = Field(default=0, ge=0)


def run_qc(out: Path, port: int, browser: bool, console: Console) -> None:
    """Serve the page for a derivative until interrupted. Raises MetaVoxelError."""
    app = create_app(Review(out))
    with listen(port) as bound:
        console.print(f"Quality control of {escape(str(out))}: {address(bound)}", soft_wrap=True)
        console.print(f"Decisions are kept in {QC_TABLE} as they are made. Ctrl+C ends it.")
        serve(app, bound, browser)


def create_app(review: Review) -> FastAPI:
    """The page and what it asks for."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _answer_errors(app)
    _serve_page(app)

    @app.get("/api/scans")
    def scans() -> dict[str, Any]:
        lines = review.decisions()
        return {
            "folder": str(review.out),
            "rater": _login(),
            "scans": review.listing(),
            "decisions": [as_json(d) for d in lines],
            "seen": len(lines),
        }

    @app.get("/api/decisions")
    def decisions(seen: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        return _since(review, seen)

    @app.post("/api/decisions")
    def decide(said: Judgement) -> dict[str, Any]:
        made = review.decide(said.scan, said.decision, said.note, said.rater, said.expected)
        return {"made": as_json(made), **_since(review, said.seen)}

    @app.get("/api/view")
    def view(scan: str, at: str | None = None, head: bool = False) -> dict[str, Any]:
        return review.view(scan, _voxel(at), head)

    @app.get("/api/volume/{scan}/{part}.nii.gz")
    def volume(scan: str, part: Literal["brain", "mask"]) -> FileResponse:
        brain, mask = review.files(scan)
        path = brain if part == "brain" else mask
        if not path.is_file():
            raise MetaVoxelError(f"{path}: there is no such file. Prepare the scan again.")
        return FileResponse(path, media_type="application/octet-stream")

    return app


def _serve_page(app: FastAPI) -> None:
    def page(name: str) -> Any:
        return lambda: FileResponse(_STATIC / name, headers=_FRESH)

    for name in _PAGE:
        app.get("/" if name == "qc.html" else f"/{name}", include_in_schema=False)(page(name))

    @app.get("/niivue.js", include_in_schema=False)
    def niivue() -> Response:
        # It is stored compressed, at a third of its size; every browser unpacks it.
        packed = (_STATIC / "niivue" / "niivue.umd.js.gz").read_bytes()
        return Response(packed, 200, {"content-encoding": "gzip"}, "text/javascript")


def _answer_errors(app: FastAPI) -> None:
    """One sentence for whatever goes wrong, as JSON: {"error": ...}."""

    @app.exception_handler(MetaVoxelError)
    def told(_: Any, error: MetaVoxelError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(ConflictError)
    def conflict(_: Any, error: ConflictError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 409)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Any, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{place}: {first['msg']}."}, 422)

    @app.exception_handler(Exception)
    def unforeseen(_: Any, error: Exception) -> JSONResponse:
        said = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {said[0] if said else 'no reason given'}"
        return JSONResponse({"error": f"This went wrong: {reason}. The terminal says more."}, 500)


def _since(review: Review, seen: int) -> dict[str, Any]:
    every = review.decisions()
    shortened = seen > len(every)  # by hand, while the page is open: all of it again
    start = 0 if shortened else seen
    return {
        "decisions": [as_json(d) for d in every[start:]],
        "from": start,
        "seen": len(every),
        "shortened": shortened,
    }


def _voxel(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(p.lstrip("-").isdecimal() for p in parts):
        raise MetaVoxelError(f'"{text}" is no voxel. Give three whole numbers, as 48,56,48.')
    return [int(p) for p in parts]


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""
