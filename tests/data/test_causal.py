"""The causal model's posterior against Monte Carlo, and against its own draws."""

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import chi2, kstest

from metavoxel.data.causal import DIAGNOSES, MEASUREMENTS, SEXES, CausalModel, Person, Posterior
from metavoxel.errors import MetaVoxelError

MODEL = CausalModel()


@pytest.fixture(scope="module")
def people() -> tuple[Person, ...]:
    return MODEL.sample(2500, np.random.default_rng(1))


@pytest.fixture(scope="module")
def posteriors(people) -> Posterior:
    return MODEL.posterior(
        {m: np.array([p.measurements[m] for p in people]) for m in MEASUREMENTS}, points=281
    )


def ages(people: tuple[Person, ...]) -> np.ndarray:
    return np.array([p.age for p in people])


def measured(person: Person, names: tuple[str, ...] = tuple(MEASUREMENTS)) -> dict[str, float]:
    return {name: person.measurements[name] for name in names}


def importance_sample(measured: dict[str, float], given: dict, n: int = 400_000):
    """Ages, sexes, diagnoses (n,) drawn from the prior, weighted by the documented densities."""
    rng = np.random.default_rng(3)
    age, sex = rng.uniform(20, 90, n), rng.integers(0, 2, n)
    u = (age - 80) / 8 + rng.logistic(size=n)
    d = (u > 0).astype(int) + (u > 1.5)
    t = (age - 20) / 70
    expected = {
        "brain_volume": np.log(1330) + 0.10 * sex - 0.084 * t,
        "ventricle_volume": np.log(12) + 0.10 * sex + 1.15 * t**2 + 0.25 * d,
        "cortical_thickness": 2.95 - 0.525 * t - 0.07 * d,
        "hippocampus_volume": np.log(7.8)
        + 0.05 * sex
        - 0.315 * np.maximum(age - 50, 0) / 70
        - 0.11 * d,
    }
    spread = dict.fromkeys(expected, 0.07) | {"brain_volume": 0.06, "ventricle_volume": 0.22}
    log_weight = np.zeros(n)
    for name, value in measured.items():
        x = value if name == "cortical_thickness" else np.log(value)
        log_weight -= 0.5 * ((x - expected[name]) / spread[name]) ** 2
    weight = np.exp(log_weight - log_weight.max())
    if "sex" in given:
        weight = weight * (sex == SEXES.index(given["sex"]))
    if "diagnosis" in given:
        weight = weight * (d == DIAGNOSES.index(given["diagnosis"]))
    return age, sex, d, weight / weight.sum()


@pytest.mark.parametrize("names", [tuple(MEASUREMENTS), ("ventricle_volume",), ()])
@pytest.mark.parametrize("given", [{}, {"sex": "F"}, {"diagnosis": "MCI"}])
def test_quadrature_agrees_with_importance_sampling(people, names, given):
    for person in people[:3]:
        known = measured(person, names)
        posterior = MODEL.posterior(known, given)
        age, sex, d, weight = importance_sample(known, given)
        error = 5 / np.sqrt(1 / np.square(weight).sum())  # five standard errors
        mean = weight @ age
        std = np.sqrt(weight @ (age - mean) ** 2)
        assert posterior.age.mean == pytest.approx(mean, abs=error * std)
        assert posterior.age.std == pytest.approx(std, abs=error * std)
        assert posterior.age.cdf(mean) == pytest.approx(weight @ (age < mean), abs=error)
        assert posterior.sex["M"] == pytest.approx(weight @ (sex == 1), abs=error)
        for i, label in enumerate(DIAGNOSES):
            assert posterior.diagnosis[label] == pytest.approx(weight @ (d == i), abs=error)


def test_true_ages_are_uniform_quantiles_of_their_posteriors(people, posteriors):
    assert kstest(posteriors.age.cdf(ages(people)), "uniform").pvalue > 0.01


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_hold_the_true_age_as_often_as_they_say(people, posteriors, level):
    low, high = posteriors.age.interval(level)
    within = (low <= ages(people)) & (ages(people) <= high)
    assert np.mean(within) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 2500))


@pytest.mark.parametrize(
    ("variable", "label"), [("sex", "M"), *(("diagnosis", d) for d in DIAGNOSES)]
)
def test_probabilities_are_calibrated(people, posteriors, variable, label):
    """Within each band of stated probability the label is as frequent as stated (chi-squared)."""
    said = getattr(posteriors, variable)[label]
    true = np.array([getattr(p, variable) == label for p in people])
    bands = np.array_split(np.argsort(said), 8)
    statistic = sum(
        (true[b].sum() - said[b].sum()) ** 2 / max((said[b] * (1 - said[b])).sum(), 0.5)
        for b in bands
    )
    assert statistic < chi2.ppf(0.999, len(bands))


def test_the_scan_tells_much_but_not_all(people, posteriors):
    """The exact answer's error is what a model is measured against: well below guessing."""
    error = np.abs(posteriors.age.mean - ages(people)).mean()
    assert 4 < error < 7  # years; guessing the population mean gives 17.5
    men = np.array([p.sex == "M" for p in people])
    assert 0.75 < ((posteriors.sex["M"] > 0.5) == men).mean() < 0.9


def test_the_posterior_sums_to_one_and_its_density_integrates_to_one(people):
    posterior = MODEL.posterior(people[0].measurements)
    assert posterior.mass.sum() == pytest.approx(1)
    assert (posterior.age.density * np.diff(posterior.age.edges)).sum() == pytest.approx(1)
    assert posterior.age.cdf(posterior.age.quantile(0.3)) == pytest.approx(0.3)


def test_a_given_age_is_certain_and_leaves_sex_and_diagnosis(people):
    posterior = MODEL.posterior(people[0].measurements, {"age": 70})
    said = (posterior.age.mean, posterior.age.std, posterior.age.quantile(0.9))
    assert said == pytest.approx((70, 0, 70), abs=1e-9)
    log_density = MODEL.log_density(np.array([70.0]), people[0].measurements)[0]
    expected = np.exp(log_density) / np.exp(log_density).sum()
    assert posterior.mass[0] == pytest.approx(expected)


def test_the_joint_density_integrates_to_one():
    ages = np.linspace(20, 90, 141)
    values = np.linspace(1.5, 4, 400)
    density = [
        np.exp(MODEL.log_density(ages, {"cortical_thickness": v})).sum((1, 2)) for v in values
    ]
    assert trapezoid(trapezoid(density, ages, axis=1), values) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("known", "given", "said"),
    [
        ({"height": 170.0}, {}, "not measured"),
        ({"brain_volume": -1.0}, {}, "brain_volume is -1.0; give a number above 0."),
        ({}, {"sex": "X"}, "choose from F, M"),
        ({}, {"hand": "left"}, "cannot be given"),
        ({}, {"age": 10}, "20 to 90"),
        ({}, {"mmse": 30.0}, "mmse is 30.0; give a number above 0 and below 30."),
        ({}, {"education": np.array([12, np.nan])}, "education is nan; give a number."),
        ({}, {"sex": np.array(["F", "X"])}, "sex is X; choose from F, M"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(known, given, said):
    with pytest.raises(MetaVoxelError, match=said):
        MODEL.posterior(known, given)
