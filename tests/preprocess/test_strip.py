"""Skull strippers behind one protocol; those that are absent say how to get them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metavoxel.data.images import Grid
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.itk import corrected
from metavoxel.preprocess.recipe import Recipe, read_recipe
from metavoxel.preprocess.strip import STRIPPERS, DeepBet, is_stripped
from metavoxel.preprocess.tools import tool_version

GRID = Grid((20, 24, 20), np.diag([8.0, 8, 8, 1]))
HEAD = np.zeros(GRID.shape, np.float32)
HEAD[4:16, 4:20, 4:16] = 1
HEAD[6:14, 7:17, 6:14] = 5

# Stand-ins with the real programs' command lines (HD-BET 2, FreeSurfer 7): what is brighter than 3
# is brain. The programs need weights that are not on every machine.
PROGRAMS = {
    "hd-bet": """
parser.add_argument("-i", "--input", required=True)
parser.add_argument("-o", "--output", required=True)
parser.add_argument("-device", default="cuda", choices=["cuda", "cpu", "mps"])
parser.add_argument("--disable_tta", action="store_true")
parser.add_argument("--save_bet_mask", action="store_true")
parser.add_argument("--no_bet_image", action="store_true")
args = parser.parse_args()
assert args.save_bet_mask and args.output.endswith(".nii.gz")
source, target = args.input, args.output[:-7] + "_bet.nii.gz"
""",
    "mri_synthstrip": """
parser.add_argument("-i", "--image", required=True)
parser.add_argument("-o", "--out")
parser.add_argument("-m", "--mask")
parser.add_argument("-g", "--gpu", action="store_true")
parser.add_argument("-b", "--border", default=1, type=int)
args = parser.parse_args()
source, target = args.image, args.mask
""",
}
NAMES = {"hd-bet": "hd-bet", "synthstrip": "mri_synthstrip"}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program on the path."""

    def put(program: str, ending: str) -> None:
        path = tmp_path / program
        path.write_text(
            f"#!{sys.executable}\nimport argparse\nimport nibabel as nib\nimport numpy as np\n"
            f"parser = argparse.ArgumentParser()\n{PROGRAMS[program]}{ending}"
        )
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return put


THRESHOLD = """
image = nib.load(source)
mask = (np.asarray(image.dataobj) > 3).astype(np.uint8)
nib.save(nib.Nifti1Image(mask, image.affine), target)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_program_is_run_and_its_mask_read(name: str, install: Callable[[str, str], None]) -> None:
    install(NAMES[name], THRESHOLD)
    stripper = STRIPPERS[name]()
    np.testing.assert_array_equal(stripper.brain(HEAD, GRID), HEAD > 3)
    assert stripper.tools() == {NAMES[name]: "unknown version"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_failing_program_says_is_passed_on(
    name: str, install: Callable[[str, str], None]
) -> None:
    install(NAMES[name], "raise SystemExit('no weights here')")
    with pytest.raises(MetaVoxelError, match=f"{NAMES[name]} failed: no weights here"):
        STRIPPERS[name]().brain(HEAD, GRID)


@pytest.mark.parametrize("name", NAMES)
def test_a_program_that_is_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MetaVoxelError, match=f"{NAMES[name]} is not installed. Install it"):
        Recipe.model_validate({"skull_strip": name}).declaration()
    with pytest.raises(MetaVoxelError, match=f"{NAMES[name]} is not installed. Install it"):
        STRIPPERS[name]().brain(HEAD, GRID)


def test_the_version_of_freesurfer_is_declared(
    install: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("mri_synthstrip", THRESHOLD)
    (tmp_path / "build-stamp.txt").write_text("freesurfer-linux-7.4.1\n")
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path))
    assert STRIPPERS["synthstrip"]().tools() == {"mri_synthstrip": "freesurfer-linux-7.4.1"}


def test_without_deepbet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepbet", None)  # as if it were not installed
    with pytest.raises(MetaVoxelError, match=r"needs deepbet\. .*pip install 'metavoxel\[prep\]'"):
        DeepBet().brain(HEAD, GRID)


def test_without_ants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ants", None)
    with pytest.raises(MetaVoxelError, match=r"needs ANTsPy\. .*pip install 'metavoxel\[prep\]'"):
        corrected(HEAD, GRID)


def test_the_version_of_an_absent_package() -> None:
    with pytest.raises(MetaVoxelError, match=r"It is needed\. .*metavoxel\[prep\]"):
        tool_version("no-such-package", "It is needed.")


def test_where_there_is_no_brain() -> None:
    with pytest.raises(MetaVoxelError, match="deepbet finds no brain in the scan"):
        DeepBet().brain(np.ones(GRID.shape, np.float32), GRID)


def test_a_head_is_not_stripped_and_a_brain_is() -> None:
    assert is_stripped(np.where(HEAD > 3, HEAD, 0), GRID)
    assert is_stripped(HEAD, GRID)  # of the size of a brain: 900 mL
    assert not is_stripped(HEAD, Grid(GRID.shape, np.diag([12.0, 12, 12, 1])))  # 4 L
    assert not is_stripped(HEAD + 0.1, GRID)  # air is not exactly 0


def test_a_recipe_names_the_setting_that_is_wrong() -> None:
    with pytest.raises(MetaVoxelError, match=r"the recipe, key skull_strip: .*'deepbet'"):
        read_recipe(skull_strip="bet")
    with pytest.raises(MetaVoxelError, match="the recipe, key resolution"):
        read_recipe(resolution=0.1)
