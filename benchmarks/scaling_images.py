"""What scaling.py measures of drawn images: ageing, variety and memory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ageing_curve import exact, grown
from scaling_systems import New, Piece, under_source

from metavoxel.data.tables import read_table
from metavoxel.evaluation.anatomy import read_measurements
from metavoxel.evaluation.images.extractors import as_extractor
from metavoxel.evaluation.images.measures import frechet
from metavoxel.evaluation.images.slices import FLAT, described
from metavoxel.files.json import read_object
from metavoxel.files.writing import locked

AGES = (25, 55, 85)
GIVEN = {"sex": "F", "diagnosis": "CN"}
MEASURED = "ventricle_volume"
AT_AGE, COUNT, MEMBERS = 100, 500, 1000


def measured(piece: Piece, new: New, work: Path) -> dict[str, Any]:
    """Of a trained model: ventricles at some ages as read off its images, with those of subjects
    and the truth; the Frechet distance of its images to new subjects; the AUC of membership."""
    at_age, count = (30, 30) if piece.quick else (AT_AGE, COUNT)
    training, _ = piece.tables()
    people = subjects(piece, work, at_age)
    held_out = new.first(MEMBERS).table
    arrays = {f"subjects {age}": x for age, x in people.items()}
    for part, table in (("training", training), ("held_out", held_out)):
        few = slice(MEMBERS)
        arrays[part] = table.images["image"] if part == "training" else table.images["image"][few]
        arrays |= {f"{part} {v}": x for v, x in table.scalars.items()}
    labels = {v: kind.labels.index(GIVEN[v]) for v, kind in _labels(piece).items() if v in GIVEN}
    plan = {"ages": AGES, "labels": labels, "at_age": at_age, "count": count, "seed": piece.seed}
    found = under_source(piece, arrays, plan)
    auc = {k.removeprefix("AUC "): float(x) for k, x in found.items() if k.startswith("AUC")}
    return {
        "ageing": ageing(found, volumes(piece, training.subjects)),
        **distances(found["generated"], new.table.images["image"]),
        "membership AUC": auc,
    }


def _labels(piece: Piece) -> Mapping[str, Any]:
    return piece.schema.categorical


def subjects(piece: Piece, work: Path, count: int) -> dict[int, np.ndarray]:
    """New subjects' images by age, of the same sex and diagnosis; kept in `work`."""
    place = argparse.Namespace(out=work, images=count, seed=0)
    settings = read_object(piece.bids / "simulation.json")
    with locked(work / "subjects.lock", "", wait=True):
        kind = piece.schema.images["image"]
        return {age: grown(kind, age, GIVEN, settings, place) for age in AGES}


def volumes(piece: Piece, names: tuple[str, ...]) -> np.ndarray:
    """What was built into the training subjects, (n,)."""
    truth = read_table(piece.bids / "derivatives/truth/participants.tsv")
    by_subject = {r.cells["participant_id"]: r.cells for r in truth.rows}
    return np.array([float(by_subject[s][MEASURED]) for s in names])


def ageing(found: Mapping[str, np.ndarray], built: np.ndarray) -> dict[str, Any]:
    """Mean and SD at each age, in mL, of images and subjects as read, and the truth."""
    groups = {k: x for k, x in found.items() if k.startswith(("images", "subjects"))}
    read = read_measurements(found["training"], {MEASURED: np.log(built)}, groups)[MEASURED].values
    out: dict[str, Any] = {}
    for age in AGES:
        out[str(age)] = {"exact": exact(MEASURED, age, GIVEN)}
        for group in ("images", "subjects"):
            x = np.exp(read[f"{group} {age}"])
            out[str(age)][group] = float(x.mean()), float(x.std(ddof=1))
    return out


def distances(generated: np.ndarray, new: np.ndarray) -> dict[str, float]:
    """The Frechet distance of GIST features to new subjects, and its floor: that of as many other
    new subjects."""
    count, extractor = min(len(generated), len(new) // 2), as_extractor("gist")
    ours, others, real = (
        described(x, {FLAT: np.zeros(1, int)}, extractor)[FLAT][:, 0]
        for x in (generated[:count], new[:count], new[count:])
    )
    return {"frechet": frechet(ours, real), "frechet floor": frechet(others, real)}
