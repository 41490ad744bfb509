"""A simulated cohort: T1w scans grown by a known causal model, as BIDS, with the exact truth.

The clinical variables and measurements are drawn as in `metavoxel.data.causal`, the scans grown from
them as in `metavoxel.data.anatomy`. A scan depends on the person through the measurements alone, so
p(age | measurements), exact by quadrature, is the best that anyone could say given the scan.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from joblib import Parallel, delayed

import metavoxel
from metavoxel.data.anatomy import grid, grow
from metavoxel.data.causal import DIAGNOSES, MEASUREMENTS, SEXES, UNITS, CausalModel, Person
from metavoxel.errors import MetaVoxelError
from metavoxel.files import atomic_write

SETTINGS = "simulation.json"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def simulate(
    out: Path,
    subjects: int = 400,
    seed: int = 0,
    resolution: float = 4.0,
    missing: float = 0.2,
    progress: Callable[[int, int], None] | None = None,
    jobs: int | None = None,
) -> None:
    """Write a simulated cohort to `out` as a BIDS dataset.

    Every cell of participants.tsv is n/a with probability `missing`; the complete table, the
    measurements and the exact posterior of every person are in derivatives/truth. Person i depends
    on (seed, i) alone. Scans that are there already are kept, so an interrupted call can be
    repeated. Raises MetaVoxelError for settings that cannot be or a folder that holds other things.
    """
    out = Path(out)
    _check(subjects, resolution, missing)
    _open(out, {"seed": seed, "resolution": resolution, "missing": missing})
    model = CausalModel()
    people = [model.draw(_rng(seed, i, "person")) for i in range(subjects)]
    tasks = (
        delayed(_write_scan)(out, i, person, seed, resolution) for i, person in enumerate(people)
    )
    workers = jobs or min(os.cpu_count() or 1, 8)
    for done, _ in enumerate(Parallel(n_jobs=workers, return_as="generator")(tasks), start=1):
        if progress is not None:
            progress(done, subjects)
    _write_tables(out, people, seed, missing)
    _write_truth(out / "derivatives" / "truth", people, model)


def name(index: int) -> str:
    """The participant id of person number `index`."""
    return f"sub-{index + 1:04d}"


def _check(subjects: int, resolution: float, missing: float) -> None:
    if subjects < 1:
        raise MetaVoxelError(f"--subjects is {subjects}; simulate at least one.")
    if not 1 <= resolution <= 10:
        raise MetaVoxelError(f"--resolution is {resolution:g} mm; choose 1 to 10.")
    if not 0 <= missing < 1:
        raise MetaVoxelError(f"--missing is {missing:g}; it is a share, from 0 to below 1.")


def _open(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but the same simulation."""
    path = out / SETTINGS
    if path.is_file():
        if json.loads(path.read_text()) != settings:
            raise MetaVoxelError(
                f"{out} holds a simulation with other settings. Choose another folder, or remove it."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise MetaVoxelError(f"{out} is not empty. Choose another folder, or empty it.")
    _write(path, json.dumps(settings) + "\n")


def _write_scan(out: Path, index: int, person: Person, seed: int, resolution: float) -> None:
    subject = name(index)
    path = out / subject / "anat" / f"{subject}_T1w.nii.gz"
    if path.exists():
        return
    affine, shape = grid(resolution)
    brain = grow(person.measurements, affine, shape, resolution, _rng(seed, index, "scan"))
    levels = np.round(np.clip(brain / 1.3, 0, 1) * 255).astype(np.uint8)
    image = nib.Nifti1Image(levels, affine)
    image.header.set_xyzt_units("mm")
    # No time stamp in the archive: the same person is the same file, byte for byte.
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream:
        stream.write(image.to_bytes())
    sidecar = {"Simulated": True, "Resolution": resolution, "Seed": seed}
    _write(path.with_name(f"{subject}_T1w.json"), json.dumps(sidecar) + "\n")
    with atomic_write(path) as temporary:
        temporary.write_bytes(packed.getvalue())


def _write_tables(out: Path, people: list[Person], seed: int, missing: float) -> None:
    rows = []
    for i, person in enumerate(people):
        lost = _rng(seed, i, "missing").uniform(size=3) < missing
        cells = (f"{person.age:.1f}", person.sex, person.diagnosis)
        rows.append([name(i), *("n/a" if x else c for x, c in zip(lost, cells, strict=True))])
    _write_tsv(out / "participants.tsv", ["participant_id", "age", "sex", "diagnosis"], rows)
    described = {
        "age": {"Description": "Age at the scan", "Units": "years"},
        "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
        "diagnosis": {
            "Description": "Diagnosis, ordered",
            "Levels": {
                "CN": "cognitively normal",
                "MCI": "mild cognitive impairment",
                "AD": "Alzheimer's disease",
            },
        },
    }
    _write(out / "participants.json", json.dumps(described, indent=2) + "\n")
    _write(out / "README", "Simulated by metavoxel; nobody here exists.\n")
    _describe(out, "Simulated cohort", "raw")


def _write_truth(folder: Path, people: list[Person], model: CausalModel) -> None:
    """Complete values, measurements, and the posterior given all four measurements."""
    columns = ["participant_id", "age", "sex", "diagnosis", *MEASUREMENTS]
    columns += ["age_mean", "age_std", *(f"age_q{100 * q:g}" for q in _QUANTILES)]
    columns += [f"p_{label}" for label in (*SEXES, *DIAGNOSES)]
    rows = []
    for i, person in enumerate(people):
        posterior = model.posterior(person.measurements)
        numbers = [
            *person.measurements.values(),
            posterior.mean,
            posterior.std,
            *(posterior.quantile(q) for q in _QUANTILES),
            *posterior.sex.values(),
            *posterior.diagnosis.values(),
        ]
        cells = [name(i), f"{person.age:.1f}", person.sex, person.diagnosis]
        rows.append([*cells, *(f"{x:.5g}" for x in numbers)])
    _write_tsv(folder / "participants.tsv", columns, rows)
    about = {m: {"Description": f"True {m.replace('_', ' ')}", "Units": UNITS[m]} for m in UNITS}
    about |= {
        "age_mean": {"Description": "Mean of p(age | measurements)", "Units": "years"},
        "age_std": {"Description": "Standard deviation of p(age | measurements)", "Units": "years"},
    }
    _write(folder / "participants.json", json.dumps(about, indent=2) + "\n")
    _describe(folder, "Truth behind a simulated cohort", "derivative")


def _describe(folder: Path, title: str, kind: str) -> None:
    description = {
        "Name": title,
        "BIDSVersion": "1.9.0",
        "DatasetType": kind,
        "GeneratedBy": [{"Name": "metavoxel simulate", "Version": metavoxel.__version__}],
    }
    _write(folder / "dataset_description.json", json.dumps(description, indent=2) + "\n")


def _write_tsv(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([columns, *rows])
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def _rng(seed: int, index: int, purpose: str) -> np.random.Generator:
    """The random numbers of one person for one purpose."""
    return np.random.default_rng([seed, index, ["person", "scan", "missing"].index(purpose)])
