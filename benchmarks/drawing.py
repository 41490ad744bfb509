"""Ways to draw images of nobody, measured against the people that the model has seen.

    python benchmarks/drawing.py MODEL BIDS [--images 100]
    python benchmarks/drawing.py MODEL BIDS [--images 100] --stops 0 200 400 600

On their own, the scalars marginalised; with their scalars, which are drawn first by the law, and
move with them where scalars diffuse. And, to tell the drawn scalars from the images, images for the
values of training people. All are one distribution, if the network has learnt it. With
`--stops` the same images, after their scalars, with one `image_stop` and another instead. The real
images are those of the training and the validation people: the test people stay out of it. About
two seconds of a core an image and way at 4 mm.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.evaluation.cohort import as_table
from metavoxel.evaluation.images.scores import score_images
from metavoxel.inference.ask import BATCH, Drawn, ask, sample_given
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model

MEASURES = ("frechet", "mmd", "kid", "precision", "recall", "ms_ssim")
DIGITS = 4


def main(folder: Path, bids: Path, n: int, stops: Sequence[int]) -> None:
    model, split = load_model(folder), read_split(folder / "split.json")
    image = next(iter(model.schema.images))
    seen = read_cohort(bids, model.schema).only((*split.train, *split.validation))
    table = as_table(model.schema, seen)
    real = table.images[image]
    print(f"{n} drawn, {len(real)} real\n")
    print(f"| | {' | '.join(MEASURES)} |\n|---|{'---|' * len(MEASURES)}")
    found_ways = stopped(model, image, n, stops) if stops else ways(model, image, table.scalars, n)
    for way, drawn in found_ways:
        found = score_images(drawn, real)
        cells = [
            f"{found[k]['value']:.{DIGITS}f} [{found[k]['low']:.{DIGITS}f}, "
            f"{found[k]['high']:.{DIGITS}f}]"
            for k in MEASURES
        ]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def ways(
    model: MetaVoxel, image: str, people: dict[str, np.ndarray], n: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Each way, and n images (n, C, *grid) in [0, 1]."""
    whole = np.flatnonzero(~np.isnan(np.stack([*people.values()])).any(0))
    rows = np.random.default_rng(0).choice(whole, n, replace=n > len(whole))
    values = {v: torch.from_numpy(x[rows]) for v, x in people.items()}
    yield "on their own", alone(model, image, n)
    yield "with their scalars", images(ask(model, [*model.schema], {}, n, 1, 1), image)
    yield "for people's scalars", images(ask(model, [image], values, n, 1, 1), image)


def stopped(
    model: MetaVoxel, image: str, n: int, stops: Sequence[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """The same with every stop, a t of the image's own schedule."""
    schedule = model.process.variables[image].schedule
    for stop in stops:
        settings = model.config.sampling.model_copy(update={"image_stop": stop})
        signal = float(schedule.alpha_bar(torch.tensor(stop)))
        drawn = ask(model, [image], {}, n, 1, 1, settings)
        yield f"stopped at {stop}, alpha_bar {signal:.2f}", images(drawn, image)


@torch.inference_mode()
def alone(model: MetaVoxel, image: str, n: int) -> np.ndarray:
    """Images (n, C, *grid) that are drawn without their scalars, in [0, 1]."""
    generator, settings = torch.Generator().manual_seed(1), model.config.sampling
    parts = [
        model.decode(sample_given(model, [image], {}, {}, len(rows), settings, generator))[image]
        for rows in torch.arange(n).split(BATCH)
    ]
    return torch.cat(parts).cpu().clamp(0, 1).numpy().astype(np.float32)


def images(drawn: Drawn, image: str) -> np.ndarray:
    return drawn.samples[image][:, 0].clamp(0, 1).numpy().astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--stops", type=int, nargs="+", default=[])
    arguments = parser.parse_args()
    main(arguments.model, arguments.bids, arguments.images, arguments.stops)
