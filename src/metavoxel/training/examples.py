"""A cohort as tensors: what the two training stages read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metavoxel.data.bids import Cohort
from metavoxel.data.images import read_scan
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.encoding.scalars import LinearScaling, OneHot, fit_scaling, label_indices
from metavoxel.errors import MetaVoxelError, MetaVoxelWarning
from metavoxel.files.arrays import map_array
from metavoxel.files.json import read_json
from metavoxel.files.versions import version_of
from metavoxel.files.writing import atomic_array, atomic_write
from metavoxel.model import MetaVoxel
from metavoxel.posterior.fit import named_prior
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.schema import Image, Schema
from metavoxel.training.augment import Augmentation, augment
from metavoxel.training.seeds import generator

Progress = Callable[[int, int], None]  # (done, of)
Scalings = Mapping[str, NormalScores | LinearScaling]


@dataclass(frozen=True, eq=False)
class Examples:
    """Encoded records. Images have an axis of augmented copies in front: (copies, N, c, ...).

    `z0[name]` is (N, k) for scalars; `observed[name]` (N,) bool. What is missing is zero. `chosen`
    are the rows that `batch` counts, if not all.
    """

    images: dict[str, Tensor]
    scalars: dict[str, Tensor]
    observed: dict[str, Tensor]
    chosen: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Examples:
        return self  # never changes; copying a module that reads it must not copy a cohort

    def __len__(self) -> int:
        return len(next(iter(self.observed.values())) if self.chosen is None else self.chosen)

    def only(self, rows: Tensor) -> Examples:
        """These rows of all, left where they are on disk."""
        return Examples(self.images, self.scalars, self.observed, rows)

    def batch(self, rows: Tensor, copies: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """z_0 and observed of the rows (B,), each image in its copy (B,)."""
        rows = rows if self.chosen is None else self.chosen[rows]
        z0 = {v: x[copies % len(x), rows].float() for v, x in self.images.items()}
        z0 |= {v: x[rows] for v, x in self.scalars.items()}
        return z0, {v: x[rows] for v, x in self.observed.items()}


def read_volumes(cohort: Cohort, name: str, image: Image, path: Path, progress: Progress) -> Tensor:
    """Every record's image on the schema's grid, (N, C, *grid) uint8, kept at `path`.

    Missing images are zero. 8 bits are what the training needs and the memory of ten thousand scans
    allows; the file is memory-mapped, not loaded. It is read again, which is said, when a scan's
    file changes.
    """
    shape = (len(cohort.records), image.channels, *image.shape)
    key = [str(image), *_files(cohort, name)]

    def fill(out: np.memmap) -> None:
        for i, record in enumerate(cohort.records):
            if name in record.values:
                scan = read_scan(Path(str(record.values[name])), image)
                out[i] = np.round(scan.array * 255).astype(np.uint8)
            progress(i + 1, len(cohort.records))

    if _is_of_others(path, key):
        warnings.warn(
            f"{cohort.root}: scans of {name} have changed, or moved, since this run began. They "
            "are read again; what was trained before has seen them as they were.",
            MetaVoxelWarning,
            stacklevel=2,
        )
    return _cached(path, key, shape, np.uint8, fill)


def scalings(
    schema: Schema, cohort: Cohort, diffusing: bool
) -> dict[str, NormalScores | LinearScaling]:
    """The map of every number, fitted on the training set: its kind's, normal scores by default, or
    a linear one of those that diffuse."""
    out: dict[str, NormalScores | LinearScaling] = {}
    for v, kind in schema.numbers.items():
        values = [float(str(r.values[v])) for r in cohort.records if v in r.values]
        if not values:
            raise MetaVoxelError(
                f'No training subject has a value for "{v}". Remove it from the schema.'
            )
        seen = torch.tensor(values, dtype=torch.float64)
        fit = fit_scaling if diffusing else (kind.embedding or NormalScores).fit
        out[v] = fit(seen, kind.range)
    return out


def embedded_scalars(
    schema: Schema, cohort: Cohort, scaled: Scalings
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every scalar of every record, embedded (N, k), and whether it is observed (N,)."""
    encoders = {**scaled, **{v: OneHot(kind.labels) for v, kind in schema.categorical.items()}}
    observed = {v: _observed(cohort, v) for v in schema.scalars}
    return {v: _encode_scalar(encoders[v], cohort, v, x) for v, x in observed.items()}, observed


