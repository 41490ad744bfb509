"""Whether scalars that are drawn together depend on each other as people's do.

    python benchmarks/dependence.py MODEL BIDS [--draws 500]

Draws all scalars of nobody and prints how far their correlations are from those of the cohort's
people, and the pairs that depend most. Labels count by their index.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metavoxel.data.bids import read_cohort
from metavoxel.evaluation.cohort import as_table
from metavoxel.inference.ask import ask
from metavoxel.model import best_device
from metavoxel.model_folder import load_model

PAIRS = 5  # printed


def correlations(columns: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Of every pair, over the rows in which both are known."""
    out = {}
    for a, b in itertools.combinations(columns, 2):
        known = ~np.isnan(columns[a]) & ~np.isnan(columns[b])
        out[a, b] = float(np.corrcoef(columns[a][known], columns[b][known])[0, 1])
    return out


def main(folder: Path, bids: Path, draws: int) -> None:
    model = load_model(folder, best_device())
    scalars = [*model.schema.scalars]
    people = as_table(model.schema, read_cohort(bids, model.schema)).scalars
    of = {"people": correlations({v: people[v] for v in scalars})}
    drawn = ask(model, scalars, {}, draws, 1, 0).samples
    of["drawn"] = correlations({v: x[:, 0].double().numpy() for v, x in drawn.items()})
    pairs = sorted(of["people"], key=lambda pair: -abs(of["people"][pair]))
    print("| |", " | ".join(f"{a}, {b}" for a, b in pairs[:PAIRS]), "| all pairs: RMS difference |")
    print("|---" * (PAIRS + 2) + "|")
    for name, found in of.items():
        apart = np.mean([(found[p] - of["people"][p]) ** 2 for p in pairs]) ** 0.5
        print(
            f"| {name} |", " | ".join(f"{found[p]:.2f}" for p in pairs[:PAIRS]), f"| {apart:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Dependence between drawn scalars")
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("--draws", type=int, default=500)
    given = parser.parse_args()
    main(given.model, given.bids, given.draws)
