"""How well a rigid registration can be repeated: ANTs' default with several seeds, beside ours.

    python benchmarks/registration.py OUT REFERENCE [--scans 20] [--seeds 1 2 3]

Brains of the derivative OUT are put back where their scanner had them, by the transforms that
stand beside them, and registered again as ANTs does by default (a fifth of the voxels, at random).
Printed is the correlation, inside OUT's mask, with the same brains in REFERENCE, which was
registered in the default way, too: what another seed changes, nobody can reproduce.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ants
import numpy as np

from metavoxel.data.bids import scan_files
from metavoxel.data.images import Grid, read_volume, resample
from metavoxel.preprocess.itk import as_ants, read_rigid
from metavoxel.preprocess.template import REGISTERED_MM, template_brain, template_grid


def main(out: Path, reference: Path, scans: int, seeds: list[int]) -> None:
    there = {f.subject: f.path for f in scan_files(reference) if f.entities.get("desc") == "brain"}
    brains = [
        f for f in scan_files(out) if f.entities.get("desc") == "brain" and f.suffix != "mask"
    ]
    rows = []
    for file in brains[:: -(-len(brains) // scans)]:
        brain, grid = read_volume(file.path)
        mask, _ = read_volume(Path(str(file.path).replace(f"_{file.suffix}.nii", "_mask.nii")))
        (transform,) = file.path.parent.glob("*_xfm.txt")
        native = Grid(grid.shape, read_rigid(transform) @ grid.affine)
        theirs = resample(*read_volume(there[file.subject]), grid)
        again = [resample(brain, registered(brain, native, seed), grid) for seed in seeds]
        inside = mask > 0.5
        rows.append(
            [np.corrcoef(x[inside], theirs[inside])[0, 1] for x in (brain, *again)]
            + [np.corrcoef(x[inside], again[0][inside])[0, 1] for x in again[1:]]
        )
    names = ["ours", *(f"default, seed {s}" for s in seeds)]
    names += [f"default, seed {s}, with seed {seeds[0]}" for s in seeds[1:]]
    print(f"{len(rows)} brains\n\n| correlation | median | least |\n|---|---|---|")
    for name, column in zip(names, np.array(rows).T, strict=True):
        print(f"| {name} | {np.median(column):.3f} | {column.min():.3f} |")


def registered(brain: np.ndarray, grid: Grid, seed: int) -> Grid:
    """Where a brain's grid lies once ANTs has registered it to the template by default."""
    fixed = as_ants(ants, template_brain(REGISTERED_MM), template_grid(REGISTERED_MM))
    ants.config.set_ants_deterministic(True, seed)
    result = ants.registration(fixed, as_ants(ants, brain, grid), type_of_transform="Rigid")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "rigid.txt")
        ants.write_transform(ants.read_transform(result["fwdtransforms"][0]), str(saved))
        return Grid(grid.shape, np.linalg.inv(read_rigid(saved)) @ grid.affine)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    main(arguments.out, arguments.reference, arguments.scans, arguments.seeds)
