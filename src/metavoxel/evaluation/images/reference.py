"""Reference statistics of a real set: what comparisons with it need, computed once and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.images.extractors import Extractor
from metavoxel.evaluation.images.measures import Features
from metavoxel.evaluation.images.similarity import ms_ssim
from metavoxel.evaluation.images.slices import checked, described, shown_slices
from metavoxel.evaluation.scores import Score
from metavoxel.files.arrays import read_arrays
from metavoxel.files.wall import reading
from metavoxel.files.writing import atomic_write


@dataclass(frozen=True, eq=False)
class Reference:
    """A real set as one extractor sees it.

    `grid` is (C, *grid); `chosen` and `features` hold every plane's slice indices (s,) and their
    features (m, s, d); `digest` is that of the images.
    """

    extractor: str
    version: str
    digest: str
    grid: tuple[int, ...]
    chosen: dict[str, np.ndarray]
    features: Features
    ms_ssim: Score

    @property
    def m(self) -> int:
        return len(next(iter(self.features.values())))


def make_reference(real: np.ndarray, extractor: Extractor, seed: int = 0) -> Reference:
    """Describe real images (m, C, *grid) in [0, 1]. Raises MetaVoxelError if they cannot be."""
    real = checked(real, "real")
    chosen = shown_slices(real)
    return Reference(
        extractor.name,
        extractor.version,
        digest_of(real),
        real.shape[1:],
        chosen,
        described(real, chosen, extractor),
        ms_ssim(real, seed),
    )


def digest_of(images: np.ndarray) -> str:
    """SHA-256 of a set's shape and values, as float32."""
    content = np.ascontiguousarray(images, dtype="<f4")
    return hashlib.sha256(str(images.shape).encode() + content.tobytes()).hexdigest()


def save_reference(reference: Reference, path: Path) -> None:
    """Write a reference as .npz. Atomic."""
    about = {
        "extractor": reference.extractor,
        "version": reference.version,
        "digest": reference.digest,
        "grid": list(reference.grid),
        "planes": list(reference.features),
        "ms_ssim": reference.ms_ssim.to_json(),
    }
    arrays: dict[str, Any] = {f"slices-{p}": x for p, x in reference.chosen.items()}
    arrays |= {f"features-{p}": x for p, x in reference.features.items()}
    with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def load_reference(path: Path, extractor: Extractor, real: np.ndarray | None = None) -> Reference:
    """Read a reference, to be used with this extractor and, if given, for these real images.

    Raises MetaVoxelError if the file cannot be read, or does not belong to them.
    """
    path = Path(path)
    reference = _read(path)
    made, now = (
        f"{x} {v}"
        for x, v in (
            (reference.extractor, reference.version),
            (extractor.name, extractor.version),
        )
    )
    if made != now:
        raise MetaVoxelError(
            f"{path} holds features of {made}; those to compare are of {now}. Make it again."
        )
    if real is not None and digest_of(checked(real, "real")) != reference.digest:
        raise MetaVoxelError(f"{path} was made of other images than these. Make it again.")
    return reference


def _read(path: Path) -> Reference:
    with reading(path, "a reference", "Make it again."):
        arrays = read_arrays(path)
        about: dict[str, Any] = json.loads(str(arrays["about"]))
        planes = about["planes"]
        return Reference(
            about["extractor"],
            about["version"],
            about["digest"],
            tuple(about["grid"]),
            {p: arrays[f"slices-{p}"] for p in planes},
            {p: arrays[f"features-{p}"] for p in planes},
            Score.from_json(about["ms_ssim"]),
        )
