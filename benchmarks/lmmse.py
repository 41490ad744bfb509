"""Has the network learnt the image? Its squared error along t, beside what is known without it.

    python benchmarks/lmmse.py MODEL BIDS

For the validation subjects, the squared error of E[z_0 | z_t] as a share of that of the linear
answer that treats the elements of the latent as independent and knows no scalars: `linear` is the
answer that the network of a preconditioned model corrects, `network` is the model's; of nobody, the
scalars marginalised, and with all scalars known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.diffusion.joint import State, Times
from metavoxel.diffusion.preconditioning import Preconditioned
from metavoxel.evaluation.report import as_table
from metavoxel.linear_gaussian.images import FactorGaussian
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96, 0.98, 1.0)  # of T


@torch.no_grad()
def main(folder: Path, bids: Path) -> None:
    model = load_model(folder)
    split = read_split(folder / "split.json")
    table = as_table(model.schema, read_cohort(bids, model.schema).only(split.validation))
    values = {v: torch.from_numpy(x) for v, x in {**table.images, **table.scalars}.items()}
    whole = torch.ones(len(table), dtype=torch.bool)
    for v in model.schema.scalars:
        whole &= ~values[v].isnan()
    z0 = model.encode({v: x[whole] for v, x in values.items()})
    print(f"{len(table)} validation records, {int(whole.sum())} with all scalars")
    print("                       of nobody         scalars known")
    print("image        t  alpha_bar  linear  network  linear  network")
    for v in table.images:
        image = model.parameterizations[v]
        assert isinstance(image, Preconditioned)
        gaussian = image.gaussian()
        variance = gaussian.unique + gaussian.factors.square().sum(0)
        independent = FactorGaussian(gaussian.factors[:0], variance)
        for fraction in FRACTIONS:
            z, times = noisy(model, z0, v, round(fraction * model.process.T))
            alpha_bar = image.forward.schedule.alpha_bar(times[v])
            error = {"independent": independent.lmmse(z[v], alpha_bar).mean}
            for known in (False, True):
                if known:
                    clean = {u: torch.zeros_like(times[u]) for u in model.schema.scalars}
                    z = {u: x if u == v else z0[u] for u, x in z.items()}
                    times = times | clean
                noisy_images, predictions = model.predicted(z, times, [v])
                said, denoised = predictions[v], noisy_images[v].denoised
                error[f"linear, {known}"] = denoised(torch.zeros_like(said))
                error[f"network, {known}"] = denoised(said)
            square = {k: float((x - z0[v]).square().mean()) for k, x in error.items()}
            first = square.pop("independent")
            shares = " ".join(f"{x / first:7.3f}" for x in square.values())
            print(f"{v:8} {int(times[v][0]):5d} {float(alpha_bar[0]):10.4f} {shares}")


def noisy(model: MetaVoxel, z0: State, image: str, t: int) -> tuple[State, Times]:
    """The image at t, all else at T."""
    generator, n = torch.Generator().manual_seed(0), len(z0[image])
    z, times = model.corner({}, n, [*model.schema], generator)
    times[image] = torch.full((n,), t, device=model.device)
    noise = {v: x.to(model.device) for v, x in model.process.noise(n, generator, [image]).items()}
    return z | model.process.noised({image: z0[image]}, times, noise), times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    arguments = parser.parse_args()
    main(arguments.model, arguments.bids)
