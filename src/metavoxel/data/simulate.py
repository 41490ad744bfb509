"""A simulated cohort: T1w scans grown by a known causal model, as BIDS, with the exact truth.

The clinical variables and measurements are drawn as in `metavoxel.data.causal`, the scans grown
from them as in `metavoxel.data.anatomy`. A scan depends on the subject through the measurements
alone, so p(variable | measurements), exact by quadrature, is the best that anyone could say given
the scan. It is in derivatives/truth; a 2D slice does not show the hippocampi, so there it is given
the other measurements. Given other columns beside the scan, `CausalModel.posterior` has it.
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
from PIL import Image as Picture

from metavoxel.data.anatomy import grid, grow, middle
from metavoxel.data.causal import (
    CLINICAL,
    DIAGNOSES,
    MEASUREMENTS,
    SEXES,
    CausalModel,
    Person,
    Posterior,
)
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object
from metavoxel.files.owned import MARKER, OwnedFolder, holding
from metavoxel.files.writing import atomic_write
from metavoxel.version import __version__

SETTINGS = "simulation.json"
MOST_SUBJECTS = 100_000  # hours of work, and a table that is still read in seconds
_MOST_JOBS = 256  # processes
_TRUTH = "derivatives/truth"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_AT_ONCE = 500  # posteriors in memory, each of 34 kB
_BRIGHTEST = 1.3  # intensity that becomes 255
_UNSEEN_IN_A_SLICE = ("hippocampus_volume",)


def simulate(
    out: Path,
    subjects: int = 400,
    seed: int = 0,
    resolution: float = 4.0,
    missing: float = 0.2,
    slices: bool = False,
    progress: Callable[[int, int], None] | None = None,
    jobs: int | None = None,
) -> None:
    """Write a simulated cohort to `out` as a BIDS dataset.

    Every cell of participants.tsv is n/a with probability `missing`; the complete table, the
    measurements and the exact posterior of every subject are in derivatives/truth. With `slices`
    each subject is one axial PNG through the ventricles, not a NIfTI volume. Subject i depends on
    (seed, i) alone. Scans that are there already are kept, so an interrupted call can be repeated
    and a cohort extended. `progress` is called with (done, subjects); `jobs` processes work, by
    default as many as pay. Raises MetaVoxelError for settings that cannot be, or a folder that
    holds other things.
    """
    out = Path(out)
    _check(subjects, seed, resolution, missing, jobs)
    workers = jobs or _workers(subjects, resolution)
    settings = {"seed": seed, "resolution": resolution, "missing": missing, "slices": slices}
    with holding(out, "simulate") as place:
        _begin(place, settings | {"version": __version__}, subjects)
        model = CausalModel()
        people = [model.draw(_rng(seed, i, "person")) for i in range(subjects)]
        write = _write_slice if slices else _write_volume
        tasks = (delayed(write)(out, i, x, seed, resolution) for i, x in enumerate(people))
        for done, _ in enumerate(Parallel(n_jobs=workers, return_as="generator")(tasks), start=1):
            if progress is not None:
                progress(done, subjects)
        visible = [m for m in MEASUREMENTS if not (slices and m in _UNSEEN_IN_A_SLICE)]
        _write_truth(out / _TRUTH, people, model, visible)
        _write_tables(out, people, seed, missing)


def _written(subjects: int, slices: bool) -> list[str]:
    """Every file of a cohort, as paths from its folder."""
    scans = [f"{name(i)}/anat/{name(i)}_T1w" for i in range(subjects)]
    endings = (".png" if slices else ".nii.gz", ".json")
    tables = ("participants.tsv", "participants.json", "dataset_description.json")
    return [
        *(SETTINGS, ".bidsignore", "README", *tables),
        *(f"{_TRUTH}/{table}" for table in tables),
        *(f"{scan}{ending}" for scan in scans for ending in endings),
    ]


def name(index: int) -> str:
    """The participant id of subject number `index`."""
    return f"sub-{index + 1:04d}"


def _workers(subjects: int, resolution: float) -> int:
    """Processes worth their start: one for every hundred 4 mm scans, as many as there are cores."""
    return min(os.cpu_count() or 1, 1 + int(subjects * (4 / resolution) ** 3) // 100)


def _check(subjects: int, seed: int, resolution: float, missing: float, jobs: int | None) -> None:
    if not 1 <= subjects <= MOST_SUBJECTS:
        raise MetaVoxelError(f"--subjects is {subjects}; choose 1 to {MOST_SUBJECTS}.")
    if jobs is not None and not 1 <= jobs <= _MOST_JOBS:
        raise MetaVoxelError(f"jobs is {jobs}; choose 1 to {_MOST_JOBS} processes.")
    if seed < 0:
        raise MetaVoxelError(f"--seed is {seed}; choose 0 or more.")
    if not 1 <= resolution <= 8:
        raise MetaVoxelError(f"--resolution is {resolution:g} mm; choose 1 to 8.")
    if not 0 <= missing < 1:
        raise MetaVoxelError(f"--missing is {missing:g}; it is a share, from 0 to below 1.")


def _begin(place: OwnedFolder, settings: dict[str, Any], subjects: int) -> None:
    """Refuse a folder that holds another simulation, more subjects, or others' files where ours go;
    list what is to be written."""
    path = place.folder / SETTINGS
    if SETTINGS in place.listed() and path.exists():
        if read_object(path) != settings:
            raise MetaVoxelError(
                f"{place.folder} holds a simulation with other settings. Choose another folder, or "
                "remove it."
            )
        if (place.folder / name(subjects)).exists():
            raise MetaVoxelError(
                f"{place.folder} holds more than {subjects} subjects. Ask for as many, or choose "
                "another folder."
            )
    slices = bool(settings["slices"])
    place.add(*_written(subjects, slices))
    pictures = "*_T1w.*\n" if slices else ""  # BIDS knows no 2D scans
    _write(place.folder / ".bidsignore", f"{SETTINGS}\n{MARKER}\n{pictures}")
    _write(path, json.dumps(settings) + "\n")


def _write_volume(out: Path, index: int, person: Person, seed: int, resolution: float) -> None:
    path = out / name(index) / "anat" / f"{name(index)}_T1w.nii.gz"
    if path.exists():
        return
    levels, affine = _scan(index, person, seed, resolution)
    image = nib.Nifti1Image(levels, affine)
    image.header.set_xyzt_units("mm")
    # No time stamp in the archive: the same subject is the same file, byte for byte.
    packed = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    _write_with_sidecar(path, packed, seed, resolution)


def _write_slice(out: Path, index: int, person: Person, seed: int, resolution: float) -> None:
    path = out / name(index) / "anat" / f"{name(index)}_T1w.png"
    if path.exists():
        return
    levels, affine = _scan(index, person, seed, resolution)
    picture = io.BytesIO()
    # Rows from anterior to posterior, columns from the subject's left to right: nose up.
    Picture.fromarray(levels[:, ::-1, middle(affine)].T).save(picture, format="png")
    _write_with_sidecar(path, picture.getvalue(), seed, resolution)


def _scan(
    index: int, person: Person, seed: int, resolution: float
) -> tuple[np.ndarray, np.ndarray]:
    """The subject's brain as 8-bit levels, and its affine."""
    affine, shape = grid(resolution)
    brain = grow(person.measurements, affine, shape, resolution, _rng(seed, index, "scan"))
    return np.round(np.clip(brain / _BRIGHTEST, 0, 1) * 255).astype(np.uint8), affine


