"""Which images of a BIDS folder are variables, and the grid that they share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from metavoxel.data.names import variable_name
from metavoxel.data.scans import DERIVED, ScanFile, find_scans
from metavoxel.errors import MetaVoxelError
from metavoxel.files.limits import most_voxels
from metavoxel.files.picture import is_picture, picture_shape
from metavoxel.files.volume import read_header
from metavoxel.files.wall import reading
from metavoxel.schema import Image

MULTIPLE = 8  # grid axes are padded to multiples of it: two levels in the encoder, two beneath
_LOOKED_AT = 20  # scans of each variable whose headers decide the grid
_RARE = 0.1  # of the visits of the most frequent kind of a suffix: a kind in fewer is left out
# What BIDS has beside pictures of a body part: time series, diffusion, field maps, labels.
_FOLDERS = frozenset({"func", "dwi", "fmap", "perf", "meg", "eeg", "ieeg", "nirs", "mrs", "beh"})
_SUFFIXES_LISTED = """
bold boldref cbv sbref dwi adc fa md epi fieldmap magnitude magnitude1 magnitude2 phase
phase1 phase2 phasediff asl m0scan asllabeling mask dseg probseg seg segmentation roi
labels atlas defacemask xfm warp tb1afi tb1tfl tb1rfm tb1dam tb1epi tb1srge rb1cor rb1map
tb1map scout localizer
"""
_SUFFIXES = frozenset(_SUFFIXES_LISTED.split())
_ALIKE = ("rec", "part", "dir")  # files that differ in these show the same: one is taken


@dataclass(frozen=True)
class _Geometry:
    """Shape, spacing (mm) along the canonical axes, and channels of a file."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int


@dataclass(frozen=True)
class _Kind:
    """Files that are one variable: their suffix, and the entities that tell them from others."""

    suffix: str
    entities: Mapping[str, str | None]
    files: tuple[ScanFile, ...]

    @property
    def name(self) -> str:
        """t1w, or t1w_ce_gd beside another T1w."""
        parts = [f"{k}_{x}" for k, x in self.entities.items() if x and k not in DERIVED]
        return "_".join([self.suffix, *parts]).lower()

    @property
    def visits(self) -> int:
        return len({(f.subject, f.session) for f in self.files})


def infer_images(root: Path, resolution: float | None) -> tuple[dict[str, Image], list[str]]:
    """The image variables of a dataset on one grid, and what is to be said of the other files.

    Raises MetaVoxelError where there is none.
    """
    if resolution is not None and not 0 < resolution < math.inf:
        raise MetaVoxelError(f"A resolution of {resolution:g} mm makes no grid; give one above 0.")
    scans = find_scans(root)
    notes: list[str] = []
    by_suffix: dict[str, list[ScanFile]] = {}
    passed: Counter[str] = Counter()
    for file in scans.files:
        if _shows_anatomy(file, root):
            by_suffix.setdefault(file.suffix, []).append(file)
        else:
            passed[file.suffix] += 1
    if passed:
        listed = ", ".join(f"{suffix} ({n})" for suffix, n in sorted(passed.items())[:8])
        notes.append(f"{root}: files that are no images of anatomy are left out: {listed}.")
    if not by_suffix:
        said = [f"{root}: there is no image under sub-*/.", *scans.unreachable(), *notes]
        raise MetaVoxelError(" ".join(said if len(said) > 1 else [*said, "Give a BIDS dataset."]))
    # Of those that become variables, reading the cohort says it.
    notes += scans.dead_links({f.suffix for f in scans.dead} - by_suffix.keys())
    kinds: list[_Kind] = []
    for suffix, files in by_suffix.items():
        found, said = _kinds(suffix, files)
        kinds += found
        notes += [f"{root}: {note}" for note in said]
    looked_at, said = _of_one_dimension(root, kinds)
    shape, spacing = _grid(looked_at, resolution)
    images: dict[str, Image] = {}
    for kind, geometries in looked_at:
        images[variable_name(kind.name, images)] = Image(
            suffix=kind.suffix,
            entities=dict(kind.entities),
            shape=shape,
            spacing=spacing,
            channels=Counter(g.channels for g in geometries).most_common(1)[0][0],
        )
    return images, [*notes, *said]


def _shows_anatomy(file: ScanFile, root: Path) -> bool:
    """Whether a file may be an image to model, by its name and its folder."""
    folders = {*file.path.relative_to(root).parts[1:-1]}
    named = file.suffix.isascii() and file.suffix.isalnum()
    return (
        named
        and not folders & _FOLDERS
        and file.suffix.casefold() not in _SUFFIXES
        and "label" not in file.entities
    )


