"""Whom the page's server answers: its user, by the token, on this machine, and nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from metavoxel.errors import MetaVoxelError
from metavoxel.studio import loopback
from metavoxel.studio.loopback import MOST_BYTES, Guard, new_token, opening

TOKEN, PORT = "t" * 43, 8123
COOKIE = f"metavoxel-qc-{PORT}={TOKEN}"
HOST = f"127.0.0.1:{PORT}"


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"let in with {len(body)} bytes")(scope, receive, send)


class Answer:
    def __init__(self, sent: list[Message]) -> None:
        self.status: int = sent[0]["status"]
        self.headers = [(k.decode(), v.decode()) for k, v in sent[0]["headers"]]
        self.text = b"".join(m.get("body", b"") for m in sent[1:]).decode()

    def header(self, name: str) -> str:
        return dict(self.headers).get(name, "")


def call(
    address: str = "/",
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
    body: list[bytes] | None = None,
    cookie: str | None = COOKIE,
    host: str | None = HOST,
    token: str = TOKEN,
) -> Answer:
    """One request to a guarded application, in pieces of its body as they come."""
    url = urlsplit(address)
    given = [*(headers or [])]
    given += [("host", host)] if host is not None else []
    given += [("cookie", cookie)] if cookie is not None else []
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(url.path),
        "query_string": url.query.encode("latin-1"),
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in given],
    }
    parts = body or [b""]
    waiting = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Guard(_echo, token, PORT)(scope, receive, send))
    return Answer(sent)


def test_the_token_in_the_address_becomes_a_cookie_and_goes() -> None:
    answer = call(f"/?token={TOKEN}", cookie=None)
    assert (answer.status, answer.header("location")) == (303, "/")
    cookie, *facts = answer.header("set-cookie").split("; ")
    assert cookie == COOKIE
    assert {f.lower() for f in facts} == {"httponly", "samesite=strict", "path=/"}
    assert answer.header("cache-control") == "no-store"
    assert call("/").status == 200  # and a reload is one more request with the cookie


@pytest.mark.parametrize("path", ["/", "/qc.js", "/api/scans", "/api/decisions", "/nowhere"])
@pytest.mark.parametrize(
    "cookie",
    [
        None,
        "",
        f"metavoxel-qc-{PORT}=",
        f"metavoxel-qc-{PORT}={TOKEN[:-1]}",
        f"metavoxel-qc-{PORT}={TOKEN}t",
        f"metavoxel-qc-{PORT + 1}={TOKEN}",
        f"x{COOKIE}",
        f'metavoxel-qc-{PORT}="{TOKEN}"',
        f"metavoxel-qc-{PORT}=\xfc\xdf",
        TOKEN,
    ],
)
def test_without_it_every_address_is_refused(path: str, cookie: str | None) -> None:
    answer = call(path, cookie=cookie)
    assert answer.status == 403 and "let in" not in answer.text
    said = json.loads(answer.text)["error"] if path.startswith("/api") else answer.text
    assert "open the address that metavoxel qc has printed" in said
    assert "default-src 'self'" in answer.header("content-security-policy")


@pytest.mark.parametrize(
    "query",
    [
        "token=",
        f"token={TOKEN}x",
        f"TOKEN={TOKEN}",
        f"token={TOKEN[:20]}%00{TOKEN[20:]}",
        "token=%FF%FE",
        "&".join(f"token={i}" for i in range(50)),
        "token[]=1",
        "%",
    ],
)
def test_another_token_opens_nothing(query: str) -> None:
    assert call(f"/?{query}", cookie=None).status == 403
    assert call(f"/?{query}").status == 200  # the cookie still does


@pytest.mark.parametrize(
    ("path", "method"), [("/api/scans", "GET"), ("/qc.js", "GET"), ("/", "POST"), ("//", "GET")]
)
def test_the_token_opens_the_door_alone(path: str, method: str) -> None:
    json_sent = [("content-type", "application/json")]
    assert call(f"{path}?token={TOKEN}", method, json_sent, cookie=None).status == 403


def test_two_servers_on_one_machine_have_two_cookies() -> None:
    both = f"metavoxel-qc-9={'x' * 43}; other=1;{COOKIE}"
    assert call("/", cookie=both).status == 200


def test_one_who_follows_a_link_here_is_asked_to_come_again_once() -> None:
    """The browser keeps a strict cookie back where another site's page led here."""
    link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
    assert 'http-equiv="refresh"' in call("/", headers=link, cookie=None).text
    own = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "navigate")]
    assert 'http-equiv="refresh"' not in call("/", headers=own, cookie=None).text


