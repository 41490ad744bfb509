"""A kind of variable that the package does not have, in this one file: a count, by Poisson's law.

As docs/extending.md says it is made. It is read, trained, asked, drawn and evaluated.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from scipy.stats import norm, poisson
from torch import Tensor
from typer.testing import CliRunner

import metavoxel as mv
from metavoxel.cli import app
from metavoxel.data.simulate import simulate
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import KINDS, Number, register_kind
from metavoxel.training.config import RunConfig
from metavoxel.training.run import train
from tiny import tiny_settings


@dataclass(frozen=True)
class PoissonScores(NormalScores):
    """k events of a Poisson law are the scores between probit F(k - 1) and probit F(k)."""

    @classmethod
    def fit(cls, values: Tensor, bounds: tuple[float, float] | None) -> PoissonScores:
        rate = max(float(values.mean()), 0.1)
        low, high = bounds or (0.0, max(1.0, float(values.max())))
        return cls(low, high, ((1.0, rate, math.sqrt(rate)),))

    def decode(self, x: Tensor) -> Tensor:
        return super().decode(x).round().clamp_min(0)

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        rate = self.components[0][1]
        counts = np.arange(-1, poisson.isf(1e-9, rate))
        scores = norm.ppf(np.clip(poisson.cdf(counts, rate), 1e-9, 1 - 1e-9))
        scores[0] = (
            2 * norm.ppf(poisson.cdf(0, rate) / 2) - scores[1]
        )  # so that 0 has half its mass
        return torch.from_numpy(scores), torch.from_numpy(counts + 0.5)


class Count(Number):
    """A whole number from 0, as of events."""

    embedding: ClassVar[Any] = PoissonScores

    kind: Literal["count"] = "count"

    def parse(self, text: str | float) -> float:
        value = super().parse(text)
        if value < 0 or value != int(value):
            raise ValueError(f"{value:g} is not a count. Write a whole number from 0")
        return value


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Any:
    register_kind(Count)
    yield
    del KINDS["count"]


def rate_at(age: float) -> float:
    return math.exp((age - 50) / 20)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 simulated subjects whose falls go with their age."""
    folder = tmp_path_factory.mktemp("counts") / "bids"
    simulate(folder, 80, seed=0, resolution=8, missing=0)
    table = folder / "participants.tsv"
    with table.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    draw = np.random.default_rng(0)
    for row in rows:
        row["falls"] = str(draw.poisson(rate_at(float(row["age"]))))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def model(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny_settings(steps=60, validate_every=30)
    settings["schema"]["variables"]["falls"] = {"kind": "count", "range": [0, 40]}
    out = tmp_path_factory.mktemp("model") / "model"
    train(cohort, RunConfig.model_validate(settings), out)
    return out


def test_its_scores_are_those_of_the_poisson_law() -> None:
    values = torch.from_numpy(np.random.default_rng(0).poisson(3.0, 20_000)).double()
    scores = PoissonScores.fit(values, None)
    x = scores.encode(values)
    assert torch.equal(scores.decode(x), values)
    assert abs(float(x.mean())) < 0.05 and float(x.std()) == pytest.approx(1, abs=0.05)


def test_what_is_no_count_is_one_sentence(cohort: Path, model: Path) -> None:
    with pytest.raises(MetaVoxelError, match=r"falls: 2\.5 is not a count\. Write a whole number"):
        mv.load(model).ask("age", {"falls": 2.5})


def test_it_is_asked_as_any_number(cohort: Path, model: Path) -> None:
    loaded = mv.load(model)
    scan = min(cohort.glob("sub-*/anat/*_T1w.nii.gz"))
    falls = loaded.ask("falls", {"image": scan})["falls"]
    assert -0.5 <= falls.interval(0.9)[0] <= falls.mean < 40  # 0 lies between -0.5 and 0.5
    # The cohort's own coupling: the more falls, the older.
    few, many = (loaded.ask("age", {"falls": k})["age"].mean for k in (0, 6))
    assert few + 5 < many


def test_it_is_drawn_as_whole_numbers_that_can_be_read_again(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    asked = ["ask", str(model), "image, age, sex, diagnosis, falls", "--samples", "6"]
    ran = CliRunner().invoke(app, [*asked, "--out", str(out), "--steps", "3"])
    assert ran.exit_code == 0, ran.output
    with (out / "participants.tsv").open() as file:
        falls = [row["falls"] for row in csv.DictReader(file, delimiter="\t")]
    assert len(falls) == 6 and all(text.isdigit() for text in falls)


def test_it_is_evaluated(cohort: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    ran = CliRunner().invoke(app, ["evaluate", str(model), str(cohort), "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "| falls (n = " in (out / "report.md").read_text()
    with (out / "scores.csv").open() as file:
        assert any("falls" in row.values() for row in csv.DictReader(file))
