"""A mutant of any kind of file is read, or refused in one sentence; `make fuzz` tries many more."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.mutants import mutant
from fuzz.targets import Target, build, targets
from metavoxel.errors import MetaVoxelError

EVERY = {target.name: target for target in targets()}
SLOW = ("DICOM",)  # a program is started for each; make fuzz does


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    build(place)
    return place


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants")


def read(target: Target, place: Path, here: Path, data: bytes) -> object:
    """What the target makes of a mutant, or None if it refuses it in one sentence."""
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(place, here)
    (here / target.file).write_bytes(data)
    try:
        return target.read(here)
    except MetaVoxelError as error:
        assert str(error).endswith(".")
        assert str(error).isprintable()
        return None


@pytest.mark.parametrize("name", [name for name in EVERY if not name.endswith(SLOW)])
def test_a_mutant_is_read_or_refused_in_one_sentence(name: str, place: Path, scratch: Path) -> None:
    target = EVERY[name]
    whole = (place / target.file).read_bytes()
    good = read(target, place, scratch / "here", whole)

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]  # its metaclass has no types
        database=None,
    )
    @given(random=st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        data = mutant(whole, random)
        found = read(target, place, scratch / "here", data)
        if data == whole or found is None:
            return
        if target.covered(data):
            assert found == good, "a checksum or the grammar covers what was changed"
            assert not target.strict

    check()
