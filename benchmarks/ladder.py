"""Do the image measures rank known faults in the right order?

    python benchmarks/ladder.py FOLDER [--ixi DERIVATIVE] [--extractor gist]

FOLDER gets the simulated cohorts, once. In each cohort one half of the people is the real set; the
other half, spoilt in a known way, is what a model might have generated. A measure is right if a
larger fault of one kind, and any fault at all, lies farther away than the untouched half does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from metavoxel.data.bids import read_cohort
from metavoxel.data.simulate import simulate
from metavoxel.evaluation.cohort import as_table
from metavoxel.evaluation.images.extractors import Extractor, as_extractor
from metavoxel.evaluation.images.reference import make_reference
from metavoxel.evaluation.images.scores import distances
from metavoxel.evaluation.images.similarity import ms_ssim
from metavoxel.evaluation.images.slices import described
from metavoxel.schema import Schema, parse_schema

_AGE = {"kind": "continuous", "unit": "years", "range": [18, 90]}
_IXI = {
    "kind": "image",
    "suffix": "T1w",
    "entities": {"space": "MNI152", "desc": "brain"},
    "shape": [40, 56, 40],
    "spacing": [4, 4, 4],
    "centre": [1, -17, 7],
}
_VOLUME = {"kind": "image", "suffix": "T1w", "shape": [40, 48, 40], "spacing": [4, 4, 4]}
_SLICE = {"kind": "image", "suffix": "T1w", "shape": [48, 40], "spacing": [1, 1]}
_PEOPLE = 120
_BLURS = (0.5, 0.75, 1.0, 2.0)  # voxels
_NOISES = (0.01, 0.03, 0.1)  # of the brightest
_PATCH = 8  # voxels

DISTANCES = ("frechet", "mmd", "kid")
COLUMNS = (*DISTANCES, "precision", "recall", "ms_ssim")
Row = dict[str, Any]


def faults(images: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, str, np.ndarray]]:
    """Kind, name and outcome (n, C, *grid) of every fault, small to large within a kind."""
    yield "floor", "the other half", images
    for sigma in _BLURS:
        widths = (0, 0, *[sigma] * (images.ndim - 2))
        yield "blur", f"blur {sigma:g} voxels", gaussian_filter(images, widths)
    for sigma in _NOISES:
        noise = rng.normal(0, sigma, images.shape).astype(np.float32)
        yield "noise", f"noise {sigma:g}", (images + noise).clip(0, 1)
    yield "copies", "copies of one brain", np.repeat(images[:1], len(images), axis=0)
    yield "patches", "shuffled patches", np.stack([shuffled(x, rng) for x in images])


def shuffled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image (C, *grid) whose patches of 8 voxels have changed places."""
    starts = [range(0, size - _PATCH + 1, _PATCH) for size in image.shape[1:]]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, len(starts))
    out = image.copy()
    for here, there in zip(corners, rng.permutation(corners), strict=True):
        out[(slice(None), *_patch(here))] = image[(slice(None), *_patch(there))]
    return out


def _patch(corner: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a) + _PATCH) for a in corner)


def ladder(
    images: np.ndarray, age: np.ndarray, extractor: Extractor, say: Callable[[str], None]
) -> list[Row]:
    """One row of measures for each fault, and for the old beside the young."""
    rng = np.random.default_rng(0)
    half = len(images) // 2
    order = rng.permutation(len(images))
    rows = against(
        images[order[:half]], faults(images[order[half : 2 * half]], rng), extractor, say
    )
    old = np.argsort(age)
    spoilt = iter([("age", "old for young", images[old[-half:]])])
    return rows + against(images[old[:half]], spoilt, extractor, say)


def against(
    real: np.ndarray,
    spoilt: Iterator[tuple[str, str, np.ndarray]],
    extractor: Extractor,
    say: Callable[[str], None],
) -> list[Row]:
    reference, rows = make_reference(real, extractor), []
    for kind, name, images in spoilt:
        say(name)
        measured = distances(described(images, reference.chosen, extractor), reference.features, 0)
        row = {"kind": kind, "name": name, "ms_ssim": ms_ssim(images, 0).to_json()}
        rows.append(row | measured)
    return rows


def misranked(rows: list[Row]) -> list[str]:
    """Every fault that a distance does not place above the floor and above the smaller ones."""
    wrong, floor = [], rows[0]
    for measure in DISTANCES:
        last: dict[str, Row] = {}
        for row in rows[1:]:
            below = last.get(row["kind"], floor)
            if row[measure]["value"] <= below[measure]["value"]:
                wrong.append(f"{measure}: {row['name']} is not above {below['name']}")
            last[row["kind"]] = row
    return wrong


def print_table(title: str, rows: list[Row]) -> None:
    print(
        f"\n{title}\n\n| | Fréchet distance | MMD | KID | precision | recall | MS-SSIM |\n|"
        + "---|" * 7
    )
    for row in rows:
        cells = [_said(row[c], full=c in DISTANCES) for c in COLUMNS]
        print(f"| {row['name']} | " + " | ".join(cells) + " |")
    wrong = misranked(rows)
    print("\n" + ("Out of order: " + "; ".join(wrong) if wrong else "All in order.") + "\n")


def _said(score: dict[str, Any], full: bool) -> str:
    value, low, high = (score[k] for k in ("value", "low", "high"))
    return f"{value:.2g} [{low:.2g}, {high:.2g}]" if full else f"{value:.2f}"


def read(folder: Path, image: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, C, *grid) and ages (n,) of the people who have both."""
    schema: Schema = parse_schema({"variables": {"image": image, "age": _AGE}}, "the ladder")
    table = as_table(schema, read_cohort(folder, schema))
    known = ~np.isnan(table.scalars["age"])
    return table.images["image"][known], table.scalars["age"][known]


def main(folder: Path, ixi: Path | None, extractor: Extractor) -> None:
    cohorts = [("Simulated volumes, 4 mm", folder / "volumes", _VOLUME)]
    cohorts += [("Simulated slices, 4 mm", folder / "slices", _SLICE)]
    for (_, path, _), flat in zip(cohorts, (False, True), strict=True):
        simulate(path, _PEOPLE, 0, 4.0, 0.0, flat)
    if ixi is not None:
        cohorts += [("IXI brains, 4 mm", ixi, _IXI)]
    print(f"Features: {extractor.name}, version {extractor.version}")
    for title, path, image in cohorts:
        images, age = read(path, image)
        rows = ladder(images, age, extractor, lambda name: print(name, file=sys.stderr))
        print_table(f"{title}: {len(images) // 2} against {len(images) // 2}", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the simulated cohorts are kept")
    parser.add_argument("--ixi", type=Path, help="a derivative of IXI brains in MNI152 space")
    parser.add_argument("--extractor", default="gist")
    a = parser.parse_args()
    main(a.folder, a.ixi, as_extractor(a.extractor))
