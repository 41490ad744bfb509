"""The files of a model folder: what each JSON file holds, and whether all are as they were saved.

Nothing heavy is imported, so that `metavoxel info` starts at once. `config.yaml` is a ModelConfig
(metavoxel.model), and the weights are safetensors; nothing in the folder can run code.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, RootModel, model_validator
from rich.markup import escape

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model, read_object
from metavoxel.files.wall import reading
from metavoxel.schema import Image, Schema, parse_schema
from metavoxel.settings import Strict
from metavoxel.terminal import errors

FORMAT = 3  # of the model folder; raised when an older reader could misread a newer folder
CHECKSUMS = "checksums.json"
WEIGHTS = frozenset({"autoencoder.safetensors", "denoiser.safetensors"})
NEEDED = WEIGHTS | {"schema.json", "config.yaml", "encoding.json"}
KNOWN = NEEDED | {
    "posterior.json",
    "calibration.json",
    "selftest.json",
    "preprocessing.json",
    "split.json",
    "training.yaml",
    "README.md",
}
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of conformal intervals
_LARGE = 10**9  # bytes, from which comparing checksums takes seconds, which is said

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
NotNegative = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
Measured = Annotated[  # None where it is no finite number
    float | None, Field(strict=True), AfterValidator(lambda x: _with_nulls(x))
]
Count = Annotated[int, Field(strict=True, ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # SHA-256


class Checksums(RootModel[dict[str, Digest]]):
    """`checksums.json`: the SHA-256 of every file of the folder that is ours, by name."""

    @model_validator(mode="after")
    def _of_a_model(self) -> Checksums:
        if others := sorted(self.root.keys() - KNOWN):
            raise ValueError(f'"{others[0]}" is no file of a model')
        if lacking := sorted(NEEDED - self.root.keys()):
            raise ValueError(f"{lacking[0]}, which every model needs, is not in it")
        return self


class Scaling(Strict):
    """A number's range, and how its values were distributed in training."""

    low: Finite
    high: Finite
    std: Positive | None = Field(
        default=None, description="of the linearly scaled values, of a variable that diffuses"
    )
    components: tuple[tuple[Positive, Finite, Positive], ...] = Field(
        default=(), description="weight, mean and standard deviation of normals, in the unit"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if (self.std is None) == (not self.components):
            raise ValueError("it must have either std or components")
        return self


class Prior(Strict):
    """The joint prior of the embedded scalars, as of `metavoxel.posterior.prior.ScalarPrior`."""

    counts: tuple[Annotated[int, Field(strict=True, ge=1)], ...]
    frequencies: tuple[Positive, ...]
    unary: tuple[Finite, ...]
    pair: tuple[tuple[Finite, ...], ...]
    offset: tuple[Finite, ...]
    slopes: tuple[tuple[Finite, ...], ...]
    covariance: tuple[tuple[Finite, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> Prior:
        numbers, states = len(self.offset), sum(self.counts)
        shapes = {"pair": (states, states), "slopes": (numbers, states)}
        for name, (rows, columns) in {**shapes, "covariance": (numbers, numbers)}.items():
            x = getattr(self, name)
            if len(x) != rows or any(len(row) != columns for row in x):
                raise ValueError(f"{name} must have shape {[rows, columns]}")
        if {len(self.frequencies), len(self.unary)} != {states}:
            raise ValueError(f"frequencies and unary must have {states} elements")
        return self


class Posterior(Strict):
    """`posterior.json`: the prior of all scalars, and the calibration of the evidence."""

    prior: Prior
    temperatures: dict[str, Positive]
    shifts: dict[str, dict[str, NotNegative]]
    sharing: NotNegative


class Latents(Strict):
    """Mean and standard deviation of an image's latent channels, to read."""

    latent_mean: tuple[Finite, ...]
    latent_std: tuple[Finite, ...]


class Encoding(Strict):
    """`encoding.json`: how values become what diffuses."""

    numbers: dict[str, dict[str, Any]]
    categorical: dict[str, tuple[str, ...]]
    images: dict[str, Latents]

    def check(self, schema: Schema, where: Path) -> None:
        """Raise MetaVoxelError unless it is of the schema's variables."""
        for what, own, theirs in (
            ("numbers", {*self.numbers}, {*schema.numbers}),
            ("categorical", self.categorical, {v: x.labels for v, x in schema.categorical.items()}),
            ("images", {*self.images}, {*schema.images}),
        ):
            if own != theirs:
                raise MetaVoxelError(
                    f"{where}, key {what}: it is not of the variables of schema.json. Copy the "
                    "model again, or train it again."
                )


class PointCalibration(Strict):
    """Of one-evaluation answers, as of `metavoxel.inference.calibration.Calibration`."""

    n: Count
    normalised: bool
    conformal_quantiles: dict[str, Annotated[float, Field(strict=True, ge=0)] | None] = Field(
        description="by level; null where the records were too few for it"
    )
    bias_line: tuple[Finite, Positive] | None = Field(description="intercept and slope")

    @model_validator(mode="after")
    def _every_level(self) -> PointCalibration:
        if {*self.conformal_quantiles} != {*map(str, LEVELS)}:
            raise ValueError(
                f"conformal_quantiles must have the levels {', '.join(map(str, LEVELS))}"
            )
        return self


class Calibrations(Strict):
    """`calibration.json`: scores of the answers given the images, on the validation split."""

    split: str = "validation"
    records: Count = 0
    question: str | None = None
    samples: Count = 0
    steps: Count = 0
    scores: dict[str, dict[str, Measured]] = Field(default_factory=dict)
    one_evaluation: dict[str, PointCalibration] | None = Field(
        default=None, description="of continuous variables; older models have none"
    )


class SelfTest(Strict):
    """`selftest.json`: digests of the weights, and the answers to fixed questions, encoded."""

    weights: dict[str, Digest]
    answers: dict[str, tuple[Finite, ...]]


class Looks(Strict):
    """How training scans look, as of `metavoxel.preprocess.fingerprint.Fingerprint`."""

    mean: dict[str, Finite]
    spread: dict[str, Positive]
    mean_image: tuple[Finite, ...]
    left_right: tuple[Finite, ...]
    precision: tuple[Finite, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Looks:
        if self.mean.keys() != self.spread.keys():
            raise ValueError("mean and spread are not of the same statistics")
        if math.isqrt(len(self.precision)) ** 2 != len(self.precision):
            raise ValueError("precision is not a square matrix")
        return self


class Preprocessing(Strict):
    """`preprocessing.json`: how the training scans were prepared, and how they look."""

    images: dict[str, Image] = Field(default_factory=dict)
    orientation: str | None = None
    intensity: str | None = None
    declared: list[dict[str, Any]] | dict[str, Any] | None = Field(
        default=None, description="GeneratedBy of the dataset; an object in models of before"
    )
    fingerprints: dict[str, Looks] = Field(default_factory=dict)


class SplitFile(Strict):
    """`split.json`: subjects to train on, to validate on, and never to touch."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    made: str = Field(default="", description="how it was drawn")


def read_model_schema(folder: Path) -> Schema:
    """What `schema.json` says. Raises MetaVoxelError; so of a folder of another format."""
    path = folder / "schema.json"
    data = read_object(path)
    if data.pop("format", None) != FORMAT:
        raise MetaVoxelError(f"{path}: written by another version of metavoxel; train it again.")
    return parse_schema(data, str(path))


def json_text(data: Any, indent: int | None = 2) -> str:
    """JSON text of plain values, null where a number is not finite."""
    return json.dumps(_with_nulls(data), indent=indent, allow_nan=False) + "\n"


def _with_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _with_nulls(x) for k, x in data.items()}
    if isinstance(data, list | tuple):
        return [_with_nulls(x) for x in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` for the files of a model that are in a folder."""
    sums = {name: _sha256(folder / name) for name in sorted(_present(folder))}
    (folder / CHECKSUMS).write_text(json_text(sums))


def read_checksums(folder: Path) -> dict[str, str]:
    """What `checksums.json` lists. Raises MetaVoxelError if it is absent, or lists other files."""
    path = folder / CHECKSUMS
    if not path.exists():
        raise MetaVoxelError(
            f"{path}: there is no such file, so that nothing shows whether the model is whole. "
            "Copy the model again, or train it again."
        )
    return read_model(path, Checksums).root


def check_files(folder: Path, weights: bool = True) -> None:
    """Compare the files of a model folder with its checksums; without `weights` the small ones.

    Raises MetaVoxelError naming what is missing, or not as it was saved. A file that is not ours
    does not matter, since it is not read. Above 1 GB, the seconds it took are said.
    """
    if not any((folder / name).is_file() for name in ("schema.json", CHECKSUMS)):
        raise MetaVoxelError(
            f"{folder}: this is not a model folder (it has no schema.json). Give the folder that "
            "metavoxel train wrote with --out."
        )
    listed, there, start = read_checksums(folder), _present(folder), time.perf_counter()
    missing = sorted(listed.keys() - there)
    compared = sorted(there if weights else there - WEIGHTS)
    changed = [name for name in compared if listed.get(name) != _sha256(folder / name)]
    size = sum((folder / name).stat().st_size for name in compared)
    if size > _LARGE:
        took = f"{time.perf_counter() - start:.0f} s to compare with its checksums"
        errors.print(f"{escape(str(folder))}: {size / 1e9:.1f} GB took {took}", highlight=False)
    if missing:
        _refuse(folder, missing, "is missing", "are missing")
    if changed:
        _refuse(
            folder, changed, "is not the file that was saved", "are not the files that were saved"
        )


def _refuse(folder: Path, names: Collection[str], one: str, several: str) -> None:
    said = f"{', '.join(names)} {one if len(names) == 1 else several}"
    raise MetaVoxelError(f"{folder}: {said}. Copy or train the model again.")


def _present(folder: Path) -> frozenset[str]:
    """The files of a model that are in a folder."""
    return frozenset(name for name in KNOWN if (folder / name).exists())


def _sha256(path: Path) -> str:
    with reading(path, "a file that can be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
