"""Has the network learnt the image? Its squared error along t, beside what is known without it.

    python benchmarks/linear_answer.py MODEL BIDS

For the validation subjects, the squared error of E[z_0 | z_t] as a share of that of the linear
answer that treats the elements of the latent as independent: `linear` is the answer of the Gaussian
of the training images, which knows what varies together and which the network of a preconditioned
model corrects; `network` is the model's. The scalars are marginalised.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.diffusion.preconditioned import FactorGaussian
from metavoxel.evaluation.report import as_table
from metavoxel.model import load_model

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of T


@torch.no_grad()
def main(folder: Path, bids: Path) -> None:
    model = load_model(folder)
    split = read_split(folder / "split.json")
    table = as_table(model.schema, read_cohort(bids, model.schema).only(split.validation))
    print(f"{len(table)} validation records")
    print("image        t  alpha_bar  linear  network")
    for v, images in table.images.items():
        process, T = model.process.processes[v], model.process.T  # noqa: N806
        gaussian: FactorGaussian = model.autoencoders[v].gaussian()  # type: ignore[operator]
        variance = gaussian.own + gaussian.factors.square().sum(0)
        independent = FactorGaussian(gaussian.factors[:0], variance)
        z0 = model.encode({v: torch.from_numpy(images)})[v]
        for fraction in FRACTIONS:
            generator = torch.Generator().manual_seed(0)
            t = torch.full((len(z0),), round(fraction * T))
            times = {u: torch.full_like(t, T) for u in model.schema} | {v: t}
            z = model.process.prior(len(z0), generator)
            z[v] = process.noised(z0, t, model.process.noise(len(z0), generator, [v])[v])
            alpha_bar = process.schedule.alpha_bar(t)
            answers = {
                "independent": independent.given(z[v], alpha_bar).mean,
                "linear": gaussian.given(z[v], alpha_bar).mean,
                "network": process.clean(model(z, times, [v])[v], z[v], t),
            }
            error = {k: float((x - z0).square().mean()) for k, x in answers.items()}
            linear, network = (error[k] / error["independent"] for k in ("linear", "network"))
            print(f"{v:8} {t[0]:5d} {alpha_bar[0]:10.4f} {linear:7.3f} {network:8.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    arguments = parser.parse_args()
    main(arguments.model, arguments.bids)
