"""Do generated images follow age as subjects do, in mean and in spread? On a simulated cohort.

    python benchmarks/ageing_curve.py MODEL BIDS --given sex=F --given diagnosis=CN --out FOLDER

Images are drawn at each of the ages, all else as given. Beside them stand as many new simulated
subjects of the same scalars, grown by the cohort's causal model and passed through the same
autoencoder. A kernel ridge on the voxels of the training set reads the logarithm of every
measurement off both (`evaluation/anatomy.py`). Printed are mean and SD by age: exact, of the
subjects as read, of the images as read; the growth between ages; and the PIT: the rank of images
among the subjects of the same scalars, of mean 0.5 and SD 0.289 if they are alike. FOLDER gets
ageing_curve.json, and the images, which are used again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image as Picture

from metavoxel.data.anatomy import grid, grow, middle
from metavoxel.data.bids import read_cohort
from metavoxel.data.causal import DIAGNOSES, SEXES, CausalModel
from metavoxel.data.images import read_scan
from metavoxel.data.splits import read_split
from metavoxel.data.tables import read_table
from metavoxel.evaluation.anatomy import read_measurements
from metavoxel.evaluation.cohort import as_table
from metavoxel.evaluation.membership import reconstructed
from metavoxel.files.json import read_object
from metavoxel.files.writing import atomic_write
from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model
from metavoxel.schema import Image

LABELS = {"sex": SEXES, "diagnosis": DIAGNOSES}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)


def main(a: argparse.Namespace) -> None:
    model = load_model(a.model)
    image, labels = next(iter(model.schema.images)), dict(x.split("=") for x in a.given)
    settings = read_object(a.bids / "simulation.json")
    a.out.mkdir(parents=True, exist_ok=True)
    images = {age: drawn(model, image, age, labels, a) for age in a.ages}
    people = {age: grown(model.schema.images[image], age, labels, settings, a) for age in a.ages}
    seen, values = training_set(model, image, a)
    groups = {f"images {age}": x for age, x in images.items()}
    groups |= {f"subjects {age}": reconstructed(model, image, x) for age, x in people.items()}
    readings = read_measurements(seen, {v: np.log(x) for v, x in values.items()}, groups)
    result = {}
    for v, reading in readings.items():
        read = {k: np.exp(x) for k, x in reading.values.items()}
        rows = [
            row(v, age, labels, read[f"images {age}"], read[f"subjects {age}"]) for age in a.ages
        ]
        print_table(v, rows)
        result[v] = rows
    with atomic_write(a.out / "ageing_curve.json") as temporary:
        temporary.write_text(json.dumps({"given": labels, "measurements": result}, indent=2) + "\n")


def drawn(
    model: MetaVoxel, image: str, age: float, labels: dict[str, str], a: argparse.Namespace
) -> np.ndarray:
    """Images (n, C, *grid) of an age, kept on disk."""
    path = a.out / f"images-{age:g}-{a.images}-{a.seed}.npy"
    if path.is_file():
        return np.load(path)
    known = {"age": torch.tensor([float(age)])}
    known |= {v: torch.tensor([LABELS[v].index(x)]) for v, x in labels.items()}
    x = ask(model, [image], known, 1, a.images, a.seed + int(age)).samples[image][0].numpy()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, x)
    print(f"drawn at {age:g}", file=sys.stderr)
    return x


def grown(
    kind: Image,
    age: float,
    labels: dict[str, str],
    settings: dict[str, object],
    a: argparse.Namespace,
) -> np.ndarray:
    """New subjects' scans (n, C, *grid) of an age, as a training would read them."""
    path = a.out / f"subjects-{age:g}-{a.images}-{a.seed}.npy"
    if path.is_file():
        return np.load(path)
    resolution = float(str(settings["resolution"]))
    affine, shape = grid(resolution)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(a.images):
            # Five numbers: no stream of random numbers of the cohort itself has as many.
            rng = np.random.default_rng([a.seed, int(age), i, 0, 1])
            brain = grow(person(age, labels, rng), affine, shape, resolution, rng)
            levels = np.round(np.clip(brain / 1.3, 0, 1) * 255).astype(np.uint8)
            if settings["slices"]:
                scan = Path(folder) / "scan.png"
                Picture.fromarray(levels[:, ::-1, middle(affine)].T).save(scan)
            else:
                scan = Path(folder) / "scan.nii"
                nib.save(nib.Nifti1Image(levels, affine), scan)
            out.append(read_scan(scan, kind).array)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack(out))
    return np.stack(out)


