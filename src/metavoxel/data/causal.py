"""The causal model behind the simulated cohort, and its exact posterior by quadrature::

    sex ──────────► brain volume, ventricle volume, hippocampal volume
    age ──────────► brain volume, ventricle volume, cortical thickness, hippocampal volume, MMSE
     └► diagnosis ► ventricle volume, cortical thickness, hippocampal volume, MMSE
    education ────► MMSE

    sex        ~ Bernoulli(1/2)
    age        ~ Uniform(20, 90) years
    diagnosis  : u = (age - 80) / 8 + logistic noise; CN if u < 0, MCI if u < 1.5, else AD
    log brain volume (mL)       ~ N(log 1330 + 0.10 m - 0.084 (age - 20) / 70, 0.06)
    log ventricle volume (mL)   ~ N(log 12 + 0.10 m + 1.15 ((age - 20) / 70)^2 + 0.25 d, 0.22)
    cortical thickness (mm)     ~ N(2.95 - 0.525 (age - 20) / 70 - 0.07 d, 0.07)
    log hippocampal volume (mL) ~ N(log 7.8 + 0.05 m - 0.315 max(age - 50, 0) / 70 - 0.11 d, 0.07)
    education (years)           ~ N(14, 2.8)
    logit (MMSE / 30)           ~ N(logit (29.3 / 30) - 0.5 (age - 20) / 70 - 1.15 d
                                    + 0.08 (education - 14), 0.6)

with m = 1 for men, d = 0, 1, 2 for CN, MCI, AD, and N(mean, standard deviation). Brain volume
counts the ventricles in. The MMSE is Gaussian on the scale of a logit, so its density is exact
below its ceiling of 30 points, and it is not rounded to whole points. Education says nothing of the
brain, but explains a low MMSE away.

Given age, sex and diagnosis all numbers are jointly Gaussian, so what is known of them weighs each
age, sex and diagnosis, what is not known has a closed form in each, and every posterior is one sum
over sex, diagnosis and a fine grid of ages. The numbers are chosen to look like ageing, not fitted
to any cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from scipy.special import expit, logit

from metavoxel.errors import MetaVoxelError
from metavoxel.posterior.marginal import Marginal

SEXES = ("F", "M")
DIAGNOSES = ("CN", "MCI", "AD")
_LABELS = {"sex": SEXES, "diagnosis": DIAGNOSES}
_YEARS = 70.0  # the span over which `Measurement.ageing` is stated
_POINTS = 30.0  # the highest MMSE
_CELLS = 512  # of a number's posterior: 0.04 of its conditional standard deviations each, or so
_REACH = 8.0  # conditional standard deviations beyond the outermost mean

Values: TypeAlias = float | np.ndarray  # of one subject, or of many (...,)
Known: TypeAlias = Values | str  # or labels


@dataclass(frozen=True)
class Scale:
    """Where a number is Gaussian: the map from its unit, its inverse, and where the unit ends."""

    gaussian: Callable[[Values], np.ndarray]
    natural: Callable[[Values], np.ndarray]
    above: float = -np.inf
    below: float = np.inf


def _share_of_points(value: Values) -> np.ndarray:
    return logit(np.asarray(value) / _POINTS)


def _points(share: Values) -> np.ndarray:
    return _POINTS * expit(share)


LINEAR = Scale(np.asarray, np.asarray)
LOGARITHM = Scale(np.log, np.exp, above=0)
LOGIT = Scale(_share_of_points, _points, above=0, below=_POINTS)


@dataclass(frozen=True)
class Measurement:
    """A number that is Gaussian, on its scale, given age, sex and diagnosis.

    `typical` is its median, in `unit`, in a healthy woman at age `since`. The other numbers are on
    the scale on which it is Gaussian. `follows` is what is added for each unit by which another
    measurement exceeds its own mean.
    """

    unit: str
    scale: Scale
    typical: float
    male: float  # what is added in men
    ageing: float  # added over the 70 years after `since`
    stage: float  # added for each step CN -> MCI -> AD
    spread: float  # standard deviation
    since: float = 20.0  # years
    power: float = 1.0  # 1: ageing goes at a steady pace; 2: faster and faster
    follows: Mapping[str, float] = field(default_factory=dict)

    def expected(
        self, age: np.ndarray, sex: int | np.ndarray, stage: int | np.ndarray
    ) -> np.ndarray:
        """Mean on the Gaussian scale; the arguments broadcast."""
        elapsed = np.maximum(age - self.since, 0) / _YEARS
        added = self.male * sex + self.ageing * elapsed**self.power + self.stage * stage
        return self.scale.gaussian(self.typical) + added


MEASUREMENTS: Mapping[str, Measurement] = {
    "brain_volume": Measurement("mL", LOGARITHM, 1330, 0.10, -0.084, 0.0, 0.06),
    "ventricle_volume": Measurement("mL", LOGARITHM, 12, 0.10, 1.15, 0.25, 0.22, power=2),
    "cortical_thickness": Measurement("mm", LINEAR, 2.95, 0.0, -0.525, -0.07, 0.07),
    "hippocampus_volume": Measurement("mL", LOGARITHM, 7.8, 0.05, -0.315, -0.11, 0.07, since=50),
}
CLINICAL: Mapping[str, Measurement] = {
    "education": Measurement("years", LINEAR, 14, 0.0, 0.0, 0.0, 2.8),
    "mmse": Measurement("points", LOGIT, 29.3, 0.0, -0.5, -1.15, 0.6, follows={"education": 0.08}),
}


@dataclass(frozen=True)
class Person:
    """One draw: labels and numbers, in their units. The scan shows `measurements`; `clinical` are
    the numbers beside it."""

    age: float
    sex: str
    diagnosis: str
    measurements: Mapping[str, float]
    clinical: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Posterior:
    """p(age, sex, diagnosis, numbers | what is given), of one subject or of many.

    Leading axes (...) are subjects. `edges` (..., n + 1) are the ends of the age cells in years;
    `mass` (..., n, sexes, diagnoses) is the probability of each cell and sums to 1. One cell of no
    width when the age itself is given. In each cell the k numbers of `unknown` are Gaussian on
    their scales: means `expected` (k, ..., n, sexes, diagnoses) + `shift` (k, ...), and one
    `covariance` (k, k). `known` are the values of the other numbers.
    """

    edges: np.ndarray
    mass: np.ndarray
    unknown: Mapping[str, Measurement]
    expected: np.ndarray
    shift: np.ndarray
    covariance: np.ndarray
    known: Mapping[str, np.ndarray]

    @property
    def sex(self) -> dict[str, np.ndarray]:
        """p(sex | given), (...) for each label."""
        return dict(zip(SEXES, np.moveaxis(self.mass.sum((-3, -1)), -1, 0), strict=True))

    @property
    def diagnosis(self) -> dict[str, np.ndarray]:
        """p(diagnosis | given), (...) for each label."""
        return dict(zip(DIAGNOSES, np.moveaxis(self.mass.sum((-3, -2)), -1, 0), strict=True))

    @property
    def age(self) -> Marginal:
        """p(age | given), in years."""
        return Marginal(self.edges, self.mass.sum((-2, -1)))

    def number(self, name: str) -> Marginal:
        """p(number | given), in its unit: the mixture over age, sex and diagnosis of what it is in
        each, the other unknown numbers integrated out."""
        if name in self.known:
            value = self.known[name]
            return Marginal(np.stack([value, value], -1), np.ones((*value.shape, 1)))
        i = [*self.unknown].index(name)
        spread = np.sqrt(self.covariance[i, i])
        means = self.expected[i].reshape(*self.expected[i].shape[:-3], -1)
        edges = np.linspace(
            means.min() - _REACH * spread, means.max() + _REACH * spread, _CELLS + 1
        )
        centres = (edges[1:] + edges[:-1]) / 2
        densities = np.exp(-0.5 * np.square((centres - means[..., None]) / spread))
        weights = self.mass.reshape(*self.mass.shape[:-3], -1)
        mass = np.einsum("...m,...mc->...c", weights, densities, optimize=True)
        natural = self.unknown[name].scale.natural(edges + self.shift[i][..., None])
        return Marginal(natural, mass / mass.sum(-1, keepdims=True))

    def sample(self, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """n independent joint draws for each subject, (..., n): age, sex, diagnosis and every
        number, in their units; what is known is repeated."""
        lead, cells = self.mass.shape[:-3], self.mass.shape[-3:]
        below = self.mass.reshape(-1, int(np.prod(cells))).cumsum(-1)
        drawn = rng.uniform(size=(len(below), n)) * below[:, -1:]
        cell = np.stack([np.searchsorted(*x, "right") for x in zip(below, drawn, strict=True)])
        cell = cell.reshape(*lead, n)
        year, sex, stage = np.unravel_index(cell, cells)
        edges = np.broadcast_to(self.edges, (*lead, cells[0] + 1))
        ends = [np.take_along_axis(edges, year + i, -1) for i in (0, 1)]
        out: dict[str, np.ndarray] = {
            "age": ends[0] + rng.uniform(size=cell.shape) * (ends[1] - ends[0]),
            "sex": np.array(SEXES)[sex],
            "diagnosis": np.array(DIAGNOSES)[stage],
        }
        out |= {v: np.broadcast_to(x[..., None], cell.shape) for v, x in self.known.items()}
        noise = rng.standard_normal((*cell.shape, len(self.unknown)))
        noise = noise @ np.linalg.cholesky(self.covariance).T
        for i, (v, kind) in enumerate(self.unknown.items()):
            means = np.broadcast_to(self.expected[i], self.mass.shape).reshape(*lead, -1)
            means = np.take_along_axis(means, cell, -1) + self.shift[i][..., None]
            out[v] = kind.scale.natural(means + noise[..., i])
        return out


@dataclass(frozen=True)
class CausalModel:
    """The model of the module's docstring; other numbers make another cohort."""

    youngest: float = 20.0  # years
    oldest: float = 90.0
    onset: float = 80.0  # the age at which half are no longer CN
    onset_spread: float = 8.0  # years; scale of the logistic distribution of onsets
    conversion: float = 1.5  # from MCI to AD, in onset spreads
    measurements: Mapping[str, Measurement] = field(default_factory=lambda: MEASUREMENTS)
    clinical: Mapping[str, Measurement] = field(default_factory=lambda: CLINICAL)

    @property
    def numbers(self) -> dict[str, Measurement]:
        """All that is Gaussian given age, sex and diagnosis."""
        return {**self.measurements, **self.clinical}

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Person, ...]:
        """n independent subjects."""
        return tuple(self.draw(rng) for _ in range(n))

    def draw(self, rng: np.random.Generator) -> Person:
        """One subject."""
        age = float(rng.uniform(self.youngest, self.oldest))
        sex = int(rng.integers(len(SEXES)))
        stage = int(rng.choice(len(DIAGNOSES), p=self.diagnosis_given_age(np.array([age]))[0]))
        measured = self._drawn(self.measurements, age, sex, stage, rng)
        # A stream of their own: the scans of a seed stay what they were before there were these.
        clinical = self._drawn(self.clinical, age, sex, stage, rng.spawn(1)[0])
        return Person(age, SEXES[sex], DIAGNOSES[stage], measured, clinical)

    def _drawn(
        self,
        kinds: Mapping[str, Measurement],
        age: float,
        sex: int,
        stage: int,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Values of the numbers, in their units; one that follows another comes after it."""
        excess: dict[str, float] = {}  # over what is expected
        for (name, kind), noise in zip(kinds.items(), rng.standard_normal(len(kinds)), strict=True):
            followed = sum(weight * excess[other] for other, weight in kind.follows.items())
            excess[name] = kind.spread * noise + followed
        return {
            name: float(
                kind.scale.natural(kind.expected(np.array([age]), sex, stage)[0] + excess[name])
            )
            for name, kind in kinds.items()
        }

    def diagnosis_given_age(self, age: np.ndarray) -> np.ndarray:
        """p(diagnosis | age), shape (..., 3)."""
        u = (age[..., None] - self.onset) / self.onset_spread
        at_most = 1 / (1 + np.exp(u - np.array([0.0, self.conversion])))
        ones = np.ones((*age.shape, 1))
        return np.diff(np.concatenate([0 * ones, at_most, ones], axis=-1), axis=-1)

    def covariance(self) -> np.ndarray:
        """Of all `numbers`, on their scales, given age, sex and diagnosis, (k, k)."""
        kinds = self.numbers
        follows = np.array(
            [[kind.follows.get(other, 0.0) for other in kinds] for kind in kinds.values()]
        )
        effect = np.linalg.inv(np.eye(len(kinds)) - follows)  # of each one's noise on all
        return (effect * np.square([kind.spread for kind in kinds.values()])) @ effect.T

    def expected(self, ages: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Means of the named numbers on their scales, (k, ..., n, 2, 3) for ages (..., n)."""
        sex, stage = np.arange(len(SEXES))[:, None], np.arange(len(DIAGNOSES))
        shape = (*ages.shape, len(SEXES), len(DIAGNOSES))
        kinds = self.numbers
        means = [kinds[name].expected(ages[..., None, None], sex, stage) for name in names]
        return np.array([np.broadcast_to(x, shape) for x in means]).reshape(len(names), *shape)

    def log_density(self, ages: np.ndarray, known: Mapping[str, Values]) -> np.ndarray:
        """log p(age, sex, diagnosis, known) for every sex and diagnosis, (..., n, 2, 3).

        `ages` (..., n) in years, `known` values (...) of any of the numbers. A density per year and
        per unit of the Gaussian scale of each number named.
        """
        prior = self.diagnosis_given_age(ages)[..., None, :] / (2 * (self.oldest - self.youngest))
        total = np.log(np.broadcast_to(prior, (*ages.shape, len(SEXES), len(DIAGNOSES))))
        where = [[*self.numbers].index(name) for name in known]
        whitening = np.linalg.inv(np.linalg.cholesky(self.covariance()[np.ix_(where, where)]))
        means = np.tensordot(whitening, self.expected(ages, [*known]), 1)
        for weights, mean in zip(whitening, means, strict=True):
            x = sum(w * v for w, v in zip(weights, self._gaussian(known), strict=True))
            total = total - 0.5 * np.square(np.asarray(x)[..., None, None, None] - mean)
        return total + np.log(np.diag(whitening) / np.sqrt(2 * np.pi)).sum()

    def _gaussian(self, known: Mapping[str, Values]) -> list[np.ndarray]:
        """Values on the scales on which they are Gaussian."""
        kinds = self.numbers
        return [kinds[name].scale.gaussian(value) for name, value in known.items()]

    def posterior(
        self,
        measured: Mapping[str, Values],
        given: Mapping[str, Known] | None = None,
        points: int = 701,
    ) -> Posterior:
        """p(all the rest | measured, given), by quadrature over `points` ages.

        Any of the measurements may be named, and age, sex, diagnosis and the clinical numbers be
        given; the rest is marginalised. A value is a number or label, or an array (...) with one
        per subject: then all is answered at once, with 48 `points` bytes a subject. Raises
        MetaVoxelError for a name, label or value that cannot be.
        """
        given = given or {}
        self._check(measured, given)
        clinical = {v: given[v] for v in given if v in self.clinical}
        known = {v: np.asarray(x, dtype=float) for v, x in {**measured, **clinical}.items()}
        edges = np.linspace(self.youngest, self.oldest, points + 1)
        if "age" in given:
            age = np.asarray(given["age"], dtype=float)
            edges = np.stack([age, age], -1)
        ages = (edges[..., 1:] + edges[..., :-1]) / 2
        log_mass = self.log_density(ages, known)
        for (variable, labels), others in zip(_LABELS.items(), ((-3, -1), (-3, -2)), strict=True):
            if variable in given:
                match = np.asarray(given[variable])[..., None] == np.array(labels)
                log_mass = np.where(np.expand_dims(match, others), log_mass, -np.inf)
        mass = np.exp(log_mass - log_mass.max((-3, -2, -1), keepdims=True))
        mass /= mass.sum((-3, -2, -1), keepdims=True)
        return Posterior(edges, mass, *self._conditional(ages, known), known)

    def _conditional(
        self, ages: np.ndarray, known: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Measurement], np.ndarray, np.ndarray, np.ndarray]:
        """The numbers that are not known, given those that are: as `Posterior` holds them."""
        names = [*self.numbers]
        unknown = {v: kind for v, kind in self.numbers.items() if v not in known}
        u, k = ([names.index(v) for v in part] for part in (unknown, known))
        covariance = self.covariance()
        gain = np.linalg.solve(covariance[np.ix_(k, k)], covariance[np.ix_(k, u)]).T
        expected = self.expected(ages, [*unknown])
        expected = expected - np.tensordot(gain, self.expected(ages, [*known]), 1)
        shape = np.broadcast_shapes(*(x.shape for x in known.values()))
        values = np.array([np.broadcast_to(x, shape) for x in self._gaussian(known)])
        shift = np.tensordot(gain, values.reshape(len(known), *shape), 1)
        return unknown, expected, shift, covariance[np.ix_(u, u)] - gain @ covariance[np.ix_(k, u)]

    def _check(self, measured: Mapping[str, Values], given: Mapping[str, Known]) -> None:
        allowed = ("age", *_LABELS, *self.clinical)
        for name in measured:
            if name not in self.measurements:
                known = ", ".join(self.measurements)
                raise MetaVoxelError(f'"{name}" is not measured; choose from {known}.')
        for name in given:
            if name not in allowed:
                raise MetaVoxelError(f'"{name}" cannot be given; choose from {", ".join(allowed)}.')
        for name, values in (*measured.items(), *given.items()):
            self._check_values(name, np.atleast_1d(np.asarray(values)))

    def _check_values(self, name: str, values: np.ndarray) -> None:
        if name in _LABELS:
            fits = np.isin(values, _LABELS[name])
            said = f"choose from {', '.join(_LABELS[name])}"
        elif name == "age":
            fits = (values >= self.youngest) & (values <= self.oldest)
            said = f"people here are {self.youngest:g} to {self.oldest:g}"
        else:
            scale = self.numbers[name].scale
            fits = np.isfinite(values) & (values > scale.above) & (values < scale.below)
            ends = {"above": scale.above, "below": scale.below}
            ends = " and ".join(f"{w} {x:g}" for w, x in ends.items() if np.isfinite(x))
            said = f"give a number {ends}".rstrip()
        if not fits.all():
            raise MetaVoxelError(f"{name} is {values[~fits][0]}; {said}.")
