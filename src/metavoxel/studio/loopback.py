"""Serving pages to this machine and to no other, whatever a web page elsewhere tries."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Iterable
from urllib.parse import urlsplit

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metavoxel.errors import MetaVoxelError

ADDRESS = "127.0.0.1"
_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
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


class LoopbackOnly:
    """ASGI middleware that answers this machine's own pages only.

    A site elsewhere can point its name at 127.0.0.1 (DNS rebinding): then the Host header is not a
    name of this machine. It can also have a browser send requests here: then Origin or
    Sec-Fetch-Site says so. The port is left open to choice, so that an SSH tunnel works.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        objection = _objection(scope["method"], scope["headers"])
        if objection is not None:
            await PlainTextResponse(objection + "\n", 403)(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self.app(scope, receive, send_guarded)


def _objection(method: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Why a request is refused; None where it is not."""
    given = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    hosts = [value for name, value in given if name == "host"]
    if len(hosts) != 1 or _hostname(f"//{hosts[0]}") not in _NAMES:
        return "This page is for this machine only: open it as http://127.0.0.1."
    told = dict(given)
    origin, site = told.get("origin"), told.get("sec-fetch-site", "same-origin")
    if origin is not None and origin != f"http://{hosts[0]}":
        return "A page of another origin asked for this; open it directly."
    opened = method == "GET" and told.get("sec-fetch-mode") == "navigate"
    if site not in ("same-origin", "none") and not opened:
        return "A page of another site asked for this; open it directly."
    if method not in ("GET", "HEAD") and not told.get("content-type", "").startswith(
        "application/json"  # which a form of another site cannot send
    ):
        return "Send JSON."
    return None


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


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


def address(bound: socket.socket) -> str:
    return f"http://{ADDRESS}:{bound.getsockname()[1]}/"


def serve(app: ASGIApp, bound: socket.socket, browser: bool) -> None:
    """Answer on the socket until interrupted."""
    if browser:
        threading.Timer(0.8, webbrowser.open, [address(bound)]).start()
    settings = uvicorn.Config(LoopbackOnly(app), log_level="warning", server_header=False)
    uvicorn.Server(settings).run(sockets=[bound])
