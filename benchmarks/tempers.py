"""How wide the priors of the tempers should be: many small cohorts, few people to temper on.

    python benchmarks/tempers.py FOLDER [--models 10]

Models of 107 simulated people (2D slices), each tempered on 12, are asked for the age of 800
others. The factor that their squared errors ask for is known; so is what each prior would have made
of the 12. A model is kept in FOLDER as soon as it is trained. About two minutes of a core each.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console

from metavoxel.data.bids import read_cohort
from metavoxel.data.simulate import simulate
from metavoxel.data.splits import read_split
from metavoxel.evaluation.cohort import as_table
from metavoxel.files.writing import atomic_write
from metavoxel.files.yaml import read_yaml
from metavoxel.inference import temper
from metavoxel.inference.ask import ask
from metavoxel.inference.spread import stated_spread
from metavoxel.model_folder import load_model
from metavoxel.training.config import RunConfig
from metavoxel.training.run import train

CONFIG = Path(__file__).parents[1] / "configs" / "simulated-slices.yaml"
PEOPLE, ASKED = 2000, 800
PRIORS = ((1.0, 1.0), (0.5, 0.5), (0.3, 0.3), (0.2, 0.2), (0.3, 0.1), (1e-3, 1e-3))


@dataclass(frozen=True)
class Model:
    """Age given the image: squared errors of unseen people in units of the untempered variance, the
    mean of that variance over the mean squared error, and the curves of the 12 by scalar (V, G)."""

    relative: np.ndarray
    ratio: float
    curves: torch.Tensor
    powers: list[int]

    @property
    def factor(self) -> float:
        return float(self.relative.mean())

    def tempered(self, mu_std: float, tau_std: float) -> float:
        factors = temper.shrunk_factors(self.curves, self.powers, mu_std, tau_std)
        return float(factors[0])  # age is the first


def run_config(seed: int) -> RunConfig:
    settings = read_yaml(CONFIG)
    settings["training"]["seed"] = seed
    settings["training"]["split"] = {
        "kind": "fractions", "train": 0.0535, "validation": 0.006, "test": 0.9405, "seed": seed,
    }  # fmt: skip
    settings["training"]["joint"] |= {
        "steps": 600, "validate_every": 100, "batch_size": 16, "answer_samples": 0, "copies": 16,
    }  # fmt: skip
    return RunConfig.model_validate(settings)


def trained(cohort: Path, folder: Path, seed: int) -> Model:
    path = folder / f"{seed}.npz"
    if not path.exists():
        _train(cohort, folder / f"model-{seed}", path, seed)
    kept = np.load(path)
    return Model(
        kept["relative"],
        float(kept["ratio"]),
        torch.from_numpy(kept["curves"]),
        kept["powers"].tolist(),
    )


def _train(cohort: Path, place: Path, path: Path, seed: int) -> None:
    with mock.patch.object(temper, "shrunk_factors", wraps=temper.shrunk_factors) as seen:
        train(cohort, run_config(seed), place, console=Console(quiet=True))
    curves, powers = seen.call_args_list[0].args  # the first is given the images
    model = load_model(place)
    model.tempers = {}
    people = read_split(place / "split.json").test[:ASKED]
    table = as_table(model.schema, read_cohort(cohort, model.schema).only(people))
    images = {v: torch.from_numpy(x) for v, x in table.images.items()}
    said = ask(model, ["age"], images, len(table), 0, seed).point["age"].numpy()
    spread = stated_spread(model, ["age"], model.encode(images), len(table), seed)["age"].numpy()
    squared = np.square(said - table.scalars["age"])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            relative=squared / spread**2,
            ratio=np.square(spread).mean() / squared.mean(),
            curves=curves.numpy(),
            powers=powers,
        )


def main(folder: Path, count: int) -> None:
    cohort = folder / "cohort"
    if not cohort.exists():
        simulate(cohort, subjects=PEOPLE, seed=0, resolution=4.0, missing=0.0, slices=True)
    models = [trained(cohort, folder, seed) for seed in range(count)]
    wanted = np.log([m.factor for m in models])
    print(f"{count} models; their variances are too small by {np.exp(wanted).round(2).tolist()}")
    print(
        "| std of mu | of tau | error of log factor, RMS | mean | NLL | variance / squared error |"
    )
    print("|---|---|---|---|---|---|")
    for prior in PRIORS:
        factors = np.array([m.tempered(*prior) for m in models])
        off = np.log(factors) - wanted
        likelihood = np.mean(
            [(np.log(f) + m.factor / f) / 2 for f, m in zip(factors, models, strict=True)]
        )
        ratio = np.mean([f * m.ratio for f, m in zip(factors, models, strict=True)])
        figures = [np.sqrt(np.mean(off**2)), off.mean(), likelihood, ratio]
        print(f"| {prior[0]:g} | {prior[1]:g} | {' | '.join(f'{x:.3f}' for x in figures)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Priors of the tempers, compared")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=10)
    given = parser.parse_args()
    main(given.folder, given.models)