def _kinds(suffix: str, files: Sequence[ScanFile]) -> tuple[list[_Kind], list[str]]:
    """What the files of one suffix are, and a note of those that are left out.

    Entities count where files of one visit differ in them. Raw files go before derived ones, of
    which one kind is taken: in a template space, if any is.
    """
    raw = [f for f in files if not f.derived]
    pool = raw or files
    shared = {k: pool[0].entities[k] for k in ("space", "desc") if k in pool[0].entities}
    shared = {k: x for k, x in shared.items() if all(f.entities.get(k) == x for f in pool)}
    keys, alike = _differing(pool), {*_ALIKE, *(() if raw else DERIVED)}
    groups: dict[tuple[str | None, ...], list[ScanFile]] = {}
    for file in pool:
        groups.setdefault(tuple(file.entities.get(k) for k in keys), []).append(file)
    kinds = [
        _Kind(suffix, {**shared, **dict(zip(keys, values, strict=True))}, tuple(of_group))
        for values, of_group in groups.items()
    ]
    kinds.sort(
        key=lambda k: (
            "space" not in k.entities or not k.entities["space"],
            -k.visits,
            sum(x is not None for x in k.entities.values()),
            k.name,
        )
    )
    kept: dict[tuple[str | None, ...], _Kind] = {}
    for kind in kinds:
        kept.setdefault(tuple(x for k, x in kind.entities.items() if k not in alike), kind)
    most = max(kind.visits for kind in kept.values())
    chosen = [kind for kind in kept.values() if kind.visits >= _RARE * most]
    left = [kind for kind in kinds if kind not in chosen]
    notes = [
        f"{suffix}: {len(kind.files)} files are left out beside others of their visits: "
        f"{_entities(kind)}."
        for kind in left
    ]
    return chosen, notes


def _differing(files: Sequence[ScanFile]) -> list[str]:
    """The entities in which files of one visit differ, runs aside."""
    by_visit: dict[tuple[str, str | None], list[ScanFile]] = {}
    for file in files:
        by_visit.setdefault((file.subject, file.session), []).append(file)
    keys = dict.fromkeys(k for f in files for k in f.entities if k != "run")
    return [
        k
        for k in keys
        if any(len({f.entities.get(k) for f in visit}) > 1 for visit in by_visit.values())
    ]


def _entities(kind: _Kind) -> str:
    return ", ".join(f"{k}-{x}" if x is not None else f"no {k}" for k, x in kind.entities.items())


_LookedAt = list[tuple[_Kind, list[_Geometry]]]


def _of_one_dimension(root: Path, kinds: Sequence[_Kind]) -> tuple[_LookedAt, list[str]]:
    """The headers of the first scans of every kind; series, and 2D among 3D, are left out."""
    notes, looked_at = [], []
    for kind in kinds:
        geometries = [_geometry(f.path) for f in kind.files[:_LOOKED_AT]]
        if "anat" not in kind.files[0].path.parts and all(g.channels > 1 for g in geometries):
            notes.append(f"{root}: {kind.suffix} is left out: its files are series of images.")
        else:
            looked_at.append((kind, geometries))
    if not looked_at:
        raise MetaVoxelError(f"{root}: there is no image under sub-*/. {' '.join(notes)}")
    files: Counter[int] = Counter()
    for kind, geometries in looked_at:
        files[_axes(geometries)] += len(kind.files)
    axes = files.most_common(1)[0][0]
    for kind, geometries in looked_at:
        if _axes(geometries) != axes:
            notes.append(
                f"{root}: {kind.suffix} is left out: 2D and 3D images cannot share a schema, and "
                f"most are {axes}D."
            )
    kept = [(kind, gs) for kind, gs in looked_at if _axes(gs) == axes]
    return [(kind, [g for g in gs if len(g.shape) == axes]) for kind, gs in kept], notes


def _axes(geometries: Sequence[_Geometry]) -> int:
    return Counter(len(g.shape) for g in geometries).most_common(1)[0][0]


def _grid(
    looked_at: _LookedAt, resolution: float | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing (mm) of one grid that covers all."""
    seen = [g for _, geometries in looked_at for g in geometries]
    axes = range(len(seen[0].shape))
    finest = [min(g.spacing[i] for g in seen) for i in axes]
    spacing = finest if resolution is None else [resolution for _ in axes]
    extent = [max(g.shape[i] * g.spacing[i] for g in seen) for i in axes]
    cells = [e / s for e, s in zip(extent, spacing, strict=True)]
    if math.prod(cells) > most_voxels():
        raise MetaVoxelError(
            f"A grid of {' x '.join(f'{n:.0f}' if n < 1e9 else f'{n:.0e}' for n in cells)} voxels "
            f"at {min(spacing):g} mm is too large. Give a coarser one with --resolution."
        )
    shape = [math.ceil(n / MULTIPLE - 1e-6) * MULTIPLE for n in cells]
    return tuple(shape), tuple(round(float(x), 4) for x in spacing)


def _geometry(path: Path) -> _Geometry:
    if is_picture(path):
        return _Geometry(picture_shape(path), (1.0, 1.0), 1)
    header = read_header(path)
    shape = list(header.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()  # a single slice is 2D
    axes = list(range(min(3, len(shape))))
    with reading(path, "an image with two or three axes"):
        if len(axes) == 3:  # from the header alone: reorienting the voxels would load them
            axes = [int(i) for i in np.argsort(nib.io_orientation(header.affine)[:, 0])]
        spacing = tuple(float(header.spacing[i]) for i in axes)
        if len(axes) < 2 or len(shape) > 4 or not all(0 < s < math.inf for s in spacing):
            raise ValueError(f"its shape is {header.shape}, its voxels {spacing} mm")
    channels = shape[3] if len(shape) > 3 else 1
    return _Geometry(tuple(shape[i] for i in axes), spacing, channels)