def _write_with_sidecar(path: Path, content: bytes, seed: int, resolution: float) -> None:
    """The scan last: where it is, the subject is finished."""
    sidecar = {"Simulated": True, "Resolution": resolution, "Seed": seed}
    _write(path.with_name(f"{path.name.split('.')[0]}.json"), json.dumps(sidecar) + "\n")
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _write_tables(out: Path, people: list[Person], seed: int, missing: float) -> None:
    rows = []
    for i, person in enumerate(people):
        cells = _cells(person)
        lost = _rng(seed, i, "missing").uniform(size=len(cells)) < missing
        rows.append([name(i), *("n/a" if x else c for x, c in zip(lost, cells, strict=True))])
    _write_tsv(out / "participants.tsv", ["participant_id", *_described()], rows)
    _write(out / "participants.json", json.dumps(_described(), indent=2) + "\n")
    _write(out / "README", "Simulated by metavoxel; no subject is real.\n")
    _describe(out, "Simulated cohort", "raw")


def _cells(person: Person) -> list[str]:
    """The clinical variables, in the order of `_described`."""
    # Near its ceiling a tenth of a point of the MMSE is much on the scale where it is Gaussian.
    education, mmse = f"{person.clinical['education']:.1f}", f"{person.clinical['mmse']:.2f}"
    return [f"{person.age:.1f}", person.sex, person.diagnosis, education, mmse]