def person(age: float, labels: dict[str, str], rng: np.random.Generator) -> dict[str, float]:
    """Measurements of a new subject; a label that is not given is drawn."""
    sex, stage = (drawn_label(v, age, labels, rng) for v in ("sex", "diagnosis"))
    return {
        v: float(
            kind.scale.natural(
                kind.expected(np.array([age]), sex, stage)[0] + kind.spread * rng.standard_normal()
            )
        )
        for v, kind in CausalModel().measurements.items()
    }


def drawn_label(name: str, age: float, labels: dict[str, str], rng: np.random.Generator) -> int:
    p = weights(age, labels)
    return int(rng.choice(p.shape[0] if name == "sex" else p.shape[1], p=p.sum(int(name == "sex"))))


def weights(age: float, labels: dict[str, str]) -> np.ndarray:
    """p(sex, diagnosis | age, given labels), (2, 3); the two are independent given age."""
    p = np.outer([0.5, 0.5], CausalModel().diagnosis_given_age(np.array([age]))[0])
    for axis, v in enumerate(LABELS):
        if v in labels:
            keep = np.arange(p.shape[axis]) == LABELS[v].index(labels[v])
            p = p * (keep[:, None] if axis == 0 else keep)
    return p / p.sum()


def exact(name: str, age: float, labels: dict[str, str]) -> tuple[float, float]:
    """Mean and SD of a measurement, by quadrature."""
    kind, p = CausalModel().measurements[name], weights(age, labels)
    mean = np.array([[kind.expected(np.array([age]), s, d)[0] for d in range(3)] for s in range(2)])
    values = kind.scale.natural(mean[..., None] + kind.spread * NODES)
    mass = p[..., None] * WEIGHTS / WEIGHTS.sum()
    first = float((mass * values).sum())
    return first, float(np.sqrt((mass * np.square(values - first)).sum()))


def training_set(
    model: MetaVoxel, image: str, a: argparse.Namespace
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The training subjects' images through the autoencoder, and what was built into them."""
    training = read_cohort(a.bids, model.schema).only(read_split(a.model / "split.json").train)
    table = as_table(model.schema, training)
    truth = read_table(a.bids / "derivatives/truth/participants.tsv")
    by_subject = {r.cells["participant_id"]: r.cells for r in truth.rows}
    values = {v: np.array([float(by_subject[s][v]) for s in table.subjects]) for v in a.measure}
    return reconstructed(model, image, table.images[image]), values


def row(
    name: str, age: float, labels: dict[str, str], images: np.ndarray, people: np.ndarray
) -> dict[str, float]:
    """Moments at an age of a measurement that was read off images (n,) and subjects (m,)."""
    rank = np.searchsorted(np.sort(people), images) / len(people)
    mean, std = exact(name, age, labels)
    moments = {"exact": (mean, std)} | {
        group: (float(x.mean()), float(x.std(ddof=1)))
        for group, x in (("subjects", people), ("images", images), ("PIT", rank))
    }
    return {"age": age} | {
        f"{group} {moment}": value
        for group, pair in moments.items()
        for moment, value in zip(("mean", "SD"), pair, strict=True)
    }


def print_table(name: str, rows: list[dict[str, float]]) -> None:
    print(f"\n{name}\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for each in rows:
        print(f"| {' | '.join(f'{x:.4g}' for x in each.values())} |")
    for first, last in itertools.pairwise(rows):
        grown = {g: last[f"{g} mean"] - first[f"{g} mean"] for g in ("exact", "subjects", "images")}
        said = ", ".join(f"{group} {x:.4g}" for group, x in grown.items())
        print(f"from {first['age']:g} to {last['age']:g}: {said}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("--given", action="append", default=[], metavar="VARIABLE=LABEL")
    parser.add_argument("--ages", nargs="+", type=float, default=[25, 40, 55, 70, 85])
    parser.add_argument(
        "--measure", nargs="+", default=["ventricle_volume", "brain_volume"],
        help="columns of derivatives/truth; a slice shows no hippocampus",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=300, help="at each age")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    main(parser.parse_args())
