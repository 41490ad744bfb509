"""How far a cohort's scalars may be trusted to tell what they say of one another.

    python benchmarks/together.py MODEL BIDS [--rounds 10]

Fits the joint normal of the scalars of MODEL's schema to four fifths of the people of BIDS, beside
so many more whose scalars are independent (`fit_normal`; D by default, the rows of the covariance),
and prints the log density of every number of the others given all other scalars, over rounds of
five folds. Nothing is trained. The best number is the highest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metavoxel.data.bids import read_cohort
from metavoxel.diffusion.together import JointNormal, Measurement
from metavoxel.evaluation.cohort import as_table
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model
from metavoxel.training.statistics import fit_normal

SHARES = (0.01, 0.25, 0.5, 1.0, 2.0, 4.0)  # of D


def log_density(
    model: MetaVoxel, z0: dict[str, Tensor], there: dict[str, Tensor], fitted: JointNormal
) -> float:
    """Of every number that is there, given the other scalars that are, averaged over all."""
    given = {}
    for v, z in z0.items():
        nothing = torch.zeros(len(z), z.shape[1], z.shape[1])
        nothing[~there[v]] = torch.eye(z.shape[1])
        given[v] = Measurement(torch.where(there[v][:, None], z, 0), there[v].float(), nothing)
    each = []
    for v in model.schema.continuous:
        said, (mean, variance) = fitted.evidence(v, given), fitted.marginal(v)
        precision = 1 / variance[0, 0] + said.precision[:, 0, 0]
        expected = (mean[0] / variance[0, 0] + said.eta[:, 0]) / precision
        error = (z0[v][:, 0] - expected)[there[v]]
        each.append((precision[there[v]].log() - error.square() * precision[there[v]]) / 2)
    return float(torch.cat(each).mean())


def main(folder: Path, bids: Path, rounds: int) -> None:
    model = load_model(folder)
    table = as_table(model.schema, read_cohort(bids, model.schema))
    raw = {v: torch.as_tensor(table.scalars[v]) for v in model.schema.scalars}
    there = {v: ~x.isnan() for v, x in raw.items()}
    z0 = model.encode({v: x.nan_to_num(0) for v, x in raw.items()})
    widths = {v: z.shape[1] for v, z in z0.items()}
    size = sum(widths.values())
    people = np.array(table.subjects)
    scores: dict[float, list[float]] = {share: [] for share in SHARES}
    for turn in range(rounds):
        shuffled = np.random.default_rng(turn).permutation(np.unique(people))
        for fold in range(5):
            test = torch.as_tensor(np.isin(people, shuffled[fold::5]))
            x = torch.cat([z[~test] for z in z0.values()], 1)
            seen = torch.cat([there[v][~test, None].expand(-1, widths[v]) for v in z0], 1)
            left_out = [{v: y[test] for v, y in part.items()} for part in (z0, there)]
            for share in SHARES:
                mean, covariance = fit_normal(x, seen, share * size)
                fitted = JointNormal(widths, mean.tolist(), covariance.tolist())
                scores[share].append(log_density(model, *left_out, fitted))
    print("| independent people beside", " | ".join(f"{s * size:.2g}" for s in SHARES), "|")
    print("|---" * (len(SHARES) + 1) + "|")
    print("| log density", " | ".join(f"{np.mean(scores[s]):.3f}" for s in SHARES), "|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Scalars that say something of one another")
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    main(given.model, given.bids, given.rounds)
