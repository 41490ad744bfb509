"""Do generated images show what was asked for? Measurements read off them, beside real subjects'.

The reader knows nothing of the model: it is a kernel ridge on the voxels of real training images.
Such a reader draws its answers towards the mean, and a slope on age with them. How far is seen in
its answers about training subjects whom it was not fitted on, and is undone (Cole et al., 2018).
Generated and real subjects are read alike, so that what is left of its faults is in both.

Everything takes plain arrays. Conditions are dicts of values: numbers of continuous variables,
label indices of categorical ones; variables are told apart by the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import KFold

from metavoxel.data.causal import DIAGNOSES, SEXES, CausalModel
from metavoxel.evaluation import regression
from metavoxel.evaluation.baselines import kernel_ridge
from metavoxel.evaluation.scores import Bootstrap, Score, Statistic, mean_of
from metavoxel.inference.calibration import calibrate
from metavoxel.schema import Schema

_FOLDS = 5
_FEWEST = 20  # subjects from whom a reader is fitted

Condition = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Reading:
    """A measurement as read off groups of images, in its unit: `values[group]` (n,).

    `corrected` is whether the reader's regression to the mean could be told, and is undone.
    """

    values: Mapping[str, np.ndarray]
    corrected: bool


@dataclass(frozen=True, eq=False)
class People:
    """Real subjects: their scalars (n,) by variable, NaN where n/a, and what was measured (n,)."""

    scalars: Mapping[str, np.ndarray]
    measured: np.ndarray


@dataclass(frozen=True, eq=False)
class Cell:
    """A condition, the mean of a measurement of the images drawn under it, and that of real
    subjects like it, by group; the intervals are over images and over subjects."""

    condition: Condition
    generated: Score
    real: Mapping[str, Score]
    truth: float | None = None

    def named(self, schema: Schema) -> str:
        """The condition in words."""
        return ", ".join(_said(schema, v, x) for v, x in self.condition.items())

    def to_json(self) -> dict[str, Any]:
        return {
            "condition": dict(self.condition),
            "generated": self.generated.to_json(),
            "real": {name: score.to_json() for name, score in self.real.items()},
            "truth": self.truth,
        }


def read_measurements(
    training: np.ndarray,
    values: Mapping[str, np.ndarray],
    images: Mapping[str, np.ndarray],
) -> dict[str, Reading]:
    """Fit a reader of every measurement on training images (n, C, *grid) with its values (n,), and
    read it off the groups of images (m, C, *grid).

    Subjects whose value is NaN teach nothing; a measurement that fewer than 20 subjects have is
    left out. Give all images as they come through the same autoencoder, or none.
    """
    flat = training.reshape(len(training), -1).astype(np.float64)
    middle = flat.mean(0)
    # In the space that the training images span the kernel is the same, and n numbers an image.
    _, _, basis = np.linalg.svd(flat - middle, full_matrices=False)
    coordinates = (flat - middle) @ basis.T
    groups = {g: (x.reshape(len(x), -1) - middle) @ basis.T for g, x in images.items()}
    known = {v: ~np.isnan(x) for v, x in values.items()}
    return {
        v: _read(coordinates[known[v]], x[known[v]], groups)
        for v, x in values.items()
        if known[v].sum() >= _FEWEST
    }


def reader_scores(read: np.ndarray, truth: np.ndarray) -> dict[str, Score]:
    """How well a reader does on subjects (n,) that it was not fitted on; NaN truth is left out."""
    known = ~np.isnan(truth)
    read, truth = read[known], truth[known]
    people = Bootstrap([str(i) for i in range(len(truth))])
    return {
        "mae": people.score(mean_of(np.abs(read - truth))),
        "r": people.score(regression.correlation(read, truth)),
        "bias_slope": people.score(regression.slope(truth, read - truth)),
    }


def tissue_volume(
    images: np.ndarray,
    spacing: Sequence[float],
    above: float,
    below: float = np.inf,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """A plain count, where a cohort has no column: mL (n,) of voxels with above < value <= below.

    `images` (n, C, *grid) with `spacing` in mm; of several channels the mean counts. `mask` (*grid)
    says where to look. With (0, inf) it is the volume of a skull-stripped brain.
    """
    values = images.mean(1)
    inside = (values > above) & (values <= below)
    if mask is not None:
        inside &= mask
    return inside.reshape(len(images), -1).sum(1) * float(np.prod(spacing)) / 1000


def ageing_table(
    schema: Schema,
    conditions: Sequence[Condition],
    generated: np.ndarray,
    real: Mapping[str, People],
    window: Mapping[str, float],
    truth: np.ndarray | None = None,
) -> list[Cell]:
    """A cell per condition: generated (conditions, samples) beside real subjects like it.

    Like it are those with the same labels, and within `window[name]` of its continuous values.
    `truth` (conditions,) is what the mean should be, where that is known.
    """
    cells = []
    for i, condition in enumerate(conditions):
        like = {
            name: _mean(people.measured[_alike(schema, people, condition, window)])
            for name, people in real.items()
        }
        known = None if truth is None else float(truth[i])
        cells.append(Cell(condition, _mean(generated[i]), like, known))
    return cells


def slopes(
    schema: Schema,
    along: str,
    conditions: Sequence[Condition],
    generated: np.ndarray,
    real: Mapping[str, People],
    per: float = 10.0,
) -> dict[str, Score]:
    """By group: how much a measurement changes with `per` units of `along`, all else that was
    asked held fixed. "generated" (conditions, samples) is over images, the others over subjects.

    Real subjects beyond the asked values are left out: few things change at one rate all life long.
    """
    groups = _designs(schema, along, conditions, generated, real)
    out = {}
    for name, (x, others, y) in groups.items():
        statistic = adjusted_slope(x, others, y)
        out[name] = _scored(lambda w, of=statistic: per * of(w), len(y))
    return out


def spreads(
    schema: Schema,
    along: str,
    conditions: Sequence[Condition],
    generated: np.ndarray,
    real: Mapping[str, People],
) -> dict[str, Score]:
    """By the groups of `slopes`: the standard deviation of what these leave of a measurement."""
    groups = _designs(schema, along, conditions, generated, real)
    return {name: _scored(adjusted_spread(*group), len(group[2])) for name, group in groups.items()}


def _designs(
    schema: Schema,
    along: str,
    conditions: Sequence[Condition],
    generated: np.ndarray,
    real: Mapping[str, People],
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By group, of those of whom all is known: the values of `along` (n,), of all else that was
    asked (n, k), and what was measured (n,)."""
    samples = generated.shape[1]
    asked = {v: np.repeat([c[v] for c in conditions], samples) for v in conditions[0]}
    low, high = asked[along].min(), asked[along].max()
    groups = {"generated": People(asked, generated.ravel()), **real}
    out = {}
    for name, people in groups.items():
        known = ~np.isnan(people.measured)
        for v in asked:
            known &= ~np.isnan(people.scalars[v])
        known &= (people.scalars[along] >= low) & (people.scalars[along] <= high)
        columns = [
            _columns(schema, v, people.scalars[v][known]) for v in conditions[0] if v != along
        ]
        others = np.concatenate([np.empty((int(known.sum()), 0)), *columns], axis=1)
        out[name] = people.scalars[along][known], others, people.measured[known]
    return out