def _described() -> dict[str, Any]:
    """What participants.json says of the clinical variables."""
    return {
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
        "education": {"Description": "Education", "Units": "years"},
        "mmse": {
            "Description": "Mini-Mental State Examination, 0 to 30, not rounded to whole points",
            "Units": "points",
        },
    }


def _write_truth(
    folder: Path, people: list[Person], model: CausalModel, visible: list[str]
) -> None:
    """Complete values, measurements, and the posterior given the visible measurements."""
    about = _described() | _truth_described(", ".join(visible))
    rows = []
    for start in range(0, len(people), _AT_ONCE):
        group = people[start : start + _AT_ONCE]
        shown = {m: np.array([person.measurements[m] for person in group]) for m in visible}
        answers = _answers(model.posterior(shown))
        for i, (person, said) in enumerate(zip(group, answers, strict=True), start):
            numbers = [*person.measurements.values(), *said]
            rows.append([name(i), *_cells(person), *(f"{x:.5g}" for x in numbers)])
    _write_tsv(folder / "participants.tsv", ["participant_id", *about], rows)
    _write(folder / "participants.json", json.dumps(about, indent=2) + "\n")
    _describe(folder, "Truth behind a simulated cohort", "derivative")


def _answers(posterior: Posterior) -> np.ndarray:
    """The columns that `_truth_described` describes after the measurements, (subjects, columns)."""
    columns = []
    for marginal in (posterior.age, *(posterior.number(v) for v in CLINICAL)):
        columns += [marginal.mean, marginal.std, *(marginal.quantile(q) for q in _QUANTILES)]
    columns += [*posterior.sex.values(), *posterior.diagnosis.values()]
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def _truth_described(given: str) -> dict[str, Any]:
    """What the truth's participants.json says of the measurements and the posterior."""
    about: dict[str, Any] = {
        m: {"Description": f"True {m.replace('_', ' ')}", "Units": kind.unit}
        for m, kind in MEASUREMENTS.items()
    }
    words = {"mean": "Mean", "std": "Standard deviation"}
    words |= {f"q{100 * q:g}": f"{100 * q:g}% quantile" for q in _QUANTILES}
    units = {"age": "years", **{v: kind.unit for v, kind in CLINICAL.items()}}
    about |= {
        f"{v}_{column}": {"Description": f"{said} of p({v} | {given})", "Units": unit}
        for v, unit in units.items()
        for column, said in words.items()
    }
    for variable, labels in (("sex", SEXES), ("diagnosis", DIAGNOSES)):
        about |= {
            f"p_{label}": {"Description": f"p({variable} = {label} | {given})"} for label in labels
        }
    return about


def _describe(folder: Path, title: str, kind: str) -> None:
    description = {
        "Name": title,
        "BIDSVersion": "1.9.0",
        "DatasetType": kind,
        "GeneratedBy": [{"Name": "metavoxel simulate", "Version": __version__}],
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
    """The random numbers of one subject for one purpose."""
    return np.random.default_rng([seed, index, ["person", "scan", "missing"].index(purpose)])
