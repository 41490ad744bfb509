"""Do generated people age? What an independent reader measures in them, beside real people.

    python benchmarks/ageing.py MODEL BIDS VARIABLE --by VARIABLE --out FOLDER

Images are drawn given values of a continuous variable (the first) and every label of the
categorical ones (--by). A kernel ridge on the voxels of the training people reads every other
continuous variable off them, or those of --measure, and off the test people, whose values tell its
error (docs/howto/memorisation.md). FOLDER gets ageing.json, a figure per measurement, and the
images, which are used again if the model, the conditions, the number and the seed are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from metavoxel.data.splits import read_split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.anatomy import (
    Cell,
    People,
    ageing_table,
    read_measurements,
    reader_scores,
    slopes,
)
from metavoxel.evaluation.cohort import Table, as_table, join, read_parts
from metavoxel.evaluation.figures.anatomy import ageing_figure
from metavoxel.evaluation.figures.style import save_png
from metavoxel.evaluation.membership import reconstructed
from metavoxel.evaluation.scores import Score
from metavoxel.files.writing import atomic_write
from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model
from metavoxel.schema import Schema

QUANTILES = (0.1, 0.37, 0.63, 0.9)  # of the variable, over the test people
GENERATED, READ, MEASURED = "generated", "test people, read", "all people, measured"
Condition = dict[str, float]


def main(a: argparse.Namespace) -> None:
    model = load_model(a.model)
    parts = read_parts(a.bids, model.schema, read_split(a.model / "split.json"), False)
    training, test = (as_table(model.schema, part) for part in (parts.training, parts.test))
    schema, image = parts.test.schema, next(iter(model.schema.images))
    asked = conditions(schema, a.variable, a.by, test)
    measures = a.measure or [v for v in schema.numbers if v != a.variable]
    a.out.mkdir(parents=True, exist_ok=True)
    images = drawn(model, image, asked, a.samples, a.seed, a.out, version(a.model, asked))
    # As generated images have: through the decoder.
    seen, unseen = (reconstructed(model, image, x.images[image]) for x in (training, test))
    groups = {GENERATED: images.reshape(-1, *images.shape[2:]), READ: unseen}
    readings = read_measurements(seen, {v: training.scalars[v] for v in measures}, groups)
    everyone, result = join(training, test), {}
    for v, reading in readings.items():
        real = {
            READ: People(test.scalars, reading.values[READ]),
            MEASURED: People(everyone.scalars, everyone.scalars[v]),
        }
        made = reading.values[GENERATED].reshape(len(asked), a.samples)
        cells = ageing_table(schema, asked, made, real, {a.variable: window(asked, a.variable)})
        rates = slopes(schema, a.variable, asked, made, real)
        error = reader_scores(reading.values[READ], test.scalars[v])
        print_tables(schema, v, cells, rates, error)
        result[v] = {
            "reader": {k: x.to_json() for k, x in error.items()},
            "cells": [cell.to_json() for cell in cells],
            "slope_per_10": {k: x.to_json() for k, x in rates.items()},
        }
        figure = ageing_figure(schema, a.variable, v, cells, real[MEASURED])
        save_png(figure, a.out / f"{v}.png")
    with atomic_write(a.out / "ageing.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


def conditions(schema: Schema, along: str, by: Sequence[str], people: Table) -> list[Condition]:
    """Quantiles of the people's values, with every label of the categorical variables."""
    if along not in schema.numbers or any(v not in schema.categorical for v in by):
        raise MetaVoxelError(
            "VARIABLE is one of "
            f"{', '.join(schema.numbers)}, --by of {', '.join(schema.categorical)}."
        )
    values = people.scalars[along][~np.isnan(people.scalars[along])]
    labels = [range(len(schema.categorical[v].labels)) for v in by]
    return [
        {along: round(float(value), 1), **dict(zip(by, map(float, chosen), strict=True))}
        for chosen in itertools.product(*labels)
        for value in np.quantile(values, QUANTILES)
    ]


def window(asked: Sequence[Condition], along: str) -> float:
    """Half the least step between asked values: real people count for one cell at most."""
    return float(np.diff(np.unique([c[along] for c in asked])).min() / 2)


def version(folder: Path, asked: Sequence[Condition]) -> str:
    """Of the model and the conditions."""
    told = (folder / "checksums.json").read_bytes() + json.dumps(asked).encode()
    return hashlib.sha256(told).hexdigest()[:12]


def drawn(
    model: MetaVoxel,
    image: str,
    asked: Sequence[Condition],
    samples: int,
    seed: int,
    out: Path,
    name: str,
) -> np.ndarray:
    """Images (conditions, samples, C, *grid); a condition that is on disk is not drawn again."""
    path = out / f"generated-{name}-{samples}-{seed}.npy"
    done = list(np.load(path)) if path.is_file() else []
    for i, condition in enumerate(asked[len(done) :], start=len(done)):
        known = {
            v: torch.tensor([x if v in model.schema.numbers else int(x)])
            for v, x in condition.items()
        }
        done.append(ask(model, [image], known, 1, samples, seed + i).samples[image][0].numpy())
        with atomic_write(path) as temporary:
            np.save(temporary, np.stack(done))
        print(f"drawn {i + 1}/{len(asked)}", file=sys.stderr)
    return np.stack(done)


def print_tables(
    schema: Schema,
    measure: str,
    cells: Sequence[Cell],
    rates: dict[str, Score],
    error: dict[str, Score],
) -> None:
    unit = schema.numbers[measure].unit
    print(f"\n{measure} ({unit}); reader: MAE {error['mae']}, r {error['r']}\n")
    print(f"| asked | {GENERATED} | {READ} | {MEASURED} |\n|---|---|---|---|")
    for cell in cells:
        real = [f"{said(cell.real[k])} (n = {cell.real[k].n})" for k in (READ, MEASURED)]
        print(f"| {cell.named(schema)} | {said(cell.generated)} | {real[0]} | {real[1]} |")
    print(f"| slope per 10 | {' | '.join(said(rates[k]) for k in (GENERATED, READ, MEASURED))} |")


def said(score: Score) -> str:
    """To four figures: brain volumes differ in the third."""
    return " ".join(
        ["n/a" if np.isnan(score.value) else f"{score.value:.4g}"]
        + ([] if np.isnan(score.low) else [f"[{score.low:.4g}, {score.high:.4g}]"])
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("variable")
    parser.add_argument("--by", action="append", default=[])
    parser.add_argument("--measure", action="append")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
