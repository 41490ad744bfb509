"""Preprocessing, measured: against brains prepared before, and how it scales with workers.

    python benchmarks/preprocess.py compare OUT REFERENCE [--pictures FOLDER]
    python benchmarks/preprocess.py scaling BIDS [--scans 6] [--workers 1 2]

`compare` sets every brain of a derivative beside the same subject's in another one, which needs to
hold brains alone (what is not 0 is brain), on whatever grid; once as they lie, and once with the
reference moved rigidly onto ours, which leaves what is not registration. Where the two lie
differently, likeness to the template (metavoxel.preprocess.pipeline) tells which lies better.
`scaling` prepares the same scans with each number of workers, each time from nothing, and works out
what 10,000 take on 64 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np

from metavoxel.data.images import Grid, read_volume, resample
from metavoxel.data.scans import scan_files
from metavoxel.preprocess.cohort import find_jobs
from metavoxel.preprocess.derivative import describe_dataset
from metavoxel.preprocess.executors import on_this_machine
from metavoxel.preprocess.itk import rigid
from metavoxel.preprocess.pipeline import likeness
from metavoxel.preprocess.recipe import Recipe
from metavoxel.preprocess.template import template_brain, template_grid, template_mask

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_MANY, _NODE = 10_000, 64


@dataclass(frozen=True, eq=False)
class Pair:
    """One subject's brain as prepared here, as prepared there, and this one's mask; on one grid."""

    subject: str
    ours: np.ndarray
    theirs: np.ndarray
    mask: np.ndarray
    grid: Grid

    @property
    def dice(self) -> float:
        """Of what is not 0 in either: the rim that interpolation leaves counts in both."""
        return _dice(self.ours > 0.5 / 255, self.theirs > 0)

    @property
    def dice_of_mask(self) -> float:
        """Of our mask, whose edge is where half a voxel is brain, with what is not 0 there."""
        return _dice(self.mask, self.theirs > 0)

    @property
    def correlation(self) -> float:
        """Inside our mask."""
        return float(np.corrcoef(self.ours[self.mask], self.theirs[self.mask])[0, 1])

    def aligned(self) -> tuple[Pair, float]:
        """With theirs moved onto ours, found at 4 mm; and by how many degrees it was turned."""
        coarse = template_grid(4.0)
        ours, theirs = (resample(x, self.grid, coarse) for x in (self.ours, self.theirs))
        there = rigid(theirs, coarse, ours, coarse)
        moved = Grid(self.grid.shape, np.linalg.inv(there) @ self.grid.affine)
        angle = np.degrees(np.arccos(np.clip((np.trace(there[:3, :3]) - 1) / 2, -1, 1)))
        return replace(self, theirs=resample(self.theirs, moved, self.grid)), float(angle)

    @property
    def likeness(self) -> tuple[float, float]:
        """To the template: ours, theirs."""
        there = template_mask(2.0)
        template = template_brain(2.0)[there]
        return likeness(self.ours[there], template), likeness(self.theirs[there], template)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def pairs(out: Path, reference: Path) -> Iterator[Pair]:
    there = {f.subject: f.path for f in scan_files(reference) if f.entities.get("desc") == "brain"}
    for file in scan_files(out):
        if file.entities.get("desc") != "brain" or file.suffix == "mask":
            continue
        theirs, grid = read_volume(there[file.subject])
        theirs = theirs / theirs.max()
        mask = file.path.with_name(file.path.name.replace(f"_{file.suffix}.nii", "_mask.nii"))
        ours, found = (_on(path, grid) for path in (file.path, mask))
        yield Pair(file.subject, ours, theirs, found > 0.5, grid)


def _on(path: Path, grid: Grid) -> np.ndarray:
    voxels, own = read_volume(path)
    return resample(voxels, own, grid)


_COLUMNS = (
    "Dice, not 0 in both",
    "Dice, our mask",
    "correlation in our mask",
    "Dice once aligned",
    "correlation once aligned",
    "degrees apart",
    "likeness to the template, ours",
    "likeness to the template, theirs",
)


def compare(out: Path, reference: Path, pictures: Path | None) -> None:
    subjects, rows = [], []
    for pair in pairs(out, reference):
        aligned, angle = pair.aligned()
        as_they_lie = (pair.dice, pair.dice_of_mask, pair.correlation)
        rows.append((*as_they_lie, aligned.dice, aligned.correlation, angle, *pair.likeness))
        subjects.append(pair.subject)
    table = np.array(rows)
    print(f"{len(rows)} brains: median, 5th percentile, least, most")
    for name, column in zip(_COLUMNS, table.T, strict=True):
        figures = np.median(column), np.quantile(column, 0.05), column.min(), column.max()
        print(f"  {name}: " + " ".join(f"{x:.4f}" for x in figures))
    apart = table[:, 2] < 0.9
    better = (table[:, 6] > table[:, 7])[apart].sum()
    print(f"  correlation below 0.9: {apart.sum()}; ours likelier than theirs in {better} of them")
    worst = {k: [subjects[i] for i in np.argsort(table[:, k])[:3]] for k in (0, 2, 4)}
    for k, names in worst.items():
        found = [f"{name} {table[subjects.index(name), k]:.4f}" for name in names]
        print(f"  lowest {_COLUMNS[k]}: {', '.join(found)}")
    times(out)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        chosen = {name for names in worst.values() for name in names}
        for pair in pairs(out, reference):
            if pair.subject in chosen:
                draw(pair, pictures / f"{pair.subject}.png")


def times(out: Path) -> None:
    """What the logs say of time and memory."""
    logs = [json.loads(p.read_text()) for p in sorted((out / "logs").glob("*.json"))]
    done = [log for log in logs if log["status"] == "ok"]
    seconds = np.array([log["seconds"] for log in done])
    print(
        f"{len(done)} prepared, {sum(log['status'] == 'failed' for log in logs)} failed; seconds a "
        f"scan: median {np.median(seconds):.1f}, {seconds.min():.1f} to {seconds.max():.1f}; "
        f"memory at most {max(log['peak_memory_mb'] for log in done)} MB"
    )


def draw(pair: Pair, path: Path) -> None:
    """Ours, theirs and their difference in three planes, with the template's edges."""
    figure, axes = plt.subplots(3, 3, figsize=(9, 9.5), layout="constrained")
    for axis in range(3):
        at = [n // 2 for n in pair.ours.shape][axis]
        a, b, t = (
            np.take(x, at, axis).T[::-1] for x in (pair.ours, pair.theirs, template_brain(2.0))
        )
        for column, image in enumerate((a, b, a - b)):
            shades, low, high = ("gray", 0, 1) if column < 2 else ("coolwarm", -0.5, 0.5)
            axes[axis, column].imshow(image, cmap=shades, vmin=low, vmax=high)
            axes[axis, column].contour(t, levels=[0.25, 0.6], colors=["r", "y"], linewidths=0.5)
            axes[axis, column].axis("off")
    ours, theirs = pair.likeness
    figure.suptitle(
        f"{pair.subject}: ours, reference, difference; Dice {pair.dice:.3f}, correlation "
        f"{pair.correlation:.3f}; likeness {ours:.3f}, {theirs:.3f}"
    )
    figure.savefig(path, dpi=70)
    plt.close(figure)


def scaling(bids: Path, scans: int, workers: list[int]) -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    every = sorted(f.subject for f in scan_files(bids) if "space" not in f.entities)[:scans]
    for count in workers:
        with tempfile.TemporaryDirectory() as folder:
            jobs = find_jobs(bids, Path(folder, "out"), Recipe(), participants=every)
            describe_dataset(jobs[0].out, bids, jobs[0].recipe)
            load, start, before = os.getloadavg()[0], time.perf_counter(), _seconds_of_workers()
            records = [o.record for each in on_this_machine(count)(jobs) for o in each]
            wall = time.perf_counter() - start
            seconds = (_seconds_of_workers() - before) / len(records)
            rate, hours = 3600 * len(records) / wall, _MANY * seconds / _NODE / 3600
            print(
                f"{count} workers: {len(records)} scans in {wall:.0f} s, {rate:.0f} an hour; "
                f"{seconds:.1f} s of a core a scan; load before {load:.1f}. On {_NODE} free cores: "
                f"{_MANY:,} x {seconds:.1f} s / {_NODE} = {hours:.1f} h"
            )


def _seconds_of_workers() -> float:
    """Of the processor, by workers that have ended: what runs beside them changes it little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("compare")
    one.add_argument("out", type=Path)
    one.add_argument("reference", type=Path)
    one.add_argument("--pictures", type=Path)
    two = what.add_parser("scaling")
    two.add_argument("bids", type=Path)
    two.add_argument("--scans", type=int, default=6)
    two.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    if given.what == "compare":
        compare(given.out, given.reference, given.pictures)
    else:
        scaling(given.bids, given.scans, given.workers)


if __name__ == "__main__":
    main()
