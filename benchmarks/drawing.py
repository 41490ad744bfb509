"""Three ways to draw images of nobody, measured against the people that the model has seen.

    python benchmarks/drawing.py MODEL BIDS [--images 100]

On their own, the scalars marginalised; beside their scalars, all moving together; after their
scalars, drawn first (`scalars_first`). And, to tell the drawn scalars from the images, images for
the values of training people. All are one distribution, if the network has learnt it. The real
images are those of the training and the validation people: the test people stay out of it. About
two seconds of a core an image and way at 4 mm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.evaluation.cohort import as_table
from metavoxel.evaluation.images.scores import score_images
from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel, load_model

MEASURES = ("fid", "mmd", "kid", "precision", "recall", "ms_ssim")
DIGITS = 4


def main(folder: Path, bids: Path, n: int) -> None:
    model, split = load_model(folder), read_split(folder / "split.json")
    image = next(iter(model.schema.images))
    seen = read_cohort(bids, model.schema).only((*split.train, *split.validation))
    table = as_table(model.schema, seen)
    real = table.images[image]
    print(f"{n} drawn, {len(real)} real\n")
    print(f"| | {' | '.join(MEASURES)} |\n|---|{'---|' * len(MEASURES)}")
    for way, drawn in ways(model, image, table.scalars, n).items():
        found = score_images(drawn, real)
        cells = [
            f"{found[k]['value']:.{DIGITS}f} [{found[k]['low']:.{DIGITS}f}, "
            f"{found[k]['high']:.{DIGITS}f}]"
            for k in MEASURES
        ]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def ways(
    model: MetaVoxel, image: str, people: dict[str, np.ndarray], n: int
) -> dict[str, np.ndarray]:
    """By way: n images (n, C, *grid) in [0, 1]."""
    in_turn, together = (
        model.config.sampling.model_copy(update={"scalars_first": first}) for first in (True, False)
    )
    whole = np.flatnonzero(~np.isnan(np.stack([*people.values()])).any(0))
    rows = np.random.default_rng(0).choice(whole, n, replace=n > len(whole))
    values = {v: torch.from_numpy(x[rows]) for v, x in people.items()}
    drawn = {
        "on their own": ask(model, [image], {}, n, 1, 1, together),
        "beside their scalars": ask(model, [*model.schema], {}, n, 1, 1, together),
        "after their scalars": ask(model, [image], {}, n, 1, 1, in_turn),
        "for people's scalars": ask(model, [image], values, n, 1, 1),
    }
    return {
        way: answer.samples[image][:, 0].clamp(0, 1).numpy().astype(np.float32)
        for way, answer in drawn.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    main(arguments.model, arguments.bids, arguments.images)
