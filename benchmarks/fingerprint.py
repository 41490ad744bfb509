"""How many scans prepared otherwise are told by their looks, and how many well-prepared ones are.

    python benchmarks/fingerprint.py DERIVATIVE RAW [--config CONFIG]

DERIVATIVE is what `metavoxel preprocess RAW DERIVATIVE participant` wrote. A fingerprint is fitted
to the training scans of the configuration's split, and every scan of the other subjects is looked
at: as it is, and spoilt in the ways that happen. Declarations are left out: this is the second line
of defence.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from metavoxel.data.bids import read_cohort
from metavoxel.data.images import read_scan
from metavoxel.preprocess.fingerprint import Fingerprint, fit_fingerprint
from metavoxel.preprocess.itk import read_rigid
from metavoxel.schema import Image
from metavoxel.training.config import read_config

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


def spoilt(pair: Pair) -> Iterator[tuple[str, nib.Nifti1Image]]:
    """The scan as it is, and prepared otherwise."""
    image = nib.load(pair.brain)
    voxels, affine = np.asarray(image.dataobj), image.affine

    def made(voxels: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
        return nib.Nifti1Image(voxels.astype(np.float32), affine)

    yield "as it should be", made(voxels, affine)
    yield "not stripped, not registered", nib.load(pair.raw)
    raw = nib.load(pair.raw)
    to_native = read_rigid(pair.transform)
    yield "not stripped", made(np.asarray(raw.dataobj), np.linalg.inv(to_native) @ raw.affine)
    yield "not registered", made(voxels, to_native @ affine)
    yield "left and right swapped", made(voxels[::-1], affine)
    yield "header says 1 mm, not 2", made(voxels, affine @ np.diag([0.5, 0.5, 0.5, 1]))
    yield "header says 2.2 mm, not 2", made(voxels, affine @ np.diag([1.1, 1.1, 1.1, 1]))
    inverted = np.where(voxels > 0, voxels.max() - voxels, 0)
    yield "inverted contrast", made(inverted, affine)
    yield "in Talairach's space", made(voxels, TALAIRACH @ affine)
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
    split = config.training.split.make(cohort.subjects)
    paths = [
        Path(str(r.values[name])) for r in cohort.only(split.train).records if name in r.values
    ]
    fingerprint = fit_fingerprint(read_scan(path, kind) for path in paths)
    others = cohort.only([*split.validation, *split.test]).records
    pairs = [pair_of(Path(str(r.values[name])), raw) for r in others if name in r.values]
    print(f"Fitted to {len(paths)} scans; {len(pairs)} others looked at.\n")
    print("| scan | told | distance: least, median | most often by |\n|---|---|---|---|")
    report(pairs, fingerprint, kind, spoilt)


def pair_of(brain: Path, raw: Path) -> Pair:
    subject = brain.name.split("_")[0]
    (transform,) = brain.parent.glob("*_xfm.*")
    (scan,) = (raw / subject / "anat").glob(f"{subject}_T1w.nii*")
    return Pair(brain, transform, scan)


def report(
    pairs: list[Pair],
    fingerprint: Fingerprint,
    kind: Image,
    ways: Callable[[Pair], Iterator[tuple[str, nib.Nifti1Image]]],
) -> None:
    seen: dict[str, list[tuple[bool, float, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            for way, image in ways(pair):
                path = Path(folder, "scan.nii.gz")
                nib.save(image, path)
                scan = read_scan(path, kind)
                distances = fingerprint.distances(scan)
                worst = max(distances, key=lambda k: distances[k])
                told = fingerprint.oddity(scan) is not None
                seen.setdefault(way, []).append((told, distances[worst], worst))
    for way, rows in seen.items():
        told, distance = sum(row[0] for row in rows), np.array([row[1] for row in rows])
        names = [row[2] for row in rows]
        often = max(set(names), key=names.count).replace("_", " ")
        print(
            f"| {way} | {told} of {len(rows)} | {distance.min():.1f}, {np.median(distance):.1f} "
            f"| {often} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("derivative", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--config", type=Path, default=CONFIG)
    arguments = parser.parse_args()
    main(arguments.derivative, arguments.raw, arguments.config)
