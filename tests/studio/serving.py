"""The real server, in a process of its own, and a real browser where there is one."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_START_S = 60
TOKEN = "a-token-that-is-the-same-in-every-test_0"  # so that a page goes on at the next server
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)")


class Server:
    """`metavoxel qc OUT`, started as a person would start it."""

    def __init__(self, out: Path, port: int = 0, token: str = TOKEN) -> None:
        command = [sys.executable, "-m", "metavoxel", "qc", str(out), "--no-browser"]
        self.process = subprocess.Popen(
            [*command, "--port", str(port)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "METAVOXEL_QC_TOKEN": token},
        )
        assert self.process.stderr is not None
        self.said = ""
        while not (found := _ADDRESS.search(self.said)):
            line = self.process.stderr.readline()
            assert line, f"the server ended: {self.said}"
            self.said += line
        self.url, self.port, self.token = found[0], int(found[1]), found[2]
        self.cookie = f"metavoxel-qc-{self.port}={self.token}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(_START_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(_START_S)

    def call(
        self, path: str, body: Any = None, method: str = "", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, answer (JSON where it is) and headers of one request, with the cookie."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is None:
            return self.send(path, None, method or "GET", given)
        given = {"content-type": "application/json", **given}
        return self.send(path, json.dumps(body).encode(), method or "POST", given)

    def send(
        self,
        path: str,
        data: bytes | Iterator[bytes] | None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """The same with a body as it is; in pieces, its length is not told."""
        given = headers or {"content-type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, data, {"cookie": self.cookie, **given})
        answer = connection.getresponse()
        text = answer.read()
        told = {name.lower(): value for name, value in answer.getheaders()}
        connection.close()
        is_json = told.get("content-type", "").startswith("application/json")
        return answer.status, json.loads(text) if is_json else text, told


@contextmanager
def serving(out: Path, port: int = 0) -> Iterator[Server]:
    server = Server(out, port)
    try:
        yield server
    finally:
        server.kill()


# The page must do with what a browser can have without a graphics card or a network.
_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium without a window; where there is none, skips unless METAVOXEL_BROWSER is set."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if path is None or sync_playwright is None:
        lacking = "Chromium" if path is None else "playwright"
        if "METAVOXEL_BROWSER" in os.environ:
            pytest.fail(f"METAVOXEL_BROWSER is set, and {lacking} is not installed.")
        pytest.skip(f"{lacking} is not installed")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()
