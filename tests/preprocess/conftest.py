"""A small cohort prepared once for all tests."""

from __future__ import annotations

import pytest

from raw_cohort import Cohort, write_raw_cohort
from raw_scans import run


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Prepared by the command line with two workers. Not to be changed: see `copy`."""
    place = tmp_path_factory.mktemp("preprocess")
    bids = write_raw_cohort(place / "bids")
    command = "preprocess bids out participant --skull-strip none --jobs 2"
    return Cohort(bids, place / "out", *run(place, *command.split()))
