"""Held-out evidence: whose it is, what it calibrates, and that a fold's network sees what the model
does."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from metavoxel.encoding.image import ImageEncoder
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.model import MetaVoxel
from metavoxel.posterior.evidence import Evidence
from metavoxel.posterior.law import ScalarLaw
from metavoxel.training.crossfit import HeldOut, calibrated_loss, cross_fit, fit_calibration
from metavoxel.training.examples import Examples
from random_laws import normal, seeded
from tiny import tiny_config

N = 2000


def measured(law: ScalarLaw, claimed: float) -> HeldOut:
    """Independent numbers and labels, measured with noise; the evidence claims `claimed` times the
    information about the numbers that there is, and states the labels' true probabilities."""
    draw = seeded(3)
    x, noise = normal(N, 2, generator=draw), normal(N, 2, generator=draw)
    information = 2.0
    seen = x + noise / information**0.5
    precision = claimed * information
    logits = normal(N, 1, generator=draw) * torch.tensor([1.0, -1.0]).double()
    p = logits.softmax(1)
    label = torch.multinomial(p, 1, generator=draw)[:, 0]
    evidence = Evidence(
        seen * precision / (1 + precision),
        precision * torch.eye(2).double().expand(N, -1, -1),
        torch.ones(N, 2).double(),
        torch.zeros(N, 2, 2).double(),
        logits,
        p,
    )
    scalars = {"a": x[:, :1], "b": x[:, 1:], "sex": torch.nn.functional.one_hot(label, 2)}
    every = dict.fromkeys(scalars, torch.ones(N, dtype=torch.bool))
    return HeldOut(evidence, scalars, every, law.prior)


@pytest.mark.parametrize("claimed", [0.5, 1.0, 3.0])
def test_a_temperature_is_how_much_too_sure_evidence_is(claimed):
    """Of 2,000 subjects a factor on the information is known to some 5 % (four errors: 20 %)."""
    law = ScalarLaw(["a", "b"], {"sex": 2})
    found = fit_calibration(law, [measured(law, claimed)], seed=0)
    for v in ("a", "b"):
        assert found.temperatures[v] == pytest.approx(claimed, rel=0.2)
    assert found.temperatures["sex"] == pytest.approx(1, rel=0.35)


def test_how_sure_evidence_claims_to_be_does_not_count_in_the_calibrated_loss():
    """Twice too sure is as good as right: at a temperature of 2 it is the same. Noise is not."""
    law = ScalarLaw(["a", "b"], {"sex": 2})
    right, sure = measured(law, 1.0), measured(law, 2.0)
    same = {v: x for v, x in vars(sure.evidence).items() if v not in ("logits", "probabilities")}
    logits = 2 * right.evidence.logits
    sure = replace(sure, evidence=Evidence(**same, logits=logits, probabilities=logits.softmax(1)))
    assert calibrated_loss(law, sure, 0) == pytest.approx(calibrated_loss(law, right, 0), abs=1e-6)
    shuffled = {v: x.roll(1, 0) for v, x in right.scalars.items()}
    assert calibrated_loss(law, replace(right, scalars=shuffled), 0) > 0.2 + calibrated_loss(
        law, right, 0
    )


def test_what_is_said_of_a_number_for_a_label_counts_as_far_as_it_is_true():
    """A number is measured with an error that depends on sex: of one, as stated; of the other, the
    statement is noise. Of 2,000 subjects the first factor is known to some 5 %."""
    law = ScalarLaw(["a", "b"], {"sex": 2})
    group, draw = measured(law, 1.0), seeded(4)
    size = normal(N, 2, generator=draw)
    shift = size[..., None] * torch.tensor([0.5, -0.5]).double()
    moved = (shift[:, 0] * (group.scalars["sex"] - group.evidence.probabilities)).sum(1)
    evidence = replace(group.evidence, shift=shift)
    scalars = {**group.scalars, "a": group.scalars["a"] + moved[:, None]}
    found = fit_calibration(law, [replace(group, evidence=evidence, scalars=scalars)], seed=0)
    assert found.shifts["a"]["sex"] == pytest.approx(1, rel=0.2)
    assert found.shifts["b"]["sex"] < 0.3


