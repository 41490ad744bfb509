"""What a dataset says of itself is read in one place: unreadable is not absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metavoxel.data.description import DESCRIPTION, declarations, generated_by, read_description
from metavoxel.errors import MetaVoxelError

LAB, OTHER = {"Name": "lab"}, {"Name": "other"}


def describe(folder: Path, **said: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).write_text(json.dumps(said))
    return folder


def test_every_pipeline_is_read(tmp_path: Path) -> None:
    assert generated_by(describe(tmp_path, GeneratedBy=[LAB, OTHER])) == (LAB, OTHER)


FORMS: dict[str, tuple[dict[str, object], tuple[object, ...]]] = {
    "one as an object": ({"GeneratedBy": LAB}, (LAB,)),
    "BIDS before 1.4": ({"PipelineDescription": LAB}, (LAB,)),
    "fMRIPrep 1": ({"PipelineDescription.Name": "lab"}, (LAB,)),
    "both": ({"GeneratedBy": [LAB], "PipelineDescription": OTHER}, (LAB,)),
    "none": ({"Name": "x"}, ()),
    "an empty list": ({"GeneratedBy": []}, ()),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_bids_has_had(form: str, tmp_path: Path) -> None:
    said, expected = FORMS[form]
    assert generated_by(describe(tmp_path, **said)) == expected


@pytest.mark.parametrize("wrong", ["lab", 1, ["lab"], [{}], [{"Name": ""}], [{"Name": 3}], [[]]])
def test_what_is_malformed_gets_a_sentence(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match=rf"{DESCRIPTION}, key GeneratedBy: "):
        generated_by(describe(tmp_path, GeneratedBy=wrong))


def test_a_byte_order_mark_is_no_reason_to_read_nothing(tmp_path: Path) -> None:
    text = json.dumps({"GeneratedBy": [LAB]})
    (tmp_path / DESCRIPTION).write_text(text, encoding="utf-8-sig")
    assert generated_by(tmp_path) == (LAB,)


@pytest.mark.parametrize("text", ['{"GeneratedBy": [{"Name": "lab"}],}', "[]", "", "\0"])
def test_what_cannot_be_read_is_not_absent(text: str, tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(text)
    with pytest.raises(MetaVoxelError, match=DESCRIPTION):
        declarations(tmp_path / "sub-01" / "scan.nii.gz")


def test_a_description_that_was_not_fetched_is_not_absent(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).symlink_to(".git/annex/objects/key")
    with pytest.raises(MetaVoxelError, match="datalad get"):
        read_description(tmp_path)


def test_the_nearest_description_counts(tmp_path: Path) -> None:
    describe(tmp_path, GeneratedBy=[LAB])
    scan = tmp_path / "derivatives" / "brain" / "sub-01" / "anat" / "scan.nii.gz"
    scan.parent.mkdir(parents=True)
    assert declarations(scan) == [(LAB,)]
    describe(tmp_path / "derivatives" / "brain", GeneratedBy=[OTHER])
    assert declarations(scan) == [(OTHER,)]
    assert declarations(scan.parent / ".." / "anat" / "scan.nii.gz") == [(OTHER,)]


def test_where_there_is_none_nothing_is_declared(tmp_path: Path) -> None:
    assert read_description(tmp_path) is None
    assert generated_by(tmp_path) == ()


def test_a_link_counts_for_the_dataset_that_it_leads_to_too(tmp_path: Path) -> None:
    scan = describe(tmp_path / "there", GeneratedBy=[OTHER]) / "scan.nii.gz"
    scan.write_bytes(b"")
    here = describe(tmp_path / "here", GeneratedBy=[LAB]) / "scan.nii.gz"
    here.symlink_to(scan)
    assert declarations(here) == [(LAB,), (OTHER,)]
    alone = tmp_path / "alone" / "scan.nii.gz"
    alone.parent.mkdir()
    alone.symlink_to(scan)
    assert declarations(alone) == [(OTHER,)]
