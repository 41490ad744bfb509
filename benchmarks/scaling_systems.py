"""The joint models of scaling.py: how each is trained on a cohort, and what it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scaling_ask
import yaml
from coherence import Subjects
from scipy.stats import norm

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import fraction_split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table, as_table
from metavoxel.evaluation.law_answers import LawAnswers, stated_evidence
from metavoxel.evaluation.questions import rows_of
from metavoxel.files.writing import atomic_write
from metavoxel.files.yaml import read_yaml
from metavoxel.inference.calibration import crps
from metavoxel.model_folder import load_model
from metavoxel.posterior.marginal import Marginal
from metavoxel.schema import Schema
from metavoxel.training.config import read_config

ROOT = Path(__file__).parents[1]
STEPS = {100: 600, 300: 900, 1000: 1500, 3000: 3000, 10_000: 6000}
ADDED = {"mmse": {"kind": "continuous"}, "education": {"kind": "continuous", "unit": "years"}}
DRAWS = 3  # of the paper's engine, an answer


class Distribution(Protocol):
    """Of one number, for n subjects."""

    def crps(self, value: np.ndarray) -> np.ndarray: ...

    def cdf(self, value: float) -> np.ndarray: ...


Answer = Distribution | np.ndarray  # of a number, or the probabilities (n, K) of a label


@dataclass(frozen=True)
class Request:
    """A question about the first `rows` subjects. What is `fixed` is known to have that value in
    all of them, a label's index; all other known variables are the subjects' own."""

    asked: str
    known: frozenset[str]
    rows: int
    fixed: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Means (n,) of one standard deviation."""

    mean: np.ndarray
    std: float

    def crps(self, value: np.ndarray) -> np.ndarray:
        """Gneiting and Raftery (2007), Eq. 20."""
        z = (value - self.mean) / self.std
        return self.std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))

    def cdf(self, value: float) -> np.ndarray:
        return norm.cdf(value, self.mean, self.std)


@dataclass(frozen=True, eq=False)
class Draws:
    """Samples (n, m)."""

    samples: np.ndarray

    def crps(self, value: np.ndarray) -> np.ndarray:
        return crps(self.samples, value)

    def cdf(self, value: float) -> np.ndarray:
        return (self.samples < value).mean(1)


def between(quantiles: np.ndarray) -> Marginal:
    """The distribution that quantiles (n, m) at (k + 1/2) / m state, uniform between them."""
    first, last = quantiles[:, :1], quantiles[:, -1:]
    # Beyond them lies half as much as between two.
    low = first - (quantiles[:, 1:2] - first) / 2
    high = last + (last - quantiles[:, -2:-1]) / 2
    m = quantiles.shape[1]
    mass = np.full(m + 1, 1 / m)
    mass[[0, -1]] /= 2
    edges = np.maximum.accumulate(np.concatenate([low, quantiles, high], 1), 1)
    return Marginal(edges, np.broadcast_to(mass, (len(quantiles), m + 1)))


