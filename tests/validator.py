"""The official BIDS validator, which needs no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))


def bids_errors(folder: Path) -> list[str]:
    """The errors that it finds, as CODE of the file; skips the test where it is not installed."""
    if _VALIDATOR is None:
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run(
        [_VALIDATOR, "--json", str(folder)], capture_output=True, text=True, timeout=120
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    found = [f"{i['code']} {i.get('location')}" for i in issues if i["severity"] == "error"]
    assert bool(found) == bool(run.returncode)
    return sorted(found)