def adjusted_slope(x: np.ndarray, others: np.ndarray, y: np.ndarray) -> Statistic:
    """The coefficient of x (n,) in the least-squares fit of y (n,) on x and others (n, k).

    NaN where x does not vary.
    """
    design, scale = _design(x, others)
    if not scale > 0:
        return lambda w: np.full(len(w), np.nan)
    return lambda w: _fitted(design, y, w)[:, 1] / scale


def adjusted_spread(x: np.ndarray, others: np.ndarray, y: np.ndarray) -> Statistic:
    """The standard deviation of what the same fit leaves of y."""
    design, _ = _design(x, others)

    def statistic(w: np.ndarray) -> np.ndarray:
        left = y - _fitted(design, y, w) @ design.T
        return np.sqrt((w * left**2).sum(1) / w.sum(1))

    return statistic


def _design(x: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, float]:
    scale = float(x.std()) if len(x) else np.nan
    standard = (x - x.mean()) / scale if scale > 0 else x
    return np.column_stack([np.ones_like(x), standard, others]), scale


def _fitted(design: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The coefficients (b, p) of the least-squares fit under each of the weights w (b, n)."""
    normal = np.einsum("bn,np,nq->bpq", w, design, design, optimize=True)
    moments = np.einsum("bn,np,n->bp", w, design, y, optimize=True)
    # Of a resample in which nobody has some label, the pseudo-inverse leaves that label out.
    return (np.linalg.pinv(normal, hermitian=True) @ moments[..., None])[..., 0]


def causal_mean(
    measurement: str,
    ages: np.ndarray,
    sex: str | None = None,
    diagnosis: str | None = None,
    model: CausalModel | None = None,
) -> np.ndarray:
    """E[measurement | age, sex, diagnosis] in the simulated cohort, one per age (n,), in years.

    On the scale on which the measurement is Gaussian: the logarithm of volumes. What is not given
    is marginalised.
    """
    model = model or CausalModel()
    kind = model.measurements[measurement]
    sexes = range(len(SEXES)) if sex is None else [SEXES.index(sex)]
    stages = range(len(DIAGNOSES))
    p = model.diagnosis_given_age(ages)
    if diagnosis is not None:
        p = np.tile(np.eye(len(DIAGNOSES))[DIAGNOSES.index(diagnosis)], (len(ages), 1))
    expected = np.array([[kind.expected(ages, s, stage) for stage in stages] for s in sexes])
    return np.einsum("nd,sdn->n", p, expected) / len(sexes)


def _read(coordinates: np.ndarray, values: np.ndarray, groups: Mapping[str, np.ndarray]) -> Reading:
    unseen = np.empty(len(values))
    for fit, test in KFold(_FOLDS, shuffle=True, random_state=0).split(coordinates):
        unseen[test] = kernel_ridge(coordinates[fit], values[fit], coordinates[test])
    calibration = calibrate(unseen, None, values)
    said = kernel_ridge(coordinates, values, np.concatenate(list(groups.values())))
    corrected = calibration.corrected(said)
    ends = np.cumsum([len(x) for x in groups.values()])[:-1]
    parts = np.split(said if corrected is None else corrected, ends)
    return Reading(dict(zip(groups, parts, strict=True)), corrected is not None)


def _alike(
    schema: Schema, people: People, condition: Condition, window: Mapping[str, float]
) -> np.ndarray:
    """Who has a measurement and is like the condition, (n,) bool."""
    alike = ~np.isnan(people.measured)
    for v, x in condition.items():
        apart = np.abs(people.scalars[v] - x)  # NaN is like nothing
        alike &= apart <= (window[v] if v in schema.numbers else 0)
    return alike


def _columns(schema: Schema, name: str, values: np.ndarray) -> np.ndarray:
    """A variable in a regression, (n, k): a number is centred, labels have a column each."""
    if name in schema.numbers:
        return (values - values.mean())[:, None]
    return np.eye(len(schema.categorical[name].labels))[values.astype(int)][:, 1:]


def _said(schema: Schema, name: str, value: float) -> str:
    if name in schema.numbers:
        return f"{name} {value:g}"
    return f"{name} {schema.categorical[name].labels[int(value)]}"


def _mean(values: np.ndarray) -> Score:
    return _scored(mean_of(values), len(values))


def _scored(statistic: Statistic, n: int) -> Score:
    if n == 0:
        return Score(np.nan, np.nan, np.nan, 0)
    return Bootstrap([str(i) for i in range(n)]).score(statistic)
