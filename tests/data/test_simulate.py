"""A simulated cohort on disk: BIDS that we can read ourselves, repeatable, restartable."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from folders import read_nifti
from metavoxel.data import simulate as module
from metavoxel.data.bids import read_cohort
from metavoxel.data.causal import MEASUREMENTS, CausalModel
from metavoxel.data.images import Scan, read_scan
from metavoxel.data.infer import infer_schema
from metavoxel.data.records import Record
from metavoxel.data.simulate import simulate
from metavoxel.errors import MetaVoxelError
from metavoxel.files.owned import holding
from metavoxel.files.writing import BusyError
from metavoxel.schema import Schema
from validator import bids_errors

SUBJECTS = 10


def run(out: Path, subjects: int = SUBJECTS, **changed: Any) -> Path:
    settings = {"seed": 3, "resolution": 4.0, "missing": 0.3, "jobs": 1} | changed
    simulate(out, subjects, **settings)
    return out


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("simulated") / "cohort")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty scans, for what does not depend on them."""
    monkeypatch.setattr(module, "_scan", lambda *_: (np.zeros((8, 8, 40), np.uint8), np.eye(4)))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def scan_of(record: Record, schema: Schema) -> Scan:
    path = record.values["image"]
    assert isinstance(path, Path)
    return read_scan(path, schema.images["image"])


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_the_reader_and_the_inferred_schema_take_the_cohort_as_it_is(cohort):
    schema = infer_schema(cohort)
    assert schema.images["image"].shape == (40, 48, 40)
    assert schema.categorical["sex"].labels == ("F", "M")
    assert schema.categorical["diagnosis"].ordered
    assert schema.numbers["mmse"].unit == "points"
    assert schema.numbers["education"].unit == "years"
    read = read_cohort(cohort, schema)
    assert len(read.subjects) == SUBJECTS
    assert not read.warnings
    scan = scan_of(read.records[0], schema)
    assert scan.array.shape == (1, 40, 48, 40)
    assert np.allclose(scan.grid.affine, scan.source.affine)