def scalar_prior(schema: Schema, cohort: Cohort, scaled: Scalings) -> ScalarPrior:
    """The joint distribution of the embedded scalars over the training set."""
    counts = {v: len(kind.labels) for v, kind in schema.categorical.items()}
    return named_prior([*schema.numbers], counts, *embedded_scalars(schema, cohort, scaled))


def encode_cohort(
    model: MetaVoxel,
    cohort: Cohort,
    volumes: dict[str, Tensor],
    copies: int,
    augmentation: Augmentation,
    seed: int,
    cache: Path,
    progress: Progress,
) -> Examples:
    """Encode every variable of every record once; images `copies` times, all but the first
    augmented. Latents are kept in `cache` and reused while model and cohort stay the same."""
    cache.mkdir(parents=True, exist_ok=True)
    scalars, observed = embedded_scalars(model.schema, cohort, model.scalings)
    observed |= {v: _observed(cohort, v) for v in model.schema.images}
    images: dict[str, Tensor] = {}
    for v, image in model.schema.images.items():

        def fill(out: np.memmap, v: str = v, image: Image = image) -> None:
            latents = _latents(model, v, image, volumes[v], copies, augmentation, seed)
            for i, (copy, rows, z) in enumerate(latents):
                out[copy, rows] = z.cpu().numpy()
                progress(i + 1, copies * -(-len(volumes[v]) // _CHUNK))

        key = [
            _fingerprint(model.autoencoders[v]),
            augmentation.model_dump_json(),
            f"{seed} {copies}",
            *_files(cohort, v),
        ]
        shape = (copies, len(cohort.records), *model.process.shapes[v])
        images[v] = _cached(cache / f"latents-{v}.npy", key, shape, np.float32, fill)
    return Examples(images, scalars, observed)


_CHUNK = 8  # volumes encoded at once


def _latents(
    model: MetaVoxel,
    name: str,
    image: Image,
    volumes: Tensor,
    copies: int,
    augmentation: Augmentation,
    seed: int,
) -> Iterator[tuple[int, slice, Tensor]]:
    for copy in range(copies):
        for start in range(0, len(volumes), _CHUNK):
            rows = slice(start, min(start + _CHUNK, len(volumes)))
            x = volumes[rows].to(model.device).float() / 255
            if copy > 0:
                draw = generator(seed, 4, copy, start)
                x = augment(x, image.spacing, augmentation, draw)
            yield copy, rows, model.encode({name: x})[name]


def _observed(cohort: Cohort, name: str) -> Tensor:
    return torch.tensor([name in r.values for r in cohort.records], dtype=torch.bool)


def _encode_scalar(
    encoder: NormalScores | LinearScaling | OneHot, cohort: Cohort, name: str, observed: Tensor
) -> Tensor:
    labels = encoder.labels if isinstance(encoder, OneHot) else None
    missing = labels[0] if labels else 0.0
    values = [r.values.get(name, missing) for r in cohort.records]
    raw = label_indices(labels, [str(x) for x in values]) if labels else torch.tensor(values)
    z0 = encoder.encode(raw.double())
    return torch.where(observed[:, None], z0, torch.zeros_like(z0))


def _files(cohort: Cohort, name: str) -> Iterator[str]:
    """Which file every record's image is, and which version of it."""
    for r in cohort.records:
        path = r.values.get(name)
        yield f"{r.id} {path} {'' if path is None else version_of(Path(str(path)))}"


def _fingerprint(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _cached(
    path: Path,
    key: list[str],
    shape: tuple[int, ...],
    dtype: type[np.generic],
    fill: Callable[[np.memmap], None],
) -> Tensor:
    """The array at `path`, mapped from disk; made anew by `fill` if it is another or damaged."""
    with contextlib.suppress(MetaVoxelError):  # it is absent, of something else, or damaged
        kept = map_array(path) if _mark(path) == _digest(key) else None
        if kept is not None and (kept.shape, kept.dtype) == (shape, np.dtype(dtype)):
            return torch.from_numpy(kept)
    with atomic_array(path, shape, dtype) as out:
        fill(out)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(_digest(key)))
    return torch.from_numpy(map_array(path))


def _is_of_others(path: Path, key: list[str]) -> bool:
    """Whether an array is kept at `path` that was made from something else."""
    return _mark(path) not in (None, _digest(key))


def _mark(path: Path) -> Any:
    """What the array at `path` was made from; None if there is none, or nobody can tell."""
    with contextlib.suppress(MetaVoxelError):
        return read_json(path.with_suffix(".json"))
    return None


def _digest(key: list[str]) -> str:
    return hashlib.sha256("\n".join(key).encode()).hexdigest()
