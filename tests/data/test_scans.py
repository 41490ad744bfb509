"""Image files wherever links lead, and which of them is which variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from folders import AGE, schema, write_bids
from metavoxel.data.bids import read_cohort
from metavoxel.data.infer import infer_schema
from metavoxel.data.scans import find_scans, scan_files
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image, Schema

ROWS = ["participant_id age", "sub-1 40", "sub-2 41"]
VISITS = [f"sub-{i}_ses-{j}_T1w" for i in (1, 2) for j in (1, 2)]


def _names(root: Path) -> list[str]:
    return [f.path.name.removesuffix(".nii.gz") for f in scan_files(root)]


@pytest.mark.parametrize("linked", ["sub-1", "sub-1/ses-2", "sub-1/ses-2/anat"])
def test_linked_folders_are_as_real_ones(linked: str, tmp_path: Path) -> None:
    root = write_bids(tmp_path / "bids", ROWS, VISITS)
    (root / linked).rename(tmp_path / "there")
    (root / linked).symlink_to(tmp_path / "there")
    assert _names(root) == VISITS
    assert len(read_cohort(root, schema(age=AGE)).records) == 4


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ROWS, VISITS)
    (root / "sub-1" / "ses-1" / "up").symlink_to(root / "sub-1")
    (root / "sub-1" / "ses-3").symlink_to(root / "sub-1" / "ses-3")
    (root / "sub-2" / "all").symlink_to(root)
    assert _names(root) == VISITS
    assert len(read_cohort(root, schema(age=AGE)).records) == 4


def _annex(root: Path, name: str) -> None:
    subject = name.split("_")[0]
    path = root / subject / "anat" / f"{name}.nii.gz"
    path.unlink(missing_ok=True)
    path.symlink_to("../../.git/annex/objects/aa/key.nii.gz")


def test_scans_that_are_not_here_are_counted(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ROWS, ["sub-1_T1w", "sub-2_T1w", "sub-2_T2w"])
    _annex(root, "sub-1_T1w")
    said = read_cohort(root, schema(age=AGE)).warnings[0]
    assert said.startswith("1 of 2 scans are links to files that are not here")
    assert "datalad get" in said
    _annex(root, "sub-2_T1w")
    with pytest.raises(MetaVoxelError, match="2 of 2 scans are links"):
        read_cohort(root, schema(age=AGE))
    _annex(root, "sub-2_T2w")
    with pytest.raises(MetaVoxelError, match="3 of 3 scans are links"):
        infer_schema(root)


def test_a_pointer_in_a_file_s_place_is_no_scan(tmp_path: Path) -> None:
    texts = {
        "sub-1/anat/sub-1_T1w.nii.gz": "/annex/objects/MD5E-s1--aa.nii.gz\n",
        "sub-2/anat/sub-2_T1w.nii.gz": "version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
    }
    scans = find_scans(write_bids(tmp_path, ROWS, ["sub-3_T1w"], texts=texts))
    assert (len(scans.files), len(scans.dead)) == (1, 2)


def test_a_folder_that_is_a_link_to_nothing_is_said(tmp_path: Path) -> None:
    root = write_bids(tmp_path, ROWS, ["sub-1_T1w", "sub-2_T1w"])
    (root / "sub-2" / "ses-2").symlink_to(tmp_path / "gone")
    assert any("1 folder cannot be entered" in w for w in read_cohort(root, schema()).warnings)


def _chosen(root: Path, entities: Any) -> list[str]:
    image = Image(shape=(8, 8, 8), spacing=(2, 2, 2), entities=entities)
    records = read_cohort(root, Schema(variables={"image": image})).records
    return [Path(str(r.values["image"])).name for r in records]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("acq-a_T1w", "acq-b_T1w"),
        ("T1w", "ce-gd_T1w"),
        ("acq-a_run-1_T1w", "acq-b_run-2_T1w"),
        ("desc-a_T1w", "desc-b_T1w"),
        ("acq-a_T1w", "rec-b_T1w"),
        ("echo-1_T1w", "echo-2_T1w"),
        ("echo-01_T1w", "acq-no_echo-02_T1w"),
    ],
)
def test_what_the_error_for_two_scans_advises_works(one: str, other: str, tmp_path: Path) -> None:
    root = write_bids(tmp_path, ["participant_id", "sub-1"], [f"sub-1_{one}", f"sub-1_{other}"])
    with pytest.raises(MetaVoxelError, match="both fit") as raised:
        read_cohort(root, schema())
    first, second = str(raised.value).partition("with entities: ")[2].split(", or entities: ")
    chosen = [_chosen(root, yaml.safe_load(text.rstrip("."))) for text in (first, second)]
    assert sorted(chosen) == sorted([[f"sub-1_{one}.nii.gz"], [f"sub-1_{other}.nii.gz"]])


def test_an_entity_that_must_be_absent(tmp_path: Path) -> None:
    rows = ["participant_id", "sub-1"]
    root = write_bids(tmp_path, rows, ["sub-1_T1w", "sub-1_ce-gd_T1w"])
    assert _chosen(root, {"ce": None}) == ["sub-1_T1w.nii.gz"]
    with pytest.raises(MetaVoxelError, match="T1w and ce-x and no acq-, which"):
        _chosen(root, {"ce": "x", "acq": None})


def test_numbers_in_entities_need_no_quotes(tmp_path: Path) -> None:
    root = write_bids(
        tmp_path, ["participant_id", "sub-1"], ["sub-1_echo-1_T1w", "sub-1_echo-2_T1w"]
    )
    assert _chosen(root, {"echo": 2}) == ["sub-1_echo-2_T1w.nii.gz"]
