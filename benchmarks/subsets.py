"""One model, any subset: every scalar from nothing, the other scalars, the image, all of them.

    python benchmarks/subsets.py MODEL [MODEL ...] BIDS [--of train]

On the models' test subjects, all together, in one evaluation each, or on those `--of` another part
of their splits, where a subject counts once for every model that has it there. Beside each question
about scalars stands a linear model of its own, fitted to the training and validation subjects:
ridge or logistic regression on the other scalars, their gaps filled with the mean and marked. The
last two columns show the image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.evaluation.baselines import kernel_ridge, logistic, majority, population_mean
from metavoxel.evaluation.report import Table, as_table
from metavoxel.evaluation.scores import over_subjects
from metavoxel.inference.ask import ask_encoded
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model
from metavoxel.schema import Schema

COLUMNS = (
    "mean / majority",
    "model, given nothing",
    "linear on the other scalars",
    "model, given the other scalars",
    "model, given the image",
    "model, given all else",
)


def main(folders: list[Path], bids: Path, part: str) -> None:
    hits: dict[str, list[np.ndarray]] = {}
    for folder in folders:
        for v, columns in hits_of(folder, bids, part).items():
            hits.setdefault(v, []).append(columns)
    print(f"| variable (n) | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for v, parts in hits.items():
        columns = np.concatenate(parts, 1)
        cells = " | ".join(str(over_subjects(column)) for column in columns)
        print(f"| {v} ({columns.shape[1]}) | {cells} |")


def hits_of(folder: Path, bids: Path, part: str) -> dict[str, np.ndarray]:
    """Absolute errors, or whether the label is right, (COLUMNS, n) of a part of a model's split."""
    model = load_model(folder)
    cohort, split = read_cohort(bids, model.schema), read_split(folder / "split.json")
    people = as_table(model.schema, cohort.only(getattr(split, part)))
    training = as_table(model.schema, cohort.only([*split.train, *split.validation]))
    images = {v: torch.from_numpy(x) for v, x in people.images.items()}
    each = [model.encode({v: x[i : i + 1] for v, x in images.items()}) for i in range(len(people))]
    latents = {v: torch.cat([z0[v] for z0 in each]) for v in images}
    out = {}
    for v in model.schema.scalars:
        known = ~np.isnan(people.scalars[v])
        others = [other for other in model.schema.scalars if other != v]
        answers = [
            simple(model.schema, v, training, len(people)),
            asked(model, v, {}, {}, len(people)),
            linear(model.schema, v, others, training, people),
            asked(model, v, {}, {o: people.scalars[o] for o in others}, len(people)),
            asked(model, v, latents, {}, len(people)),
            asked(model, v, latents, {o: people.scalars[o] for o in others}, len(people)),
        ]
        error = np.abs(np.stack(answers)[:, known] - people.scalars[v][known])
        out[v] = error if v in model.schema.numbers else (error == 0) * 1.0
    return out


def asked(
    model: MetaVoxel,
    variable: str,
    latents: dict[str, torch.Tensor],
    scalars: dict[str, np.ndarray],
    n: int,
) -> np.ndarray:
    """The one-evaluation answers (n,). A record is asked with what is known of it."""
    gaps = np.array([np.isnan(x) for x in scalars.values()]).T.reshape(n, -1)
    out = np.empty(n)
    for pattern in np.unique(gaps, axis=0):
        rows = torch.from_numpy((gaps == pattern).all(1).nonzero()[0])
        known = [v for v, missing in zip(scalars, pattern, strict=True) if not missing]
        z0 = {v: x[rows] for v, x in latents.items()}
        z0 |= model.encode({v: torch.from_numpy(scalars[v])[rows] for v in known})
        point = ask_encoded(model, [variable], z0, len(rows), 0, 0).point[variable]
        out[rows] = point if variable in model.schema.numbers else point.argmax(-1)
    return out


def simple(schema: Schema, variable: str, training: Table, n: int) -> np.ndarray:
    values = training.scalars[variable]
    values = values[~np.isnan(values)]
    return (population_mean if variable in schema.numbers else majority)(values, n)


def linear(
    schema: Schema, variable: str, others: list[str], training: Table, test: Table
) -> np.ndarray:
    """Ridge or logistic regression on the other scalars."""
    known = ~np.isnan(training.scalars[variable])
    x, x_test = (np.stack([t.scalars[o] for o in others], 1) for t in (training, test))
    features = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()).fit(x[known])
    fit = kernel_ridge if variable in schema.numbers else logistic
    values = training.scalars[variable][known]
    return fit(features.transform(x[known]), values, features.transform(x_test))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("bids", type=Path)
    parser.add_argument("--of", choices=["train", "validation", "test"], default="test")
    arguments = parser.parse_args()
    main(arguments.models, arguments.bids, arguments.of)
