"""Samples on disk: a synthetic BIDS cohort, or loose images."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metavoxel.data.images import Grid, write_image
from metavoxel.files.owned import MARKER, OwnedFolder, files_below, holding, marker_text
from metavoxel.files.writing import atomic_folder, atomic_write
from metavoxel.schema import Categorical, Image, Schema
from metavoxel.version import __version__

_AS_IT_IS: dict[str, Any] = {
    "quoting": csv.QUOTE_NONE,
    "quotechar": None,
}  # as BIDS tables are read
# The order in which BIDS has the entities of anatomical scans; others stand before these.
_ORDER = ("acq", "ce", "rec", "run", "echo", "part", "space", "res", "den", "label", "desc")
_DERIVED = frozenset({"space", "res", "den", "label", "desc"})  # entities no raw scan carries
# The suffixes of anatomical scans that need no entity or sidecar of their own.
_ANATOMICAL = frozenset(
    ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "PDT2", "angio", "inplaneT1", "inplaneT2", "UNIT1")
)
_STRIPPED = {"brain": True, "preproc": False}  # by the entity desc, as our derivatives and fMRIPrep


@contextmanager
def samples_folder(out: Path) -> Iterator[OwnedFolder]:
    """Hold the folder for samples from before they are drawn until they are written.

    Raises MetaVoxelError if it holds anything but earlier samples, or cannot be replaced.
    """
    with holding(out, "ask") as folder:
        folder.check_replaceable()
        yield folder


def write_samples(
    answers: Mapping[str, Any],
    schema: Schema,
    given: Mapping[str, object],
    out: OwnedFolder,
    question: str,
    seed: int,
    stripped: bool | None = None,
) -> list[str]:
    """Write joint samples as a BIDS dataset, whole or not at all: a participant per sample.

    `participants.tsv` holds the asked scalars of every sample and the given ones. Earlier samples
    are replaced. `stripped` says whether the images are of brains without skull, where that is
    known. Returns what is to be said of what was written. Raises MetaVoxelError if the folder
    holds anything else by now.
    """
    with atomic_folder(out.folder) as temporary:
        notes = _write_dataset(
            answers, schema, given, temporary, f"{question} (seed {seed})", stripped
        )
        (temporary / MARKER).write_text(marker_text(out.command, files_below(temporary)))
        out.check_replaceable()  # again: drawing takes long, and somebody may have used it
    return notes


def _write_dataset(
    answers: Mapping[str, Any],
    schema: Schema,
    given: Mapping[str, object],
    out: Path,
    description: str,
    stripped: bool | None,
) -> list[str]:
    drawn = {v: answers[v] for v in answers}
    count = max((len(a.samples) for a in drawn.values()), default=0)
    names = [f"sub-synth{i + 1:04d}" for i in range(count)]
    images = {v: schema.images[v] for v in drawn if v in schema.images}
    derived = any(_is_derived(kind) or stripped for kind in images.values()) or not images
    ignored = [MARKER]
    for v, kind in images.items():
        facts = _sidecar(kind, stripped) if derived else {}
        _write_volumes(drawn[v].samples, drawn[v].grid, kind, names, out, facts)
        if not _is_bids(kind, facts, derived):
            ignored.append(f"*{_entities(kind)}_{kind.suffix}.*")
    table = {v: _within(schema.scalars[v], drawn[v].samples) for v in drawn if v in schema.scalars}
    notes = [_clipped(v, schema.scalars[v], drawn[v].samples) for v in table]
    table |= {v: [x] * count for v, x in given.items() if v in schema.scalars}
    columns = {schema.scalars[v].column or v: v for v in table}  # as the schema reads them
    _write_table(out / "participants.tsv", names, {c: table[v] for c, v in columns.items()})
    described = {c: _described(schema.scalars[v]) for c, v in columns.items()}
    _write_json(out / "participants.json", described)
    generated = {"Name": "metavoxel", "Version": __version__, "Description": description}
    about = {
        "Name": "MetaVoxel samples",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative" if derived else "raw",
        "GeneratedBy": [generated],
    }
    _write_json(out / "dataset_description.json", about)
    (out / "README").write_text(f"Drawn by metavoxel ask; no subject is real.\n\n{description}\n")
    (out / ".bidsignore").write_text("".join(f"{line}\n" for line in ignored))
    return [note for note in notes if note]


@contextmanager
def images_folder(out: Path, command: str, label: str, count: int = 1) -> Iterator[OwnedFolder]:
    """Hold the folder for a command's images from before they are drawn until they are written.

    Raises MetaVoxelError if it is not the command's, or files of others stand in their places.
    """
    with holding(out, command) as folder:
        folder.check_free(*(x for dims in (2, 3) for x in _image_names(label, count, dims)))
        yield folder


def write_images(samples: np.ndarray, grid: Grid, out: OwnedFolder, label: str) -> list[Path]:
    """Write images (n, C, *grid) as label-01, label-02 ... in `out`; NIfTI in 3D, PNG in 2D.

    All of them or none; earlier ones that are not written again are removed. Raises
    MetaVoxelError if one would take the place of a file that is not ours.
    """
    names = _image_names(label, len(samples), samples.ndim - 2)
    out.add(*names)
    with ExitStack() as stack:
        for name, sample in zip(names, samples, strict=True):
            temporary = stack.enter_context(atomic_write(out.folder / name))
            write_image(sample, grid, temporary)
    out.keep_only(names)
    return [out.folder / name for name in names]


def _image_names(label: str, count: int, dims: int) -> list[str]:
    suffix = "png" if dims == 2 else "nii.gz"
    return [f"{label}-{i + 1:02d}.{suffix}" for i in range(count)]


def _write_volumes(
    samples: np.ndarray,
    grid: Grid,
    kind: Image,
    names: Sequence[str],
    out: Path,
    facts: Mapping[str, Any],
) -> None:
    suffix = "png" if kind.spatial_dims == 2 else "nii.gz"
    for name, sample in zip(names, samples, strict=True):
        stem = out / name / "anat" / f"{name}{_entities(kind)}_{kind.suffix}"
        write_image(sample, grid, stem.with_name(f"{stem.name}.{suffix}"))
        if facts:
            _write_json(stem.with_name(f"{stem.name}.json"), facts)


def _entities(kind: Image) -> str:
    """The entities of a file name, in the order of BIDS; one that must be absent is."""
    carried = {k: x for k, x in kind.entities.items() if x is not None}
    ordered = sorted(carried, key=lambda k: _ORDER.index(k) if k in _ORDER else -1)
    return "".join(f"_{k}-{carried[k]}" for k in ordered)


def _is_derived(kind: Image) -> bool:
    return any(x is not None for k, x in kind.entities.items() if k in _DERIVED)


def _sidecar(kind: Image, stripped: bool | None) -> dict[str, Any]:
    """What BIDS wants said of a derivative's scan, as far as it is known."""
    known = _STRIPPED.get(kind.entities.get("desc") or "", stripped)
    facts: dict[str, Any] = {} if known is None else {"SkullStripped": known}
    if kind.entities.get("res") is not None:
        sizes = " x ".join(f"{size:g}" for size in kind.spacing)
        facts["Resolution"] = f"{sizes} mm"
    if kind.entities.get("space") is not None:
        facts["SpatialReference"] = str(kind.entities["space"])
    return facts


