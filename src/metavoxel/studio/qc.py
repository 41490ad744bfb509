"""metavoxel qc: one scan a screen, a key a decision."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from rich.console import Console
from rich.markup import escape
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from metavoxel.data.quality import QC_TABLE
from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import reading
from metavoxel.studio.answers import Json, error_answer
from metavoxel.studio.loopback import address, listen, new_token, serve
from metavoxel.studio.parameters import judgement, parameters, voxel, whole_number, yes_or_no
from metavoxel.studio.review import ConflictError, Review, as_json

_STATIC = Path(__file__).with_name("static")
_PAGE = ("qc.html", "qc.js", "planes.js", "closer.js", "qc.css")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_FRESH = {"cache-control": "no-store"}  # scans may be prepared again while the page is open


def run_qc(out: Path, port: int, browser: bool, console: Console) -> None:
    """Serve the page for a derivative until interrupted. Raises MetaVoxelError."""
    token = new_token()
    review = Review(out)
    app = create_app(review)
    with listen(port) as bound:
        url = address(bound, token)
        # Nothing beside the address in its line: terminals make all of it a link.
        console.print(f"Quality control of {escape(str(out))}:", soft_wrap=True)
        console.print(url, soft_wrap=True, markup=False, highlight=False)
        console.print(f"Decisions are kept in {QC_TABLE} as they are made. Ctrl+C ends it.")
        for note in review.notes:
            console.print(f"[yellow]Warning:[/] {escape(note)}", highlight=False, soft_wrap=True)
        serve(app, bound, token, browser)


def create_app(review: Review) -> FastAPI:
    """The page and what it asks for. Whom it answers is not its business: see loopback."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        default_response_class=Json,
    )
    _answer_errors(app)
    _serve_page(app)

    @app.get("/api/scans")
    def scans(request: Request) -> dict[str, Any]:
        parameters(request)
        lines = review.decisions()
        return {
            "folder": str(review.out),
            "rater": _login(),
            "scans": review.listing(),
            "decisions": [as_json(d) for d in lines],
            "seen": len(lines),
        }

    @app.get("/api/decisions")
    def decisions(request: Request) -> dict[str, Any]:
        given = parameters(request, "seen")
        return _since(review, whole_number("seen", given.get("seen", "0")))

    @app.post("/api/decisions")
    async def decide(request: Request) -> dict[str, Any]:
        parameters(request)
        said = judgement(await request.body())

        def write() -> dict[str, Any]:
            made, note = review.decide(
                said.scan, said.decision, said.note, said.rater, said.expected
            )
            return {"made": as_json(made), "told": note, **_since(review, said.seen)}

        return await run_in_threadpool(write)

    @app.get("/api/view")
    def view(request: Request) -> dict[str, Any]:
        given = parameters(request, "scan", "at", "head")
        if "scan" not in given:
            raise MetaVoxelError("scan: say which, as scan=sub-01_T1w.")
        at = voxel(given["at"]) if "at" in given else None
        return review.view(given["scan"], at, yes_or_no("head", given.get("head", "false")))

    @app.get("/api/volume/{scan}/{part}.nii.gz")
    def volume(request: Request, scan: str, part: str) -> Response:
        parameters(request)
        if part not in ("brain", "mask"):
            raise MetaVoxelError("part: a scan has a brain and a mask.")
        brain, mask = review.files(scan)
        path = brain if part == "brain" else mask
        with reading(path, "a prepared scan", "Prepare the scan again."):
            return Response(path.read_bytes(), media_type="application/octet-stream")

    return app


def _serve_page(app: FastAPI) -> None:
    def page(name: str) -> Any:
        kind = _TYPES[Path(name).suffix]
        return lambda: Response((_STATIC / name).read_bytes(), 200, _FRESH, kind)

    for name in _PAGE:
        app.get("/" if name == "qc.html" else f"/{name}", include_in_schema=False)(page(name))

    @app.get("/niivue.js", include_in_schema=False)
    def niivue() -> Response:
        # It is stored compressed, at a third of its size; every browser unpacks it.
        packed = (_STATIC / "niivue" / "niivue.umd.js.gz").read_bytes()
        return Response(packed, 200, {"content-encoding": "gzip"}, "text/javascript")


def _answer_errors(app: FastAPI) -> None:
    """One sentence for whatever goes wrong."""

    @app.exception_handler(MetaVoxelError)
    def told(request: Request, error: MetaVoxelError) -> Response:
        return error_answer(request.url.path, 422, str(error))

    @app.exception_handler(ConflictError)
    def conflict(request: Request, error: ConflictError) -> Response:
        return error_answer(request.url.path, 409, str(error))

    @app.exception_handler(HTTPException)
    def other(request: Request, error: HTTPException) -> Response:
        said = {
            404: "There is nothing at this address.",
            405: "This address is not asked in this way.",
        }
        sentence = said.get(error.status_code, "This cannot be answered.")
        return error_answer(request.url.path, error.status_code, sentence, error.headers)

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> Response:
        said = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {said[0] if said else 'no reason given'}"
        sentence = f"This went wrong: {reason}. The terminal says more."
        return error_answer(request.url.path, 500, sentence)


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


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""