@dataclass(frozen=True)
class Piece:
    """One system trained on one cohort: `bids` holds n training and some validation subjects."""

    system: str
    n: int
    seed: int
    bids: Path
    folder: Path  # what is trained
    quick: bool
    older: Path | None = None  # checkout of the tag before-coherent-law

    @property
    def steps(self) -> int:
        """Four times as many for the paper's engine."""
        return 12 if self.quick else steps(self.n) * (4 if self.system == "paper" else 1)

    @property
    def source(self) -> Path:
        if self.system != "before":
            return ROOT
        if self.older is None:
            raise MetaVoxelError(
                "The system before needs a checkout of the tag before-coherent-law: name it, with "
                "--older."
            )
        return self.older

    def config(self) -> dict[str, Any]:
        """The run configuration, with the two numbers that its file does not have."""
        name = "simulated-slices-paper.yaml" if self.system == "paper" else "simulated-slices.yaml"
        data: dict[str, Any] = dict(read_yaml(self.source / "configs" / name))
        data["schema"]["variables"] |= ADDED
        validation = validation_size(self.n)
        share = validation / (self.n + validation)
        training = data["training"]
        split = {"kind": "fractions", "train": 1 - share, "validation": share, "test": 0, "seed": 0}
        training |= {"seed": self.seed, "threads": 1, "split": split}
        training["joint"] |= {"steps": self.steps, "validate_every": max(1, self.steps // 10)}
        if self.quick:
            training["autoencoder"] |= {"steps": 4, "validate_every": 2}
            training["joint"] |= {"copies": 2, "warmup_steps": 2, "calibration_folds": 2}
        if self.quick and self.system == "before":
            training["joint"].pop("calibration_folds")
        return data

    @property
    def schema(self) -> Schema:
        schema = read_config(ROOT / "configs/simulated-slices.yaml").variables
        assert schema is not None
        variables = schema.model_dump(mode="json")["variables"] | ADDED
        return Schema.model_validate({"variables": variables})

    def tables(self) -> tuple[Table, Table]:
        """Training and validation subjects, as the joint models split them."""
        cohort = read_cohort(self.bids, self.schema)
        validation = validation_size(self.n)
        share = validation / (self.n + validation)
        split = fraction_split(cohort.subjects, 0, (1 - share, share, 0))
        parts = (cohort.only(split.train), cohort.only(split.validation))
        train, held_out = (as_table(self.schema, part) for part in parts)
        return train, held_out


def steps(n: int) -> int:
    """Of a training on n subjects: those of the nearest size, by ratio."""
    return STEPS[min(STEPS, key=lambda size: abs(np.log(size / n)))]


def validation_size(n: int) -> int:
    """Subjects beside n training subjects: a tenth as many, 20 at least."""
    return max(20, n // 10)


@dataclass(frozen=True, eq=False)
class New:
    """New subjects, and their images and scalars as arrays."""

    subjects: Subjects
    table: Table

    def first(self, n: int) -> New:
        return New(self.subjects.rows(slice(n)), rows_of(self.table, np.arange(len(self))[:n]))

    def __len__(self) -> int:
        return len(self.table)


Answered = Mapping[Request, Answer]


def joint(piece: Piece, requests: Sequence[Request], new: New) -> Answered:
    """Today's model: the law's own distributions."""
    train_joint(piece)
    model = load_model(piece.folder)
    evidence = stated_evidence(model, new.table.images)
    every = LawAnswers(model, evidence, new.table.scalars)
    out: dict[Request, Answer] = {}
    for r in requests:
        told = {v: np.full(r.rows, x) for v, x in r.fixed}
        known = r.known - {*told}
        out[r] = every.of(slice(r.rows)).state(r.asked, known, told)
    return out


def paper(piece: Piece, requests: Sequence[Request], new: New) -> Answered:
    """The paper's engine: the draws themselves. What more than its questions is asked is left out:
    with three draws no chain rule is measured, and a question takes minutes."""
    train_joint(piece)
    own = [r for r in requests if not r.fixed]
    found = asked(piece, own, new, DRAWS)
    labels = piece.schema.categorical
    return {r: x if r.asked in labels else Draws(x) for r, x in zip(own, found, strict=True)}


def before(piece: Piece, requests: Sequence[Request], new: New) -> Answered:
    """The model of the older source, which states quantiles."""
    train_joint(piece)
    found, labels = asked(piece, requests, new, 0), piece.schema.categorical
    return {r: x if r.asked in labels else between(x) for r, x in zip(requests, found, strict=True)}


def train_joint(piece: Piece) -> None:
    """By the command line, under the piece's source; a run that was killed is continued."""
    if piece.folder.exists():
        return
    settings = piece.folder.with_suffix(".yaml")
    with atomic_write(settings) as temporary:
        temporary.write_text(yaml.safe_dump(piece.config(), sort_keys=False))
    command = ["-m", "metavoxel", "train", piece.bids, "--config", settings, "--out", piece.folder]
    if (piece.folder.with_name(f"{piece.folder.name}.training") / "run.yaml").exists():
        command.append("--resume")
    _python(piece, command)


def asked(piece: Piece, requests: Sequence[Request], new: New, draws: int) -> list[np.ndarray]:
    """What scaling_ask.py answers, under the piece's source."""
    arrays = new.table.images | {v: _typed(piece, v, x) for v, x in new.table.scalars.items()}
    described = [
        {"asked": r.asked, "known": sorted(r.known), "rows": r.rows, "fixed": dict(r.fixed)}
        for r in requests
    ]
    found = under_source(piece, arrays, [d | {"draws": draws} for d in described])
    return [found[str(i)] for i in range(len(requests))]


def _typed(piece: Piece, name: str, values: np.ndarray) -> np.ndarray:
    return values.astype(int) if name in piece.schema.categorical else values


def under_source(
    piece: Piece, arrays: Mapping[str, np.ndarray], requests: Any
) -> dict[str, np.ndarray]:
    """Run scaling_ask.py."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "requests.npz", Path(folder) / "answers.npz"
        np.savez(given, requests=np.array(json.dumps(requests)), **arrays)  # type: ignore[arg-type]  # numpy's stub: one name is `allow_pickle`
        _python(piece, [scaling_ask.__file__, piece.folder, given, out])
        with np.load(out) as file:
            return dict(file)


def _python(piece: Piece, command: Sequence[str | Path]) -> None:
    environment = os.environ | {"PYTHONPATH": str(piece.source / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise MetaVoxelError(f"{' '.join(map(str, command[:3]))} failed:\n{done.stderr[-2000:]}")