def _is_bids(kind: Image, facts: Mapping[str, Any], derived: bool) -> bool:
    """Whether BIDS has a place for such scans, and wants nothing said that is not known."""
    if kind.spatial_dims == 2 or kind.suffix not in _ANATOMICAL or kind.channels > 1:
        return False
    return "SkullStripped" in facts or not derived


def _within(kind: Any, samples: np.ndarray) -> np.ndarray:
    """Numbers inside the range of the schema, so that the dataset can be read under it."""
    bounds = getattr(kind, "range", None)
    return samples if bounds is None else samples.clip(*bounds)


def _clipped(name: str, kind: Any, samples: np.ndarray) -> str:
    """A sentence if samples lie outside the range of the schema, else nothing."""
    low, high = getattr(kind, "range", None) or (-np.inf, np.inf)
    outside = 0 if np.isinf(low) else int(((samples < low) | (samples > high)).sum())
    if not outside:
        return ""
    return (
        f"{outside} of {len(samples)} samples of {name} lie outside {low:g} to {high:g}; they are "
        "written as the nearer end."
    )


def _described(kind: Any) -> dict[str, Any]:
    if isinstance(kind, Categorical):
        return {"Levels": {label: label for label in kind.labels}}
    return {"Units": kind.unit} if kind.unit else {}


def _write_table(path: Path, names: list[str], columns: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", **_AS_IT_IS)
        writer.writerow(["participant_id", *columns])
        for i, name in enumerate(names):
            row = [x[i] for x in columns.values()]
            writer.writerow([name, *(f"{x:.6g}" if isinstance(x, float) else x for x in row)])


def _write_json(path: Path, data: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n")
