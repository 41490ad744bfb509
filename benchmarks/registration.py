"""What another rigid registration would have made of the same scans, from raw.

    python benchmarks/registration.py BIDS REFERENCE ROWS.tsv [--subjects IXI295 ...] [--scans 12]
        [--ways ...]

Each scan is corrected and stripped once, then registered in several ways. By ours: every voxel,
levels of 12, 8, 4 and 2 mm. By ANTs' default, with which the brains in REFERENCE were registered: a
fifth of the voxels, the same levels, and a seed that they do not tell. And by changes to either.
A row is written as soon as it is known; what is in ROWS.tsv is not made again.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import ants
import numpy as np
from ants import config
from nilearn.datasets import load_mni152_template, load_mni152_wm_template
from scipy.spatial.transform import Rotation
from sklearn.metrics import mutual_info_score

from metavoxel.data.images import Grid, read_volume, resample
from metavoxel.data.scans import scan_files
from metavoxel.preprocess.itk import as_ants, corrected, read_rigid, rigid
from metavoxel.preprocess.pipeline import likeness
from metavoxel.preprocess.strip import DeepBet
from metavoxel.preprocess.template import template_brain, template_grid, template_mask

_SPACE = template_grid(2.0)
_PITCHES = (-10.0, 0.0, 10.0)  # degrees
_BINS = 32
REFERENCE = "the reference"
Way = Callable[[np.ndarray, Grid], np.ndarray]


@dataclass(frozen=True)
class Row:
    """One brain as one registration lays it. Correlations inside our mask, likenesses inside the
    template's brain; `pitch` in degrees from ours, nose up; `seconds` of a core to register."""

    subject: str
    way: str
    with_reference: float
    with_ours: float
    pitch: float
    information: float
    likeness: float
    white: float
    dice: float
    seconds: float


def from_raw(scan: Path) -> tuple[np.ndarray, Grid, np.ndarray]:
    """The corrected brain (x, y, z) where its scanner had it, its grid and its mask."""
    head, grid = read_volume(scan)
    head = corrected(head.clip(0), grid).clip(0)
    found = DeepBet().brain(head, grid)
    return np.where(found, head, 0), grid, found


def ours(brain: np.ndarray, grid: Grid, pitch: float = 0.0) -> np.ndarray:
    """Where each point of the template lies in the scan, found from an initial pitch; (4, 4)."""
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("x", pitch, degrees=True).as_matrix()
    start = Grid(grid.shape, turned @ grid.affine)
    there = rigid(brain, start, template_brain(2.0), _SPACE)
    return np.linalg.inv(turned) @ there


def of_most_information(brain: np.ndarray, grid: Grid) -> np.ndarray:
    """Ours, from several initial pitches."""
    found = [ours(brain, grid, pitch) for pitch in _PITCHES]
    return max(found, key=lambda there: information(laid(brain, grid, there)))


def by_ants(
    brain: np.ndarray, grid: Grid, fixed: Grid, template: np.ndarray, seed: int = 1, **settings: Any
) -> np.ndarray:
    """As ANTs registers to a template, by default or otherwise; (4, 4) as above."""
    config.set_ants_deterministic(True, seed)
    moving = as_ants(ants, brain, grid)
    result = ants.registration(as_ants(ants, template, fixed), moving, "Rigid", **settings)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "rigid.txt")
        ants.write_transform(ants.read_transform(result["fwdtransforms"][0]), str(saved))
        return read_rigid(saved)


def by_default(seed: int, millimetres: int = 2) -> Way:
    """To nilearn's template of a voxel size, with the settings that ANTs has by default."""
    fixed = template_grid(millimetres)
    return lambda brain, grid: by_ants(brain, grid, fixed, nilearns(millimetres), seed)


def of_every_voxel(millimetres: int, levels: int) -> Way:
    """As ours, to the template at another voxel size or without its finest level (the fourth)."""
    fixed = template_grid(millimetres)
    settings = {
        "aff_random_sampling_rate": 1.0,
        "aff_iterations": (1000, 500, 200, 10)[:levels],
        "aff_shrink_factors": (6, 4, 2, 1)[:levels],
        "aff_smoothing_sigmas": (3, 2, 1, 0)[:levels],
    }
    template = template_brain(float(millimetres))
    return lambda brain, grid: by_ants(brain, grid, fixed, template, **settings)


@lru_cache
def nilearns(millimetres: int) -> np.ndarray:
    image = load_mni152_template(resolution=millimetres)
    source = Grid(image.shape, np.asarray(image.affine))
    return resample(np.asarray(image.dataobj), source, template_grid(millimetres))


@lru_cache
def white_matter() -> np.ndarray:
    """Of the template, inside its brain; no registration here has seen it."""
    image = load_mni152_wm_template(resolution=2)
    source = Grid(image.shape, np.asarray(image.affine))
    return resample(np.asarray(image.dataobj), source, _SPACE)[template_mask(2.0)]


WAYS: dict[str, Way] = {
    "ours": ours,
    "default, seed 1": by_default(1),
    "default, seed 2": by_default(2),
    "default, seed 3": by_default(3),
    "default, seed 1, 1 mm": by_default(1, millimetres=1),
    "ours, three starts": of_most_information,
    "ours, without the finest level": of_every_voxel(2, levels=3),
    "ours, 1 mm": of_every_voxel(1, levels=3),
}


