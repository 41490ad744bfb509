"""Has the network learnt the image? Its error along t, relative to the best linear answer.

    python benchmarks/linear_answer.py MODEL BIDS

For the validation subjects: the squared error of E[z_0 | z_t], divided by that of the linear answer
that the standard deviation of every latent element gives. 1 is no better than the linear answer;
what is below is learnt. The scalars are marginalised.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.preconditioned import PreconditionedGaussian
from metavoxel.evaluation.report import as_table
from metavoxel.model import load_model

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of T


@torch.no_grad()
def main(folder: Path, bids: Path) -> None:
    model = load_model(folder)
    split = read_split(folder / "split.json")
    table = as_table(model.schema, read_cohort(bids, model.schema).only(split.validation))
    print(f"{len(table)} validation records")
    print("image        t  alpha_bar  network / linear")
    for v, images in table.images.items():
        process, T = model.process.processes[v], model.process.T  # noqa: N806
        linear = PreconditionedGaussian(
            GaussianProcess(process.schedule, "x0"),
            model.autoencoders[v].std,  # type: ignore[arg-type]
        )
        z0 = model.encode({v: torch.from_numpy(images)})[v]
        for fraction in FRACTIONS:
            generator = torch.Generator().manual_seed(0)
            t = torch.full((len(z0),), round(fraction * T))
            times = {u: torch.full_like(t, T) for u in model.schema} | {v: t}
            z = model.process.prior(len(z0), generator)
            z[v] = process.noised(z0, t, model.process.noise(len(z0), generator, [v])[v])
            learnt = process.clean(model(z, times, [v])[v], z[v], t)
            known = linear.seen(z[v], t)
            ratio = (learnt - z0).square().mean() / (known - z0).square().mean()
            a = float(process.schedule.alpha_bar(t)[0])
            print(f"{v:8} {int(t[0]):5d} {a:10.4f} {float(ratio):17.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    arguments = parser.parse_args()
    main(arguments.model, arguments.bids)