HOSTS = ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:9", "127.0.0.1:65535", "[::1]:1"]


@pytest.mark.parametrize("host", HOSTS)
def test_this_machine_s_names_are_answered_on_any_port(host: str) -> None:
    assert call(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.0.0.1.",
        "localhost.",
        "evil.example",
        "user@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1:8123@evil.example",
        "127.0.0.1:",
        "127.0.0.1:port",
        "127.0.0.1:999999",
        "127.0.0.1:\xb2",
        "127.0.0.2",
        "127.1",
        "0.0.0.0",
        "2130706433",
        "0x7f.0.0.1",
        "[::1",
        "::1",
        "[::ffff:127.0.0.1]",
        "[",
        "127.0.0.1, evil.example",
        "127.0.0.1 ",
        "127.0.0.1\n",
        "127.0.0.1/x",
        "127.0.0.1#",
    ],
)
def test_any_other_name_is_refused_whatever_it_begins_with(host: str | None) -> None:
    assert call(host=host).status == 403
    assert call(f"/?token={TOKEN}", host=host, cookie=None).status == 403


def test_two_names_are_refused() -> None:
    assert call(headers=[("host", HOST)]).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        [("origin", "http://evil.example")],
        [("origin", f"http://{HOST}.evil.example")],
        [("origin", f"https://{HOST}")],
        [("origin", "null")],
        [("origin", f"http://{HOST}"), ("origin", "http://evil.example")],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
        [("content-type", "text/plain")],
        [("content-type", "application/jsonx")],
        [("content-type", "text/plain; application/json")],
        [("content-type", "application/json"), ("content-type", "text/plain")],
    ],
)
def test_another_site_cannot_post(headers: list[tuple[str, str]]) -> None:
    named = any(name == "content-type" for name, _ in headers)
    more = [] if named else [("content-type", "application/json")]
    assert call("/api/decisions", "POST", [*headers, *more], [b"{}"]).status == 403


JSON = [("content-type", "application/json")]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("content-length", str(MOST_BYTES + 1))], [b""]),
        ([("content-length", "9" * 5000)], [b""]),
        ([("content-length", "-1")], [b""]),
        ([("content-length", "٣")], [b""]),
        ([], [b"x" * (MOST_BYTES + 1)]),
        ([], [b"x" * 1000] * 66),  # no length is told: it is counted as it comes
        ([("content-length", "2")], [b"x" * MOST_BYTES, b"x"]),
    ],
)
def test_a_long_body_is_refused_in_the_page_s_own_form(
    headers: list[tuple[str, Any]], body: list[bytes]
) -> None:
    headers = [(k, v if v.isascii() else "\xb2") for k, v in headers]
    answer = call("/api/decisions", "POST", [*JSON, *headers], body)
    assert answer.status == 413
    assert json.loads(answer.text) == {"error": "A request has at most 64 KB here."}


def test_a_body_as_long_as_may_be_is_given_whole() -> None:
    answer = call("/api/decisions", "POST", JSON, [b"x" * (MOST_BYTES - 1), b"x"])
    assert answer.text == f"let in with {MOST_BYTES} bytes"


def test_every_start_has_another_token_that_nobody_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METAVOXEL_QC_TOKEN", raising=False)
    tokens = {new_token() for _ in range(20)}
    assert len(tokens) == 20 and min(map(len, tokens)) >= 43


@pytest.mark.parametrize("told", ["1234", "x" * 31, "x" * 31 + ";", "x" * 500, "ü" * 40])
def test_a_token_that_can_be_guessed_or_sent_wrongly_is_refused(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAVOXEL_QC_TOKEN", told)
    with pytest.raises(MetaVoxelError, match="METAVOXEL_QC_TOKEN is no token"):
        new_token()


def test_the_browser_is_told_the_address_in_a_file_of_its_user_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not on a command line, which everybody on the machine can read."""
    opened: list[str] = []
    monkeypatch.setattr(loopback.webbrowser, "open", opened.append)
    with opening(f"http://127.0.0.1:1/?token={TOKEN}"):
        end = time.monotonic() + 20
        while not opened and time.monotonic() < end:
            time.sleep(0.01)
        assert len(opened) == 1 and TOKEN not in opened[0]
        path = Path(unquote(urlsplit(opened[0]).path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_uid == os.getuid()
        assert f"url=http://127.0.0.1:1/?token={TOKEN}" in path.read_text()
    assert not path.exists()
