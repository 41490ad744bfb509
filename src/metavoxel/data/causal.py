"""The causal model behind the simulated cohort, and its exact posterior by quadrature::

    sex ──────────► brain volume, ventricle volume, hippocampal volume
    age ──────────► brain volume, ventricle volume, cortical thickness, hippocampal volume
     └► diagnosis ► ventricle volume, cortical thickness, hippocampal volume

    sex        ~ Bernoulli(1/2)
    age        ~ Uniform(20, 90) years
    diagnosis  : u = (age - 80) / 8 + logistic noise; CN if u < 0, MCI if u < 1.5, else AD
    log brain volume (mL)       ~ N(log 1330 + 0.10 m - 0.084 (age - 20) / 70, 0.06)
    log ventricle volume (mL)   ~ N(log 12 + 0.10 m + 1.15 ((age - 20) / 70)^2 + 0.25 d, 0.22)
    cortical thickness (mm)     ~ N(2.95 - 0.525 (age - 20) / 70 - 0.07 d, 0.07)
    log hippocampal volume (mL) ~ N(log 7.8 + 0.05 m - 0.315 max(age - 50, 0) / 70 - 0.11 d, 0.07)

with m = 1 for men, d = 0, 1, 2 for CN, MCI, AD, and N(mean, standard deviation). Brain volume
counts the ventricles in. Given age, sex and diagnosis the measurements are independent, so
p(age | measurements, ...) is one sum over sex, diagnosis and a fine grid of ages. The numbers are
chosen to look like ageing, not fitted to any cohort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from metavoxel.errors import MetaVoxelError

SEXES = ("F", "M")
DIAGNOSES = ("CN", "MCI", "AD")
_YEARS = 70.0  # the span over which `Measurement.ageing` is stated


@dataclass(frozen=True)
class Measurement:
    """What is measured of a brain: Gaussian, or log-Gaussian, given age, sex and diagnosis.

    `typical` is its median, in `unit`, in a healthy woman at age `since`. The other numbers are on
    the scale on which it is Gaussian.
    """

    unit: str
    logarithmic: bool
    typical: float
    male: float  # what is added in men
    ageing: float  # added over the 70 years after `since`
    stage: float  # added for each step CN -> MCI -> AD
    spread: float  # standard deviation
    since: float = 20.0  # years
    power: float = 1.0  # 1: ageing goes at a steady pace; 2: faster and faster

    def expected(self, age: np.ndarray, sex: int, stage: int) -> np.ndarray:
        """Mean on the Gaussian scale, one per age."""
        elapsed = np.maximum(age - self.since, 0) / _YEARS
        added = self.male * sex + self.ageing * elapsed**self.power + self.stage * stage
        return self.gaussian(self.typical) + added

    def gaussian(self, value: float) -> float:
        """A value (in `unit`) on the scale on which the measurement is Gaussian."""
        return float(np.log(value)) if self.logarithmic else value

    def natural(self, gaussian: float) -> float:
        """The inverse of `gaussian`."""
        return float(np.exp(gaussian)) if self.logarithmic else gaussian


MEASUREMENTS: Mapping[str, Measurement] = {
    "brain_volume": Measurement("mL", True, 1330, 0.10, -0.084, 0.0, 0.06),
    "ventricle_volume": Measurement("mL", True, 12, 0.10, 1.15, 0.25, 0.22, power=2),
    "cortical_thickness": Measurement("mm", False, 2.95, 0.0, -0.525, -0.07, 0.07),
    "hippocampus_volume": Measurement("mL", True, 7.8, 0.05, -0.315, -0.11, 0.07, since=50),
}


@dataclass(frozen=True)
class Person:
    """One draw: the clinical variables and the measurements, in their units."""

    age: float
    sex: str
    diagnosis: str
    measurements: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Posterior:
    """p(age, sex, diagnosis | what is given).

    `edges` (n + 1,) are the ends of the age cells in years; `mass` (n, sexes, diagnoses) is the
    probability of each cell and sums to 1. One cell of no width when the age itself is given.
    """

    edges: np.ndarray
    mass: np.ndarray

    @property
    def ages(self) -> np.ndarray:
        """The middles of the age cells, (n,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def density(self) -> np.ndarray:
        """p(age | given) at `ages`, per year, (n,)."""
        return self._age_mass / np.diff(self.edges)

    @property
    def mean(self) -> float:
        return float(self._age_mass @ self.ages)

    @property
    def std(self) -> float:
        return float(np.sqrt(self._age_mass @ np.square(self.ages - self.mean)))

    @property
    def sex(self) -> dict[str, float]:
        """p(sex | given)."""
        return dict(zip(SEXES, self.mass.sum((0, 2)).tolist(), strict=True))

    @property
    def diagnosis(self) -> dict[str, float]:
        """p(diagnosis | given)."""
        return dict(zip(DIAGNOSES, self.mass.sum((0, 1)).tolist(), strict=True))

    def cdf(self, age: float) -> float:
        """Probability of being younger than `age`."""
        return float(np.interp(age, self.edges, self._below))

    def quantile(self, q: float) -> float:
        """The age (years) below which the posterior has mass q."""
        return float(np.interp(q, self._below, self.edges))

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """The central interval (years) of this probability."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    @property
    def _age_mass(self) -> np.ndarray:
        return self.mass.sum((1, 2))

    @property
    def _below(self) -> np.ndarray:
        return np.concatenate([[0.0], self._age_mass.cumsum()])


@dataclass(frozen=True)
class CausalModel:
    """The model of the module's docstring; other numbers make another cohort."""

    youngest: float = 20.0  # years
    oldest: float = 90.0
    onset: float = 80.0  # the age at which half are no longer CN
    onset_spread: float = 8.0  # years; scale of the logistic distribution of onsets
    conversion: float = 1.5  # from MCI to AD, in onset spreads
    measurements: Mapping[str, Measurement] = field(default_factory=lambda: MEASUREMENTS)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Person, ...]:
        """n independent people."""
        return tuple(self.draw(rng) for _ in range(n))

    def draw(self, rng: np.random.Generator) -> Person:
        """One person."""
        age = float(rng.uniform(self.youngest, self.oldest))
        sex = int(rng.integers(len(SEXES)))
        stage = int(rng.choice(len(DIAGNOSES), p=self.diagnosis_given_age(np.array([age]))[0]))
        measured = {
            name: m.natural(m.expected(np.array([age]), sex, stage)[0] + m.spread * noise)
            for (name, m), noise in zip(
                self.measurements.items(),
                rng.standard_normal(len(self.measurements)),
                strict=True,
            )
        }
        return Person(age, SEXES[sex], DIAGNOSES[stage], measured)

    def diagnosis_given_age(self, age: np.ndarray) -> np.ndarray:
        """p(diagnosis | age), shape (n, 3)."""
        u = (age[:, None] - self.onset) / self.onset_spread
        at_most = 1 / (1 + np.exp(u - np.array([0.0, self.conversion])))
        ones = np.ones((len(age), 1))
        return np.diff(np.concatenate([0 * ones, at_most, ones], axis=1), axis=1)

    def log_density(self, ages: np.ndarray, measured: Mapping[str, float]) -> np.ndarray:
        """log p(age, sex, diagnosis, measured) for every sex and diagnosis, (n, 2, 3).

        A density per year and per unit of the Gaussian scale of each measurement named.
        """
        prior = self.diagnosis_given_age(ages)[:, None, :] / (2 * (self.oldest - self.youngest))
        total = np.log(np.broadcast_to(prior, (len(ages), len(SEXES), len(DIAGNOSES)))).copy()
        for name, value in measured.items():
            m = self.measurements[name]
            for i in range(len(SEXES)):
                for j in range(len(DIAGNOSES)):
                    z = (m.gaussian(value) - m.expected(ages, i, j)) / m.spread
                    total[:, i, j] -= 0.5 * z**2 + np.log(m.spread * np.sqrt(2 * np.pi))
        return total

    def posterior(
        self,
        measured: Mapping[str, float],
        given: Mapping[str, float | str] | None = None,
        points: int = 701,
    ) -> Posterior:
        """p(age, sex, diagnosis | measured, given), by quadrature over `points` ages.

        Any of the measurements may be named, and age, sex and diagnosis be given; the rest is
        marginalised. Raises MetaVoxelError for a name, label or value that cannot be.
        """
        given = given or {}
        self._check(measured, given)
        edges = np.linspace(self.youngest, self.oldest, points + 1)
        if "age" in given:
            edges = np.full(2, float(given["age"]))
        log_mass = self.log_density((edges[1:] + edges[:-1]) / 2, measured)
        for axis, (variable, labels) in enumerate((("sex", SEXES), ("diagnosis", DIAGNOSES)), 1):
            if variable in given:
                other = [i for i, label in enumerate(labels) if label != given[variable]]
                np.moveaxis(log_mass, axis, 0)[other] = -np.inf
        mass = np.exp(log_mass - log_mass.max())
        return Posterior(edges, mass / mass.sum())

    def _check(self, measured: Mapping[str, float], given: Mapping[str, float | str]) -> None:
        for name, value in measured.items():
            if name not in self.measurements:
                known = ", ".join(self.measurements)
                raise MetaVoxelError(f'"{name}" is not measured; choose from {known}.')
            if not np.isfinite(value) or value <= 0:
                raise MetaVoxelError(f"{name} is {value}; give a positive number.")
        labels = {"sex": SEXES, "diagnosis": DIAGNOSES}
        for name, value in given.items():
            if name not in ("age", *labels):
                raise MetaVoxelError(f'"{name}" cannot be given; choose from age, sex, diagnosis.')
            if name in labels and value not in labels[name]:
                options = ", ".join(labels[name])
                raise MetaVoxelError(f'{name} is "{value}"; choose from {options}.')
            if name == "age" and not self.youngest <= float(value) <= self.oldest:
                raise MetaVoxelError(
                    f"age is {value}; people here are {self.youngest:g} to {self.oldest:g}."
                )
