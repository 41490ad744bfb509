"""How many scans prepared otherwise are told by their looks, and how many well-prepared ones are.

    python benchmarks/fingerprint.py DERIVATIVE RAW [--config CONFIG]

DERIVATIVE is what `metavoxel preprocess RAW DERIVATIVE participant` wrote. For every fold of the
configuration a fingerprint is fitted to the training scans, and every scan of the test fold is
looked at: as it is, and spoilt in the ways that happen. Declarations are left out: this is the
second line of defence.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.progress import track

from metavoxel.data.bids import read_cohort
from metavoxel.data.images import Grid, read_scan, resample
from metavoxel.preprocess.fingerprint import Fingerprint, farthest, fit_fingerprint
from metavoxel.preprocess.itk import read_rigid
from metavoxel.schema import Image
from metavoxel.training.config import FoldSplit, read_config

AS_IT_SHOULD_BE = "as it should be"
CONFIG = Path(__file__).parents[1] / "configs" / "ixi-cpu.yaml"
# MNI152 (FSL) to Talairach's space (Lancaster et al., 2007, Human Brain Mapping 28, Table 1).
TALAIRACH = np.array(
    [
        [0.9464, 0.0034, -0.0026, -1.0680],
        [-0.0083, 0.9479, -0.0580, -1.0239],
        [0.0053, 0.0617, 0.9010, 3.1883],
        [0, 0, 0, 1],
    ]
)


@dataclass(frozen=True)
class Pair:
    """A prepared scan, the transform that it was prepared by, and the raw one."""

    brain: Path
    transform: Path
    raw: Path


def stored(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine as they are in the file."""
    image = nib.Nifti1Image.from_filename(path)
    return np.asarray(image.dataobj), np.asarray(image.affine)


def spoilt(pair: Pair) -> Iterator[tuple[str, nib.Nifti1Image]]:
    """The scan as it is, and prepared otherwise."""
    voxels, affine = stored(pair.brain)
    raw, raw_affine = stored(pair.raw)

    def made(voxels: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
        return nib.Nifti1Image(voxels.astype(np.float32), affine)

    yield AS_IT_SHOULD_BE, made(voxels, affine)
    yield "not stripped, not registered", nib.Nifti1Image.from_filename(pair.raw)
    to_native = read_rigid(pair.transform)
    yield "not stripped", made(raw, np.linalg.inv(to_native) @ raw_affine)
    yield "not registered", made(voxels, to_native @ affine)
    yield "left and right swapped", made(voxels[::-1], affine)
    yield "header says 1 mm, not 2", made(voxels, affine @ np.diag([0.5, 0.5, 0.5, 1]))
    yield "header says 2.2 mm, not 2", made(voxels, affine @ np.diag([1.1, 1.1, 1.1, 1]))
    inverted = np.where(voxels > 0, voxels.max() - voxels, 0)
    yield "inverted contrast", made(inverted, affine)
    grid = Grid(voxels.shape, affine)
    moved = resample(voxels.astype(np.float32), Grid(voxels.shape, TALAIRACH @ affine), grid)
    yield "in Talairach's space", made(moved, affine)
    x, y, z = (n // 2 for n in voxels.shape)
    halves = voxels[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))
    coarse = affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    yield "4 mm, not 2", made(halves, coarse)


def main(derivative: Path, raw: Path, config_path: Path) -> None:
    config = read_config(config_path)
    assert config.variables is not None
    (name, kind), *_ = config.variables.images.items()
    kind = kind.model_copy(update={"entities": {"desc": "brain"}})
    schema = config.variables.model_copy(
        update={"variables": {**config.variables.variables, name: kind}}
    )
    cohort = read_cohort(derivative, schema)
    folds = config.training.split
    assert isinstance(folds, FoldSplit)
    looks: Looks = {}
    for fold in track(range(folds.folds), "Fold"):
        split = folds.model_copy(update={"fold": fold}).make(cohort)
        training, test = (
            [Path(str(r.values[name])) for r in cohort.only(part).records if name in r.values]
            for part in (split.train, split.test)
        )
        fingerprint = fit_fingerprint(read_scan(path, kind) for path in training)
        look([pair_of(path, raw) for path in test], fingerprint, kind, looks)
    report(looks)


def pair_of(brain: Path, raw: Path) -> Pair:
    subject = brain.name.split("_")[0]
    (transform,) = brain.parent.glob("*_xfm.*")
    (scan,) = (raw / subject / "anat").glob(f"{subject}_T1w.nii*")
    return Pair(brain, transform, scan)


# Of every way: whether each scan is told, its farthest statistic's distance and name, its file.
Looks = dict[str, list[tuple[bool, float, str, str]]]


def look(pairs: list[Pair], fingerprint: Fingerprint, kind: Image, looks: Looks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            for way, image in spoilt(pair):
                path = Path(folder, "scan.nii.gz")
                nib.save(image, path)
                scan = read_scan(path, kind)
                distances = fingerprint.distances(scan)
                worst = farthest(distances)
                told = fingerprint.oddity(scan) is not None
                looks.setdefault(way, []).append((told, distances[worst], worst, pair.raw.name))


def report(looks: Looks) -> None:
    print("| scan | told | distance: least, median, most | most often by |\n|---|---|---|---|")
    for way, rows in looks.items():
        told, distance = sum(row[0] for row in rows), np.array([row[1] for row in rows])
        names = [row[2] for row in rows]
        often = max(set(names), key=names.count).replace("_", " ")
        print(
            f"| {way} | {told} of {len(rows)} | {distance.min():.1f}, {np.median(distance):.1f}, "
            f"{distance.max():.1f} | {often} |"
        )
    print(f"\nFalse alarms: {', '.join(row[3] for row in looks[AS_IT_SHOULD_BE] if row[0])}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("derivative", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--config", type=Path, default=CONFIG)
    arguments = parser.parse_args()
    main(arguments.derivative, arguments.raw, arguments.config)