def test_groups_of_held_out_records_count_together():
    law = ScalarLaw(["a", "b"], {"sex": 2})
    group = measured(law, 2.0)

    def part(rows: slice) -> HeldOut:
        evidence = Evidence(*(getattr(group.evidence, f.name)[rows] for f in fields(Evidence)))
        cut = {v: x[rows] for v, x in group.scalars.items()}
        there = {v: x[rows] for v, x in group.observed.items()}
        return replace(group, evidence=evidence, scalars=cut, observed=there)

    parts = [part(slice(0, 500)), part(slice(500, N))]
    one, two = (fit_calibration(law, x, seed=0) for x in ([group], parts))
    for v in law.names:  # other subsets are asked, so not to rounding
        assert two.temperatures[v] == pytest.approx(one.temperatures[v], rel=0.1)


def tiny_model() -> MetaVoxel:
    config = tiny_config()
    scores = NormalScores(20, 90, ((1.0, 55.0, 20.0),))
    assert config.variables is not None
    model = MetaVoxel(config.variables, config.model, {"age": scores}).eval()
    for encoder in model.autoencoders.values():
        assert isinstance(encoder, ImageEncoder)
        mean = encoder.get_buffer("latent_mean")
        encoder.set_statistics(mean + 0.5, torch.rand(mean.shape, generator=seeded(1)) + 0.5)
    return model


def tiny_examples(model: MetaVoxel, n: int) -> Examples:
    draw = seeded(2)
    label = torch.randint(2, (n,), generator=draw)
    scalars = {
        "age": normal(n, 1, generator=draw).float(),
        "sex": torch.nn.functional.one_hot(label, 2).float(),
        "diagnosis": torch.nn.functional.one_hot(label, 3).float(),
    }
    images = {"image": normal(1, n, *model.process.shapes["image"], generator=draw).float()}
    observed = {v: torch.ones(n, dtype=torch.bool) for v in model.schema}
    observed["image"][1] = False
    return Examples(images, scalars, observed)


def test_a_fold_is_answered_by_a_network_of_other_subjects_that_sees_what_the_model_does(tmp_path):
    model, n = tiny_model(), 24
    examples, subjects = tiny_examples(model, n), [f"s{i // 2}" for i in range(n)]
    trained: list[set[str]] = []
    z = examples.images["image"][0, :2]
    at = torch.tensor([0, 500])

    def train(network: MetaVoxel, some: Examples, folder: object) -> None:
        assert some.chosen is not None
        trained.append({subjects[i] for i in some.chosen.tolist()})
        shown, own = (
            x.parameterizations["image"].at(z, at).network_input for x in (network, model)
        )
        torch.testing.assert_close(shown, own)

    asked = model, examples, subjects, 4, 2, tmp_path, train, 0
    for folder in ("fold-0", "fold-1"):
        (tmp_path / folder).mkdir()
    found = cross_fit(*asked)
    assert len(found) == len(trained) == 2
    for part, others in zip(found, trained, strict=True):
        own = {*subjects} - others
        rows = [i for i, s in enumerate(subjects) if s in own and i != 1]  # 1 has no image
        torch.testing.assert_close(part.scalars["age"], examples.scalars["age"][rows])
        assert len(part.evidence.mean) == len(rows)
    again = cross_fit(*asked)  # what was stated is kept
    assert len(trained) == 2
    torch.testing.assert_close(again[0].evidence.mean, found[0].evidence.mean)


def test_of_too_few_subjects_none_is_taken_away(tmp_path):
    model = tiny_model()
    examples = tiny_examples(model, 9)

    def train(*_: object) -> None:
        raise AssertionError

    assert cross_fit(model, examples, [*"abcdefghi"], 5, 1, tmp_path, train, 0) == []
