"""The causal model behind the simulated cohort, and its exact posterior by quadrature.

    sex ──────────► brain volume
     │ └──────────► ventricle volume, hippocampal volume
    age ──────────► brain volume, ventricle volume, cortical thickness, hippocampal volume
     └► diagnosis ► ventricle volume, cortical thickness, hippocampal volume

    sex        ~ Bernoulli(1/2)
    age        ~ Uniform(20, 90) years
    diagnosis  : u = (age - 80) / 8 + logistic noise; CN if u < 0, MCI if u < 1.5, else AD
    log brain volume (mL)       ~ N(log 1330 + 0.10 [M] - 0.0012 (age - 20), 0.06)
    log ventricle volume (mL)   ~ N(log 12 + 0.10 [M] + 1.15 ((age - 20) / 70)^2 + 0.25 d, 0.22)
    cortical thickness (mm)     ~ N(2.95 - 0.0075 (age - 20) - 0.07 d, 0.07)
    log hippocampal volume (mL) ~ N(log 7.8 + 0.05 [M] - 0.0045 max(age - 50, 0) - 0.11 d, 0.07)

with d = 0, 1, 2 for CN, MCI, AD. Given (age, sex, diagnosis) the four measurements are independent,
so p(age | measurements, ...) needs one sum over sex, diagnosis and a fine grid of ages. The numbers
are chosen to look like ageing, not fitted to any cohort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SEXES = ("F", "M")
DIAGNOSES = ("CN", "MCI", "AD")
MEASUREMENTS = ("brain_volume", "ventricle_volume", "cortical_thickness", "hippocampus_volume")
UNITS = {
    "brain_volume": "mL",
    "ventricle_volume": "mL",
    "cortical_thickness": "mm",
    "hippocampus_volume": "mL",
}
_LOGARITHMIC = np.array([True, True, False, True])  # which measurements are Gaussian as logs


@dataclass(frozen=True)
class Person:
    """One draw: the clinical variables and the four measurements, in their units."""

    age: float
    sex: str
    diagnosis: str
    measurements: dict[str, float]


@dataclass(frozen=True, eq=False)
class Posterior:
    """p(age, sex, diagnosis | what is given): `ages` (n,) and `joint` (n, sexes, diagnoses)."""

    ages: np.ndarray
    joint: np.ndarray

    @property
    def density(self) -> np.ndarray:
        """Probability of each age of the grid, (n,), summing to 1."""
        return self.joint.sum((1, 2))

    @property
    def mean(self) -> float:
        return float(self.density @ self.ages)

    @property
    def std(self) -> float:
        return float(np.sqrt(self.density @ np.square(self.ages - self.mean)))

    def quantile(self, q: float) -> float:
        """The age (years) below which the posterior has mass q."""
        return float(np.interp(q, self.density.cumsum(), self.ages))

    @property
    def sex(self) -> dict[str, float]:
        return dict(zip(SEXES, self.joint.sum((0, 2)).tolist(), strict=True))

    @property
    def diagnosis(self) -> dict[str, float]:
        return dict(zip(DIAGNOSES, self.joint.sum((0, 1)).tolist(), strict=True))


@dataclass(frozen=True)
class CausalModel:
    """The model of the module's docstring."""

    youngest: float = 20.0
    oldest: float = 90.0
    spreads: tuple[float, ...] = (0.06, 0.22, 0.07, 0.07)

    def draw(self, rng: np.random.Generator) -> Person:
        """One person."""
        age = float(rng.uniform(self.youngest, self.oldest))
        sex = int(rng.integers(2))
        stage = int(rng.choice(3, p=self.diagnosis_given_age(np.array([age]))[0]))
        centre = self.expected(np.array([age]), sex, stage)[0]
        values = centre + np.array(self.spreads) * rng.standard_normal(4)
        values = np.where(_LOGARITHMIC, np.exp(values), values)
        measured = dict(zip(MEASUREMENTS, values.tolist(), strict=True))
        return Person(age, SEXES[sex], DIAGNOSES[stage], measured)

    def diagnosis_given_age(self, age: np.ndarray) -> np.ndarray:
        """p(diagnosis | age), shape (n, 3)."""
        u = (age[:, None] - 80.0) / 8.0
        at_most = 1 / (1 + np.exp(u - np.array([0.0, 1.5])))
        ones = np.ones_like(age)[:, None]
        return np.diff(np.concatenate([0 * ones, at_most, ones], axis=1), axis=1)

    def expected(self, age: np.ndarray, sex: int, stage: int) -> np.ndarray:
        """Means of the measurements (n, 4), on the scale on which they are Gaussian."""
        years, d = age - 20.0, float(stage)
        return np.stack(
            [
                np.log(1330) + 0.10 * sex - 0.0012 * years,
                np.log(12) + 0.10 * sex + 1.15 * np.square(years / 70) + 0.25 * d,
                2.95 - 0.0075 * years - 0.07 * d,
                np.log(7.8) + 0.05 * sex - 0.0045 * np.maximum(age - 50, 0) - 0.11 * d,
            ],
            axis=1,
        )

    def posterior(
        self,
        measurements: Mapping[str, float],
        sex: str | None = None,
        diagnosis: str | None = None,
        points: int = 1401,
    ) -> Posterior:
        """p(age, sex, diagnosis | measurements and what else is given), by quadrature over age.

        Any subset of the measurements may be given; what is not named is marginalised.
        """
        edges = np.linspace(self.youngest, self.oldest, points + 1)
        ages = (edges[1:] + edges[:-1]) / 2
        used = [i for i, name in enumerate(MEASUREMENTS) if name in measurements]
        values = np.array([measurements[MEASUREMENTS[i]] for i in used])
        values = np.where(_LOGARITHMIC[used], np.log(np.maximum(values, 1e-12)), values)
        spreads = np.array(self.spreads)[used]
        prior = self.diagnosis_given_age(ages)
        log_joint = np.full((points, 2, 3), -np.inf)
        for i, s in enumerate(SEXES):
            for j, d in enumerate(DIAGNOSES):
                if sex in (None, s) and diagnosis in (None, d):
                    z = (values - self.expected(ages, i, j)[:, used]) / spreads
                    log_joint[:, i, j] = np.log(prior[:, j] + 1e-300) - 0.5 * np.square(z).sum(1)
        weights = np.exp(log_joint - log_joint.max())
        return Posterior(ages, weights / weights.sum())
