"""Serving pages to one user of this machine, and to nobody else whatever they try."""

from __future__ import annotations

import contextlib
import html
import os
import re
import secrets
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metavoxel.errors import MetaVoxelError
from metavoxel.studio.answers import error_answer

ADDRESS = "127.0.0.1"
MOST_BYTES = 2**16  # of a request's body: a decision has some hundred
VARIABLE = "METAVOXEL_QC_TOKEN"
_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,200}")
_DRAINED = 2**20  # bytes that are taken after a refusal, so that its sender can read it
_HEADERS = (
    # NiiVue decodes volumes in workers made from blobs; its fonts are data URIs.
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
        b"script-src 'self'; worker-src 'self' blob:; connect-src 'self' data: blob:; "
        b"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def new_token() -> str:
    """A token that nobody guesses, or the one that the environment sets. Raises MetaVoxelError."""
    told = os.environ.get(VARIABLE, "")
    if told and not _TOKEN.fullmatch(told):
        raise MetaVoxelError(
            f"{VARIABLE} is no token. Set it to 32 to 200 letters, digits, - and _ that nobody "
            "guesses, or not at all."
        )
    return told or secrets.token_urlsafe(32)


class Guard:
    """ASGI middleware that answers this machine's own pages only, and who has the token.

    A site elsewhere can point its name at 127.0.0.1 (DNS rebinding): then the Host header is not a
    name of this machine. It can also have a browser send requests here: then Origin or
    Sec-Fetch-Site says so. Other users of the machine can send anything: they have no token. It
    comes once, in the address; from then on a cookie has it, which no script can read and no other
    site can have sent. The port is left open to choice, so that an SSH tunnel works.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self._token = app, token
        # Cookies do not tell ports apart: two servers on one machine must not share a name.
        self._cookie = f"metavoxel-qc-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._answer(scope, receive, _guarded(send))
        else:
            await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        answer = _objection(scope, headers) or self._entrance(scope, headers)
        if answer is not None:
            await answer(scope, receive, send)
            return
        body = await _body(headers, receive)
        if body is None:
            said = f"A request has at most {MOST_BYTES >> 10} KB here."
            await error_answer(scope["path"], 413, said)(scope, receive, send)
            await _drain(receive)
        else:
            await self.app(scope, _again(body, receive), send)

    def _entrance(self, scope: Scope, headers: Headers) -> Response | None:
        """What is answered instead of the page: a cookie for the token, or a refusal."""
        at_door = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
        if at_door and self._is_token(_tokens(scope["query_string"])):
            answer = RedirectResponse("/", 303, {"cache-control": "no-store"})
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        if self._is_token(_cookies(headers, self._cookie)):
            return None
        # Coming from another site the browser keeps the cookie back; from this page it does not.
        again = at_door and headers.get("sec-fetch-site") in ("cross-site", "same-site")
        return error_answer(
            scope["path"],
            403,
            "This page is its user's alone: open the address that metavoxel qc has printed, with "
            "its token.",
            reload=again,
        )

    def _is_token(self, given: Sequence[str]) -> bool:
        right = self._token.encode()
        same = [secrets.compare_digest(text.encode("utf-8", "replace"), right) for text in given]
        return any(same)


def _guarded(send: Send) -> Send:
    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return send_guarded


def _objection(scope: Scope, headers: Headers) -> Response | None:
    """Why a request is refused whoever sends it; None where it is not."""
    hosts = headers.getlist("host")
    said = None
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        said = f"This page is for this machine only: open it as http://{ADDRESS}."
    elif any(origin != f"http://{hosts[0]}" for origin in headers.getlist("origin")):
        said = "A page of another origin asked for this; open it directly."
    elif not _is_of_this_site(scope["method"], headers):
        said = "A page of another site asked for this; open it directly."
    elif scope["method"] not in ("GET", "HEAD") and not _is_json(headers):
        said = "Send JSON."  # which a form of another site cannot
    return None if said is None else error_answer(scope["path"], 403, said)


def _is_of_this_site(method: str, headers: Headers) -> bool:
    """Whether a request is of the page itself or of its user, who may also follow a link here."""
    opened = method == "GET" and headers.getlist("sec-fetch-mode") == ["navigate"]
    sites = headers.getlist("sec-fetch-site")
    return opened or all(site in ("same-origin", "none") for site in sites)


def _is_json(headers: Headers) -> bool:
    kinds = [kind.partition(";")[0].strip().lower() for kind in headers.getlist("content-type")]
    return kinds == ["application/json"]


def _tokens(query: bytes) -> list[str]:
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=20).get("token", [])
    except ValueError:
        return []


def _cookies(headers: Headers, name: str) -> list[str]:
    pairs = (pair.partition("=") for line in headers.getlist("cookie") for pair in line.split(";"))
    return [value.strip() for key, _, value in pairs if key.strip() == name]


async def _body(headers: Headers, receive: Receive) -> bytes | None:
    """The whole body of a request; None if it is too long, or its sender has gone."""
    told = headers.get("content-length", "0")
    if not told.isascii() or not told.isdecimal() or len(told) > 9 or int(told) > MOST_BYTES:
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to the application."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return left.pop() if left else await receive()

    return give


async def _drain(receive: Receive) -> None:
    """Take what is under way to its end, or to a bound, and keep none of it."""
    taken = 0
    while taken < _DRAINED:
        message = await receive()
        taken += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address; port 0 takes any free one. Raises MetaVoxelError."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # started again at once
    try:
        bound.bind((ADDRESS, port))
        bound.listen()  # from now on whoever asks waits for the answer
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise MetaVoxelError(
            f"Port {port} cannot be had ({reason}). Choose another with --port, or leave it out."
        ) from None
    return bound


def address(bound: socket.socket, token: str) -> str:
    return f"http://{ADDRESS}:{bound.getsockname()[1]}/?token={token}"


def serve(app: ASGIApp, bound: socket.socket, token: str, browser: bool) -> None:
    """Answer on the socket until interrupted."""
    guard = Guard(app, token, bound.getsockname()[1])
    settings = uvicorn.Config(guard, log_level="warning", server_header=False)
    with opening(address(bound, token)) if browser else contextlib.nullcontext():
        uvicorn.Server(settings).run(sockets=[bound])


@contextlib.contextmanager
def opening(url: str) -> Iterator[None]:
    """Open a page soon, through a file that its user alone can read.

    An address on a browser's command line, everybody on the machine could read.
    """
    place, name = tempfile.mkstemp(prefix="metavoxel-qc-", suffix=".html")  # it is made private
    with os.fdopen(place, "w") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={html.escape(url)}">\n')
    timer = threading.Timer(0.8, webbrowser.open, [Path(name).as_uri()])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        Path(name).unlink(missing_ok=True)
