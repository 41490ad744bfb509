"""A small cohort prepared once for all tests."""

from __future__ import annotations

import json
import os

import pytest

from metavoxel.files.writing import locked
from raw_cohort import Cohort, write_raw_cohort
from raw_scans import run


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Prepared by the command line with two workers, in one of the processes that run tests; the
    others wait for it. Not to be changed: see `copy`."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    place, ran = shared / "preprocess", shared / "preprocess" / "ran.json"
    with locked(shared / "preprocess.lock", "", wait=True):
        if not ran.exists():
            write_raw_cohort(place / "bids")
            command = "preprocess bids out participant --skull-strip none --jobs 2"
            ran.write_text(json.dumps(run(place, *command.split())))
    return Cohort(place / "bids", place / "out", *json.loads(ran.read_text()))
