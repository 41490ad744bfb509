"""Questions about scalars, end to end, on an untrained network: one law, one evaluation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metavoxel.api import Model
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.errors import MetaVoxelError
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.schema import parse_schema
from random_laws import random_prior, seeded

IMAGE = {"kind": "image", "shape": [16, 16], "spacing": [8, 8]}
SCALARS = {
    "age": {"kind": "continuous", "unit": "years", "range": [20, 90]},
    "sex": {"kind": "categorical", "labels": ["F", "M"]},
    "mmse": {"kind": "continuous"},
    "group": {"kind": "categorical", "labels": ["a", "b", "c"]},
}
SMALL = {
    "encoding": {"kind": "kl", "factor": 4, "patch": 2, "channels": [16, 16], "latent_channels": 4},
    "denoiser": {
        "channels": [16, 32],
        "groups": 8,
        "head_channels": 16,
        "scalar_head_channels": 16,
    },
    "sampling": {"steps": 2, "samples": 2},
}
SCORES = {
    "age": NormalScores(20, 90, ((0.4, 40, 8), (0.6, 70, 6))),
    "mmse": NormalScores(10, 30, ((0.8, 29, 1), (0.2, 22, 3))),
}
VOXELS = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)).numpy()
VALUES: dict[str, Any] = {"image": VOXELS, "age": 61.0, "sex": "F", "mmse": 27.0, "group": "b"}


def build(variables: dict[str, object]) -> Model:
    """An untrained network; what it says of scalars is made as large as if it had learnt some."""
    schema = parse_schema({"variables": variables}, "test")
    torch.manual_seed(0)
    counts = tuple(len(kind.labels) for kind in schema.categorical.values())
    prior = random_prior(len(schema.numbers), counts, seeded(1))
    scores = {v: SCORES[v] for v in schema.numbers}
    network = MetaVoxel(schema, ModelConfig.model_validate(SMALL), scores, prior).eval()
    with torch.no_grad():
        for name, x in network.denoiser.named_parameters():
            if "heads" in name:
                x.normal_(0, 0.3)
    return Model(network)


@pytest.fixture(scope="module")
def model() -> Model:
    return build({"image": IMAGE, **SCALARS})


class Calls:
    """How often a module is called, and with how many records in all."""

    def __init__(self, module: nn.Module) -> None:
        self.times = self.records = 0
        self.hook = module.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        first = given[0]
        self.times += 1
        self.records += len(first if isinstance(first, Tensor) else next(iter(first.values())))

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def subsets(names):
    return [s for k in range(len(names) + 1) for s in itertools.combinations(names, k)]


def given(names) -> dict[str, Any]:
    return {v: VALUES[v] for v in names}


@pytest.mark.parametrize("known", [k for k in subsets([*VALUES]) if set(SCALARS) - set(k)])
def test_every_subset_is_answered_by_distributions(known, model):
    """Without a sample: mean, SD, interval and centile of numbers, probabilities of labels."""
    asked = [v for v in SCALARS if v not in known]
    answers = model.ask(", ".join(asked), given(known))
    for v in asked:
        if v in SCORES:
            answer = answers[v]
            low, high = answer.interval(0.9)
            assert low < answer.mean < high and answer.std > 0
            assert answer.cdf(low) == pytest.approx(0.05, abs=1e-6)
            assert answer.cdf(high) == pytest.approx(0.95, abs=1e-6)
            assert len(answer.samples) == 0
        else:
            assert sum(answers[v].probabilities.values()) == pytest.approx(1)
            assert min(answers[v].probabilities.values()) > 0


def test_an_answer_needs_no_luck(model):
    first, second = (model.ask("age, sex", given(["image", "mmse"]), seed=s) for s in (0, 1))
    assert first["age"].mean == second["age"].mean
    assert first["sex"].probabilities == second["sex"].probabilities


def test_the_image_is_seen(model):
    """Else what follows would be tests of the prior."""
    with_image, without = (model.ask("age, group", given(k)) for k in (["image"], []))
    assert abs(with_image["age"].mean - without["age"].mean) > 0.1
    assert with_image["age"].std < without["age"].std


@pytest.mark.parametrize("known", [(), ("image",), ("image", "age")])
def test_labels_and_numbers_obey_the_chain_rule_in_the_unit(known, model):
    """P(group, mmse <= value) is the same whichever is asked first; marginals are sums."""
    probabilities = model.ask("group", given(known))["group"].probabilities
    value = 27.5
    below = sum(
        p * model.ask("mmse", {**given(known), "group": label})["mmse"].cdf(value)
        for label, p in probabilities.items()
    )
    assert below == pytest.approx(model.ask("mmse", given(known))["mmse"].cdf(value), abs=1e-4)


def test_draws_mapped_to_the_unit_are_those_of_the_stated_distribution(model):
    """Mean, SD, quantiles and frequencies, in four standard errors; and they are joint."""
    n = 20_000
    answers = model.ask("age, mmse, sex, group", {"image": VOXELS}, samples=n)
    for v in SCORES:
        answer, drawn = answers[v], answers[v].samples
        assert len(drawn) == n
        assert abs(drawn.mean() - answer.mean) < 4 * answer.std / n**0.5
        spread = np.square(drawn - answer.mean)
        assert abs(spread.mean() - answer.std**2) < 4 * spread.std() / n**0.5
        for q in (0.05, 0.25, 0.5, 0.75, 0.95):
            value = answer.distribution.quantile(np.array([q]))[0]
            assert abs((drawn <= value).mean() - q) < 4 * (q * (1 - q) / n) ** 0.5
            assert answer.cdf(value) == pytest.approx(q)
    for v in ("sex", "group"):
        for label, p in answers[v].probabilities.items():
            assert abs((answers[v].samples == label).mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    ages = answers["age"].samples
    for label in "abc":
        told = model.ask("age", {"image": VOXELS, "group": label})["age"]
        chosen = ages[answers["group"].samples == label]
        assert abs(chosen.mean() - told.mean) < 4 * told.std / len(chosen) ** 0.5


def test_another_prior_multiplies_the_odds_as_bayes_rule_says(model):
    stated = {"group": {"a": 0.7, "b": 0.2, "c": 0.1}}
    cohort = model.network.law.prior.frequencies[2:].numpy()
    factors = np.array([*stated["group"].values()]) / cohort
    for known in subsets(["image", "age", "sex", "mmse"]):
        before, after = (
            np.array([*model.ask("group", given(known), prior=p)["group"].probabilities.values()])
            for p in (None, stated)
        )
        assert after == pytest.approx(before * factors / (before * factors).sum(), rel=1e-5)
    told = {"image": VOXELS, "group": "b"}
    means = [model.ask("age", told, prior=p)["age"].mean for p in (None, stated)]
    assert means[0] == pytest.approx(means[1])
    means = [model.ask("age", {"image": VOXELS}, prior=p)["age"].mean for p in (None, stated)]
    assert means[0] != pytest.approx(means[1], rel=1e-4)  # the group is unknown, and says of age


def test_a_thousand_joint_samples_cost_one_evaluation_and_one_encoding(model):
    network = model.network
    encoder = network.autoencoders["image"].network.encoder
    with Calls(network.denoiser) as evaluations, Calls(encoder) as encodings:
        answers = model.ask("age, sex, mmse, group", {"image": VOXELS}, samples=1000)
    assert len(answers["age"].samples) == len(answers["group"].samples) == 1000
    assert (evaluations.times, evaluations.records) == (1, 1)
    assert (encodings.times, encodings.records) == (1, 1)


def test_without_an_image_nothing_is_evaluated(model):
    with Calls(model.network.denoiser) as evaluations:
        model.ask("age, sex", {"group": "a"}, samples=10)
    assert evaluations.times == 0


@pytest.mark.parametrize("kind", ["continuous", "categorical"])
def test_a_schema_of_one_kind_of_scalar_is_answered(kind):
    some = {v: x for v, x in SCALARS.items() if x["kind"] == kind}
    model = build({"image": IMAGE, **some})
    for known in subsets(["image", *some]):
        asked = [v for v in some if v not in known]
        if asked:
            answers = model.ask(", ".join(asked), given(known), samples=3)
            assert all(len(answers[v].samples) == 3 for v in asked)


def test_an_image_that_is_not_given_says_nothing_of_scalars():
    """Whatever noise stands for it: of two images one is known."""
    model = build({"t1w": IMAGE, "flair": {**IMAGE, "suffix": "FLAIR"}, **SCALARS})
    network, z = model.network, model.network.encode({"t1w": torch.from_numpy(VOXELS)[None, None]})
    said = [network.posterior(z, 1, generator=seeded(s)).mean("age") for s in (0, 1)]
    torch.testing.assert_close(said[0], said[1])


def test_scalars_are_drawn_before_images_and_with_them(model):
    """Sampled records hold all: every row's image has scalars of its own, of the law."""
    answers = model.ask("image, age, group", {"sex": "F"}, samples=3)
    assert answers["image"].samples.shape == (3, 1, 16, 16)
    assert len(np.unique(answers["age"].samples)) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_diverged_is_refused_in_a_sentence(value):
    model = build({"image": IMAGE, **SCALARS})
    with torch.no_grad():
        for x in model.network.denoiser.parameters():
            x.fill_(value)
    for samples in (0, 3):
        with pytest.raises(MetaVoxelError, match="is not a finite number"):
            model.ask("age, group", {"image": VOXELS}, samples=samples)


def test_settings_of_sampling_do_not_change_what_is_stated(model):
    one, other = (model.ask("age", {"image": VOXELS}, steps=steps) for steps in (1, 7))
    assert one["age"].mean == other["age"].mean