def test_scans_are_ras_at_the_resolution_with_empty_background(cohort):
    image = nib.Nifti1Image.from_filename(cohort / "sub-0001" / "anat" / "sub-0001_T1w.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == (4, 4, 4)
    assert image.get_data_dtype() == np.uint8
    voxels = np.asarray(image.dataobj)
    assert 0.2 < (voxels > 0).mean() < 0.4
    sidecar = json.loads((cohort / "sub-0001" / "anat" / "sub-0001_T1w.json").read_text())
    assert sidecar == {"Simulated": True, "Resolution": 4.0, "Seed": 3}


def test_the_table_is_the_truth_with_gaps(cohort):
    table, truth = rows(cohort / "participants.tsv"), rows(truth_of(cohort))
    assert len(table) == len(truth) == SUBJECTS
    for row, true in zip(table, truth, strict=True):
        assert all(cell in ("n/a", true[column]) for column, cell in row.items())
    assert "n/a" not in [cell for true in truth for cell in true.values()]


def test_a_seed_has_the_scans_and_columns_that_it_had_before_mmse_and_education(cohort):
    """What seed 3 was when there were none of these: cells to the letter, and sums of levels."""
    first = [list(row.values())[:4] for row in rows(cohort / "participants.tsv")[:3]]
    assert first == [
        ["sub-0001", "26.0", "F", "n/a"],
        ["sub-0002", "37.7", "M", "n/a"],
        ["sub-0003", "21.8", "n/a", "CN"],
    ]
    true = rows(truth_of(cohort))[1]
    columns = ("brain_volume", "hippocampus_volume", "age_mean", "age_std", "age_q5", "age_q25")
    assert [true[c] for c in columns] == ["1499.5", "8.278", "39.003", "8.0764", "25.397", "33.285"]
    scans = (cohort / f"sub-000{i}" / "anat" / f"sub-000{i}_T1w.nii.gz" for i in (1, 2, 3))
    sums = [read_nifti(scan)[0].sum(dtype=int) for scan in scans]
    assert sums == pytest.approx([2879702, 3498182, 3485381], abs=5)  # of a rounding, or two


def truth_of(cohort: Path) -> Path:
    return cohort / "derivatives" / "truth" / "participants.tsv"


def test_the_truth_holds_the_exact_posterior_of_its_own_measurements(cohort):
    for true in rows(truth_of(cohort)):
        posterior = CausalModel().posterior({m: float(true[m]) for m in MEASUREMENTS})
        assert float(true["age_mean"]) == pytest.approx(posterior.age.mean, abs=0.02)
        assert float(true["age_std"]) == pytest.approx(posterior.age.std, abs=0.02)
        assert float(true["age_q5"]) == pytest.approx(posterior.age.quantile(0.05), abs=0.05)
        mmse = posterior.number("mmse")
        assert float(true["mmse_mean"]) == pytest.approx(mmse.mean, abs=0.02)
        assert float(true["mmse_q95"]) == pytest.approx(mmse.quantile(0.95), abs=0.02)
        assert (true["education_mean"], true["education_std"]) == ("14", "2.8")
        assert float(true["p_M"]) == pytest.approx(posterior.sex["M"], abs=0.005)
        assert float(true["p_AD"]) == pytest.approx(posterior.diagnosis["AD"], abs=0.005)


def test_every_column_of_the_truth_is_described(cohort):
    described = json.loads(truth_of(cohort).with_suffix(".json").read_text())
    assert list(rows(truth_of(cohort))[0]) == ["participant_id", *described]
    about = json.loads((truth_of(cohort).parent / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"


def test_cells_are_lost_independently_at_the_stated_rate(tmp_path, quick):
    table = rows(run(tmp_path / "c", 400, missing=0.3) / "participants.tsv")
    columns = ("age", "sex", "diagnosis", "education", "mmse")
    lost = np.array([[row[c] == "n/a" for c in columns] for row in table])
    assert lost.mean(0) == pytest.approx(0.3, abs=0.1)  # over four standard errors
    assert lost[:, :3].all(1).mean() == pytest.approx(0.3**3, abs=0.035)
    assert np.corrcoef(lost.T)[np.triu_indices(5, 1)] == pytest.approx(0, abs=0.2)


def test_nothing_is_lost_when_nothing_shall_be(tmp_path, quick):
    assert b"n/a" not in (run(tmp_path / "c", 50, missing=0.0) / "participants.tsv").read_bytes()


def test_a_person_depends_on_the_seed_and_the_number_alone(cohort, tmp_path):
    few = run(tmp_path / "few", 2)
    assert {f for f in contents(few) if f.startswith("sub-")}
    for file, content in contents(few).items():
        if file.startswith("sub-"):
            assert (cohort / file).read_bytes() == content, file
    assert rows(few / "participants.tsv") == rows(cohort / "participants.tsv")[:2]
    other = run(tmp_path / "other", 1, seed=4)
    scan = "sub-0001/anat/sub-0001_T1w.nii.gz"
    assert (other / scan).read_bytes() != (few / scan).read_bytes()


def test_two_processes_write_what_one_writes(tmp_path):
    assert contents(run(tmp_path / "one", 3)) == contents(run(tmp_path / "two", 3, jobs=2))


def test_an_interrupted_cohort_is_completed_and_what_was_done_is_kept(tmp_path):
    whole = contents(run(tmp_path / "whole", 4))

    def stop(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", 4, progress=stop)
    first = tmp_path / "c" / "sub-0001" / "anat" / "sub-0001_T1w.nii.gz"
    before = first.stat().st_mtime_ns
    assert contents(run(tmp_path / "c", 4)) == whole
    assert first.stat().st_mtime_ns == before


def test_progress_counts_to_the_end(tmp_path, quick):
    seen: list[tuple[int, int]] = []
    run(tmp_path / "c", 3, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_slice_is_a_plane_of_the_same_persons_volume_nose_up(cohort, tmp_path):
    out = run(tmp_path / "c", 2, slices=True)
    picture = np.asarray(Image.open(out / "sub-0002" / "anat" / "sub-0002_T1w.png"))
    voxels, affine = read_nifti(cohort / "sub-0002" / "anat" / "sub-0002_T1w.nii.gz")
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    height = round((14 - affine[2, 3]) / 4)
    from_front_to_back = voxels[:, ::-1, height].T
    assert np.array_equal(picture, from_front_to_back)


def test_sliced_cohorts_are_read_and_their_truth_knows_no_hippocampi(tmp_path):
    out = run(tmp_path / "c", 4, slices=True, missing=0.0)
    schema = infer_schema(out)
    assert schema.images["image"].shape == (48, 40)
    record = read_cohort(out, schema).records[0]
    scan = scan_of(record, schema)
    assert 0.2 < (scan.array > 0).mean() < 0.8
    true = rows(truth_of(out))[0]
    visible = {m: float(true[m]) for m in MEASUREMENTS if m != "hippocampus_volume"}
    posterior = CausalModel().posterior(visible)
    assert float(true["age_mean"]) == pytest.approx(posterior.age.mean, abs=0.02)


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"resolution": 8.0}, {"missing": 0.0}, {"slices": True}]
)
def test_another_simulation_in_the_same_folder_is_refused(tmp_path, quick, changed):
    run(tmp_path / "c", 2)
    before = contents(tmp_path / "c")
    with pytest.raises(MetaVoxelError, match="other settings"):
        run(tmp_path / "c", 2, **changed)
    assert contents(tmp_path / "c") == before


def test_a_cohort_can_grow_but_not_shrink(tmp_path, quick):
    run(tmp_path / "c", 2)
    run(tmp_path / "c", 4)
    assert len(rows(tmp_path / "c" / "participants.tsv")) == 4
    with pytest.raises(MetaVoxelError, match="more than 3"):
        run(tmp_path / "c", 3)


def test_a_folder_with_other_things_is_left_alone(tmp_path, quick):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(MetaVoxelError, match="not empty"):
        run(tmp_path)
    assert list(contents(tmp_path)) == ["thesis.tex"]
    with pytest.raises(MetaVoxelError, match="is a file"):
        run(tmp_path / "thesis.tex")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"subjects": 0}, "--subjects is 0"),
        ({"subjects": 10**16}, "--subjects is 10000000000000000; choose 1 to 100000"),
        ({"jobs": -1}, "jobs is -1"),
        ({"jobs": 10**9}, "jobs is 1000000000; choose 1 to 256"),
        ({"seed": -1}, "--seed is -1"),
        ({"missing": 1.0}, "--missing is 1"),
        ({"missing": -0.1}, "--missing is -0.1"),
        ({"missing": float("nan")}, "--missing is nan"),
        ({"resolution": 0.5}, "--resolution is 0.5"),
        ({"resolution": 9.0}, "--resolution is 9"),
        ({"resolution": float("nan"), "jobs": None}, "--resolution is nan"),
        ({"resolution": 0.0, "jobs": None}, "--resolution is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(tmp_path, changed, said):
    with pytest.raises(MetaVoxelError, match=said):
        run(tmp_path / "c", **changed)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("slices", [False, True])
def test_a_simulated_cohort_passes_the_bids_validator(tmp_path, quick, slices):
    assert bids_errors(run(tmp_path / "c", 2, slices=slices)) == []


FOREIGN = ["sub-0003/anat/sub-0003_T1w.nii.gz", "sub-0003/anat/sub-0003_T1w.json", "sub-0004"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_others_is_neither_overwritten_nor_taken_for_a_scan(tmp_path, quick, name):
    out = run(tmp_path / "c", 2)
    for path in (out / name, out / "sub-0001" / "notes.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = contents(out)
    with pytest.raises(MetaVoxelError, match="metavoxel simulate did not write this"):
        run(out, 4)
    assert contents(out) == before
    (out / name).unlink()
    run(out, 4)
    assert (out / "sub-0001" / "notes.txt").read_text() == "mine"


def test_a_cohort_is_no_other_command_s_and_one_s_at_a_time(tmp_path, quick):
    out = run(tmp_path / "c", 2)
    with holding(out, "simulate"), pytest.raises(BusyError, match="another metavoxel simulate"):
        run(out, 3)
    with (
        pytest.raises(MetaVoxelError, match="holds what metavoxel simulate wrote"),
        holding(out, "ask"),
    ):
        pass
