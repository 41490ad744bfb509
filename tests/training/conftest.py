from __future__ import annotations

from pathlib import Path

import pytest

from metavoxel.data.simulate import simulate


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 simulated people at 8 mm, a tenth of the table missing."""
    folder = tmp_path_factory.mktemp("cohort") / "bids"
    simulate(folder, subjects=160, seed=0, resolution=8, missing=0.1)
    return folder
