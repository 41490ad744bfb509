"""MMSE and education: their posteriors against Monte Carlo, their own draws and the chain rule."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import kstest, norm

from metavoxel.data.causal import DIAGNOSES, CausalModel

MODEL = CausalModel()
N = 3000
SHOWN = ("brain_volume", "ventricle_volume", "cortical_thickness")  # what a slice shows
CLINICAL = ("education", "mmse")


@pytest.fixture(scope="module")
def people() -> dict[str, np.ndarray]:
    drawn = MODEL.sample(N, np.random.default_rng(5))
    table = {v: np.array([getattr(p, v) for p in drawn]) for v in ("age", "sex", "diagnosis")}
    table |= {v: np.array([p.measurements[v] for p in drawn]) for v in drawn[0].measurements}
    return table | {v: np.array([p.clinical[v] for p in drawn]) for v in CLINICAL}


def only(people: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: people[name] for name in names}


def importance_sample(known: dict[str, float], n: int = 400_000):
    """Age, education and MMSE (n,) of the documented prior, weighted by the documented densities.

    What is known of education or MMSE enters as its value, or as its density.
    """
    rng = np.random.default_rng(3)
    age, male = rng.uniform(20, 90, n), rng.integers(0, 2, n)
    u = (age - 80) / 8 + rng.logistic(size=n)
    stage, t = (u > 0).astype(int) + (u > 1.5), (age - 20) / 70
    education = np.full(n, known["education"]) if "education" in known else rng.normal(14, 2.8, n)
    centre = logit(29.3 / 30) - 0.5 * t - 1.15 * stage + 0.08 * (education - 14)
    mmse = 30 * expit(rng.normal(centre, 0.6))
    log_weight = np.zeros(n)
    if "mmse" in known:
        log_weight += norm.logpdf(logit(known["mmse"] / 30), centre, 0.6)
        mmse = np.full(n, known["mmse"])
    ventricles = np.log(12) + 0.10 * male + 1.15 * t**2 + 0.25 * stage
    log_weight += norm.logpdf(np.log(known["ventricle_volume"]), ventricles, 0.22)
    if "diagnosis" in known:
        log_weight[stage != DIAGNOSES.index(known["diagnosis"])] = -np.inf
    weight = np.exp(log_weight - log_weight.max())
    return {"age": age, "education": education, "mmse": mmse}, weight / weight.sum()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"mmse": 24.0},
        {"education": 8.0},
        {"mmse": 26.0, "education": 8.0},
        {"mmse": 26.0, "diagnosis": "MCI"},
    ],
)
def test_posteriors_agree_with_importance_sampling(given):
    drawn, weight = importance_sample({"ventricle_volume": 38.0} | given)
    posterior = MODEL.posterior({"ventricle_volume": 38.0}, given)
    error = 5 * np.sqrt(np.square(weight).sum())  # five standard errors
    for name, values in drawn.items():
        said = posterior.age if name == "age" else posterior.number(name)
        mean = weight @ values
        std = np.sqrt(weight @ np.square(values - mean))
        assert said.mean == pytest.approx(mean, abs=error * std + 1e-9)
        # The standard error of a variance is that of a mean times the root of kurtosis - 1.
        fourth = np.sqrt(weight @ np.square(np.square(values - mean) - std**2))
        assert said.std**2 == pytest.approx(std**2, abs=error * fourth + 1e-9)
        if name not in given:
            assert said.cdf(mean) == pytest.approx(weight @ (values < mean), abs=error)


def test_joint_samples_have_the_couplings_of_the_posterior():
    """E[education x MMSE | ventricles] and the like, of draws and by importance sampling."""
    drawn, weight = importance_sample({"ventricle_volume": 38.0})
    samples = MODEL.posterior({"ventricle_volume": 38.0}).sample(100_000, np.random.default_rng(0))
    for a, b in (("age", "mmse"), ("education", "mmse"), ("age", "education")):
        centred = [samples[v] - samples[v].mean() for v in (a, b)]
        expected = [drawn[v] - weight @ drawn[v] for v in (a, b)]
        product = expected[0] * expected[1]
        std = np.sqrt(weight @ np.square(product - weight @ product))
        error = 5 * std * np.sqrt(np.square(weight).sum() + 1 / 100_000)
        assert np.mean(centred[0] * centred[1]) == pytest.approx(weight @ product, abs=error)


def test_samples_repeat_what_is_known_and_follow_the_marginals(people):
    given = {"sex": "F", "mmse": people["mmse"][:2]}
    posterior = MODEL.posterior({}, given)
    samples = posterior.sample(5000, np.random.default_rng(1))
    assert {x.shape for x in samples.values()} == {(2, 5000)}
    assert set(samples["sex"].ravel()) == {"F"}
    assert (samples["mmse"] == people["mmse"][:2, None]).all()
    for name, said in (("age", posterior.age), *((v, posterior.number(v)) for v in SHOWN)):
        for ranks in said.cdf(samples[name][:, :500].T).T:
            assert kstest(ranks, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(
    "given", [(), ("age",), ("diagnosis",), ("mmse",), ("education",), ("age", "education", "sex")]
)
def test_true_values_are_uniform_quantiles_of_their_posteriors(people, given):
    posterior = MODEL.posterior(only(people, *SHOWN), only(people, *given), points=141)
    for name in ("hippocampus_volume", *CLINICAL):
        if name not in given:
            assert kstest(posterior.number(name).cdf(people[name]), "uniform").pvalue > 0.001


def test_the_two_ways_of_the_chain_rule_agree(people):
    """p(mmse | x) p(education | x, mmse) = p(education | x) p(mmse | x, education)."""
    few = {name: values[:20] for name, values in people.items()}

    def log_density(name: str, *given: str) -> np.ndarray:
        posterior = MODEL.posterior(only(few, *SHOWN), only(few, *given), points=141)
        said = posterior.age if name == "age" else posterior.number(name)
        return said.log_density(few[name])

    for a, b in (("mmse", "education"), ("mmse", "age")):
        one, other = (log_density(x) + log_density(y, x) for x, y in ((a, b), (b, a)))
        assert one == pytest.approx(other, abs=5e-3)


def test_education_says_nothing_of_the_brain_but_explains_a_low_mmse_away(people):
    few = {name: values[:20] for name, values in people.items()}
    image = MODEL.posterior(only(few, *SHOWN))
    assert image.number("education").mean == pytest.approx(14)
    assert image.number("education").std == pytest.approx(2.8, rel=1e-3)
    schooled = MODEL.posterior(only(few, *SHOWN), only(few, "education"))
    assert schooled.mass == pytest.approx(image.mass)
    impaired = [
        MODEL.posterior({}, {"mmse": 25.0, "education": years}).diagnosis["CN"]
        for years in (8.0, 14.0, 20.0)
    ]
    assert impaired[0] > impaired[1] + 0.05 > impaired[2] + 0.1


def test_many_subjects_at_once_are_answered_as_one_by_one(people):
    few = {name: values[:3] for name, values in people.items()}
    for given in ((), ("age",), ("diagnosis", "mmse"), ("age", "sex", "education")):
        many = MODEL.posterior(only(few, "brain_volume"), only(few, *given))
        for i in range(3):
            one = MODEL.posterior(
                {"brain_volume": few["brain_volume"][i]}, {v: few[v][i] for v in given}
            )
            assert many.mass[i] == pytest.approx(one.mass)
            for name in (*SHOWN, *CLINICAL):
                a, b = many.number(name), one.number(name)
                assert a.mean[i] == pytest.approx(b.mean, rel=1e-5)
                assert a.quantile(0.3)[i] == pytest.approx(b.quantile(0.3), rel=1e-4)
            assert many.age.std[i] == pytest.approx(one.age.std, abs=1e-9)


def test_scores_look_like_an_mmse(people):
    mmse = {d: people["mmse"][people["diagnosis"] == d] for d in DIAGNOSES}
    assert people["mmse"].min() > 0
    assert people["mmse"].max() < 30
    medians = [np.median(mmse[d]) for d in DIAGNOSES]
    assert medians == pytest.approx([29, 27, 22], abs=1)


def test_measurements_of_a_stream_are_what_they_were_before_mmse_and_education():
    first, second = CausalModel().sample(2, np.random.default_rng(1))
    assert (first.age, second.age) == pytest.approx((55.82751372901797, 48.64393954584129))
    assert second.measurements["brain_volume"] == pytest.approx(1445.4983840818318)
