"""Does a generated image show what it was asked to show? The model itself reads it back.

    python benchmarks/read_back.py MODEL BIDS VARIABLE

Images are generated given a value of a continuous variable, and the variable is then asked given
each image. Beside it stands what the model reads off unseen people of that value, from a line
through the test subjects: regression to the mean is in both, so the two columns agree if generated
people vary with the variable as real ones do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.report import as_table
from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model

QUANTILES = (0.05, 0.35, 0.65, 0.95)  # of the test subjects
SAMPLES = 16


def main(folder: Path, bids: Path, variable: str) -> None:
    model = load_model(folder)
    if variable not in model.schema.numbers:
        raise MetaVoxelError(f'"{variable}" is not a continuous variable of {folder}.')
    cohort = read_cohort(bids, model.schema).only(read_split(folder / "split.json").test)
    table = as_table(model.schema, cohort)
    known = ~np.isnan(table.scalars[variable])
    values = table.scalars[variable][known]
    images = {v: torch.from_numpy(x[known]) for v, x in table.images.items()}
    line = np.polynomial.Polynomial.fit(values, read(model, variable, images), deg=1)
    print(f"| {variable} asked | read off {SAMPLES} generated | off unseen people |\n|---|---|---|")
    for value in np.quantile(values, QUANTILES):
        given = {variable: torch.tensor([value])}
        drawn = ask(model, [*model.schema.images], given, 1, SAMPLES, 0).samples
        back = read(model, variable, {v: x[0] for v, x in drawn.items()})
        error = back.std(ddof=1) / SAMPLES**0.5
        print(f"| {value:.1f} | {back.mean():.1f} ± {error:.1f} | {line(value):.1f} |")


def read(model: MetaVoxel, variable: str, images: dict[str, torch.Tensor]) -> np.ndarray:
    """The one-evaluation answers (n,) given the images."""
    n = len(next(iter(images.values())))
    return ask(model, [variable], images, n, 0, 0).point[variable].numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("variable")
    arguments = parser.parse_args()
    main(arguments.model, arguments.bids, arguments.variable)