def laid(brain: np.ndarray, grid: Grid, there: np.ndarray) -> np.ndarray:
    return resample(brain, Grid(grid.shape, np.linalg.inv(there) @ grid.affine), _SPACE)


def information(brain: np.ndarray) -> float:
    """Mutual information with the template inside its brain, in nats."""
    inside = template_mask(2.0)
    counts, _, _ = np.histogram2d(brain[inside], template_brain(2.0)[inside], _BINS)
    return float(mutual_info_score(None, None, contingency=counts))


def measured(subject: str, scan: Path, reference: Path, ways: list[str]) -> Iterator[Row]:
    """A row for each way, as soon as it is known."""
    brain, grid, found = from_raw(scan)
    start = time.process_time()
    ours_there = ours(brain, grid)
    of_ours = time.process_time() - start
    best = laid(brain, grid, ours_there)
    mask = laid(found.astype(np.float32), grid, ours_there) > 0.5
    theirs = resample(*read_volume(reference), _SPACE)
    if REFERENCE in ways:
        yield _row(subject, REFERENCE, theirs, theirs, best, mask, turned(theirs, best), 0.0)
    for way in (way for way in ways if way != REFERENCE):
        start = time.process_time()
        there = ours_there if way == "ours" else WAYS[way](brain, grid)
        seconds = of_ours if way == "ours" else time.process_time() - start
        lies = laid(brain, grid, there)
        pitch = _pitch(np.linalg.inv(there) @ ours_there)
        yield _row(subject, way, lies, theirs, best, mask, pitch, seconds)


def turned(theirs: np.ndarray, best: np.ndarray) -> float:
    """The pitch of the reference's brain, of which no transform is known; found at 4 mm."""
    coarse = template_grid(4.0)
    moving, fixed = (resample(x, _SPACE, coarse) for x in (theirs, best))
    return _pitch(rigid(moving, coarse, fixed, coarse))


def _pitch(moved: np.ndarray) -> float:
    return float(Rotation.from_matrix(moved[:3, :3]).as_rotvec(degrees=True)[0])


def _row(
    subject: str,
    way: str,
    brain: np.ndarray,
    theirs: np.ndarray,
    best: np.ndarray,
    mask: np.ndarray,
    pitch: float,
    seconds: float,
) -> Row:
    brain = (brain / np.percentile(brain[mask], 99.5)).clip(0, 1)
    there = template_mask(2.0)
    some = brain > 0.5 / 255
    alike = [np.corrcoef(brain[mask], x[mask])[0, 1] for x in (theirs, best)]
    like = likeness(brain[there], template_brain(2.0)[there])
    white = np.corrcoef(brain[there], white_matter())[0, 1]
    dice = 2 * (some & there).sum() / (some.sum() + there.sum())
    figures = (*alike, pitch, information(brain), like, white, dice, seconds)
    return Row(subject, way, *(round(float(x), 4) for x in figures))


def main(
    bids: Path, reference: Path, out: Path, subjects: list[str], scans: int, ways: list[str]
) -> None:
    there = {f.subject: f.path for f in scan_files(reference) if f.entities.get("desc") == "brain"}
    raw = {f.subject: f.path for f in scan_files(bids) if "space" not in f.entities}
    spread = sorted(raw)[:: -(-len(raw) // scans)]
    wanted = list(dict.fromkeys([*(f"sub-{s.removeprefix('sub-')}" for s in subjects), *spread]))
    for done, subject in enumerate(wanted, 1):
        known = {row.way for row in read(out) if row.subject == subject}
        if left := [way for way in ways if way not in known]:
            print(f"{done}/{len(wanted)} {subject}", file=sys.stderr)
            for row in measured(subject, raw[subject], there[subject], left):
                append(row, out)
    show(read(out))


def append(row: Row, out: Path) -> None:
    new = not out.exists()
    with out.open("a", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Row)], delimiter="\t")
        if new:
            table.writeheader()
        table.writerow(asdict(row))


def read(out: Path) -> list[Row]:
    if not out.exists():
        return []
    with out.open() as file:
        return [
            Row(r.pop("subject"), r.pop("way"), **{k: float(v) for k, v in r.items()})
            for r in csv.DictReader(file, delimiter="\t")
        ]


def show(rows: list[Row]) -> None:
    """A line for each way: medians, and the least correlation with the reference."""
    names = [f.name for f in fields(Row)][2:]
    print(f"{len({row.subject for row in rows})} brains, medians")
    print(f"| | least with_reference | {' | '.join(names)} |\n{'|---' * (len(names) + 2)}|")
    for way in dict.fromkeys(row.way for row in rows):
        table = np.array([[getattr(r, n) for n in names] for r in rows if r.way == way])
        figures = [table[:, 0].min(), *np.median(table, axis=0)]
        print(f"| {way} | {' | '.join(f'{x:.3f}' for x in figures)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Registrations, compared")
    parser.add_argument("bids", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("out", type=Path, metavar="ROWS.tsv")
    parser.add_argument("--subjects", nargs="+", default=[])
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--ways", nargs="+", choices=[REFERENCE, *WAYS], metavar="WAY")
    given = parser.parse_args()
    ways = given.ways or [REFERENCE, *WAYS]
    main(given.bids, given.reference, given.out, given.subjects, given.scans, ways)
