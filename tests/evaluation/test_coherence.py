"""Measures of coherence: nothing is found in one joint distribution, and what breaks it is."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from folders import AGE, SEX, schema
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.evaluation.coherence import (
    Addition,
    chain_rule_gap,
    changes,
    coherence,
    coherence_rows,
    draw_additions,
    frequency_errors,
    harmful,
    holm,
)
from metavoxel.evaluation.law_answers import (
    LawAnswers,
    log_score,
    one_record_each,
    stated_evidence,
)
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.posterior.marginal import Marginal
from random_laws import random_evidence, random_prior, seeded
from small import SETTINGS

SCALARS = ["age", "weight", "sex", "diagnosis"]
N = 200


@pytest.fixture(scope="module")
def answers() -> LawAnswers:
    """Of subjects that the law itself draws, given random evidence: every answer is exact."""
    torch.manual_seed(0)
    kinds = {
        "age": AGE,
        "weight": {"kind": "continuous", "range": [0, 100]},
        "sex": SEX,
        "diagnosis": {"kind": "categorical", "labels": ["CN", "MCI", "AD"]},
    }
    scores = {v: NormalScores(0, 100, ((1.0, 50, 10),)) for v in ("age", "weight")}
    prior = random_prior(2, (2, 3), seeded(1))
    model = MetaVoxel(schema(**kinds), ModelConfig.model_validate(SETTINGS), scores, prior)
    model.eval()
    evidence = random_evidence(N, prior, seeded(2))
    drawn = LawAnswers(model, evidence).posterior({"image"}).draw(1, seeded(3))
    raw = model.decode({v: z[:, 0] for v, z in drawn.items()})
    return LawAnswers(model, evidence, {v: x.double().numpy() for v, x in raw.items()})


def answering(answers: LawAnswers, deaf: str, to: str):
    """The same answers, but what `deaf` is told of `to` is not heard."""

    def state(
        asked: str, known: Collection[str], told: Mapping[str, np.ndarray]
    ) -> Marginal | np.ndarray:
        heard = {v: x for v, x in told.items() if not (asked == deaf and v == to)}
        return answers.state(asked, known, heard)

    return state


@pytest.mark.parametrize(("a", "b"), itertools.combinations(SCALARS, 2))
def test_a_law_s_chain_rule_holds_and_that_of_a_deaf_answer_does_not(
    a: str, b: str, answers: LawAnswers
) -> None:
    few = answers.of(slice(5))
    assert chain_rule_gap(few.state, a, b, {"image"}).max() < 1e-3
    broken = chain_rule_gap(answering(few, a, b), a, b, {"image"})
    assert broken.mean() > 0.01
    np.testing.assert_allclose(
        broken, chain_rule_gap(answering(few, a, b), b, a, {"image"}), atol=1e-9
    )


def test_the_gap_of_a_deaf_answer_is_its_distance_from_independence(answers: LawAnswers) -> None:
    """p(age) p(diagnosis | age) against p(diagnosis) p(age), over all cells of the age."""
    few = answers.of(slice(5))
    p, eye = few.state("diagnosis", {"image"}), np.eye(3)
    age = few.state("age", {"image"})
    assert isinstance(p, np.ndarray) and isinstance(age, Marginal)
    truth = np.zeros(5)
    for k in range(3):
        told = few.state("age", {"image"}, {"diagnosis": np.full(5, eye[k].argmax())})
        assert isinstance(told, Marginal)
        truth += p[:, k] * np.abs(told.mass - age.mass).sum(1) / 2
    found = chain_rule_gap(answering(few, "age", "diagnosis"), "age", "diagnosis", {"image"})
    np.testing.assert_allclose(found, truth, atol=1e-3)


def test_no_true_value_harms_an_exact_answer(answers: LawAnswers) -> None:
    found = changes(draw_additions(SCALARS, "image", 0), answers.score)
    assert len(found) == 4 * 4 * 2**3
    assert harmful(found) == []
    assert np.mean([c.mean for c in found]) < -0.01
    assert {c.n for c in found} == {N}


def test_a_value_that_is_noise_harms_where_it_is_added_or_asked(answers: LawAnswers) -> None:
    noise = np.random.default_rng(0).permutation(answers.truth["weight"])
    noisy = LawAnswers(answers.model, answers.evidence, {**answers.truth, "weight": noise})
    found = harmful(changes(draw_additions(SCALARS, "image", 0), noisy.score))
    assert Addition("age", frozenset({"image"}), "weight") in [c.addition for c in found]
    for it in (c.addition for c in found):
        assert "weight" in {it.asked, it.added, *it.known}


def test_a_change_is_paired_over_those_who_have_all_values(answers: LawAnswers) -> None:
    truth = {v: x.copy() for v, x in answers.truth.items()}
    truth["age"][:50], truth["sex"][30:150], truth["weight"][:] = np.nan, np.nan, np.nan
    some = LawAnswers(answers.model, answers.evidence, truth)
    it = Addition("age", frozenset({"image"}), "sex")
    (found,) = changes([it, Addition("age", frozenset(), "weight")], some.score)
    assert (found.addition, found.n) == (it, 50)
    rows = slice(150, N)
    before, after, alone = (
        answers.score("age", frozenset(known))[rows]
        for known in ({"image"}, {"image", "sex"}, set[str]())
    )
    assert found.mean == pytest.approx((after - before).mean() / alone.mean())


def test_p_values_are_one_sided_and_corrected_by_holm() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(holm(np.array([0.4, 0.6])), [0.8, 0.8])
    assert len(holm(np.zeros(0))) == 0
    x = np.array([0.0, 1, 2, 3])
    scores = {"": np.ones(4), "worse": 1 + x, "better": 1 - x, "same": np.ones(4)}
    additions = [Addition("age", frozenset(), v) for v in ("worse", "better", "same")]
    found = changes(additions, lambda _, known: scores["".join(known)], least=2)
    # t = 1.5 / sqrt((5 / 3) / 4) = 2.324 with 3 degrees of freedom: one-sided p = 0.0514.
    assert found[0].p == pytest.approx(3 * 0.0514, abs=1e-3)
    assert [c.p for c in found[1:]] == [1, 1]
    assert [c.mean for c in found] == [1.5, -1.5, 0]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_additions_are_different_single_ones_and_all_where_they_are_few(count: int) -> None:
    scalars = [f"s{i}" for i in range(count)]
    drawn = draw_additions(scalars, "image", 0)
    assert len(drawn) == len({*drawn}) == min(200, count * count * 2 ** (count - 1))
    assert drawn == draw_additions(scalars, "image", 0)
    for it in drawn:
        assert it.asked in scalars and it.added not in it.known
        assert it.asked not in {it.added, *it.known} <= {"image", *scalars}
    assert count < 8 or drawn != draw_additions(scalars, "image", 1)
    assert draw_additions([], "image", 0) == []


def test_draws_have_the_stated_frequencies_and_those_of_others_do_not(answers: LawAnswers) -> None:
    few = answers.of(slice(20))
    posterior = few.posterior({"image"})
    errors = frequency_errors(posterior, 0)
    assert errors.shape == (20 * 5,)
    assert errors.max() < norm.isf(1e-4 / len(errors))  # once in 10,000 laws
    other = SimpleNamespace(
        law=posterior.law,
        probabilities=few.posterior({"image"}, {"age": np.full(20, 60.0)}).probabilities,
        draw=posterior.draw,
    )
    assert frequency_errors(other, 0).max() > 10  # type: ignore[arg-type]  # in a posterior's place


def test_a_rare_label_that_is_drawn_once_is_no_finding() -> None:
    """Its share is ten of the usual standard errors off, as one subject's in a hundred is."""
    drawn = torch.zeros(1, 1000, 2)
    drawn[:, :, 0] = 1
    once = drawn.clone()
    once[:, 0] = torch.tensor([0.0, 1])
    parts = iter([once, *[drawn] * 9])
    posterior = SimpleNamespace(
        law=SimpleNamespace(labels={"sex": 2}),
        probabilities=lambda _: torch.tensor([[1 - 1e-6, 1e-6]]).double(),
        draw=lambda *_: {"sex": next(parts)},
    )
    errors = frequency_errors(posterior, 0)  # type: ignore[arg-type]  # in a posterior's place
    np.testing.assert_allclose(errors, norm.isf(0.00995), rtol=5e-3)


def test_one_record_of_each_subject_and_not_too_many() -> None:
    rows = one_record_each(["b", "a", "b", "c", "a"], 0)
    assert rows.tolist() == [0, 1, 3]
    some = one_record_each([f"s{i}" for i in range(50)], 0, most=20)
    assert len({*some.tolist()}) == 20
    assert some.tolist() == sorted(some.tolist())


def test_log_scores_are_those_of_the_true_label() -> None:
    p = np.array([[0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(log_score(p, np.array([0, 1])), [np.log(2), np.log(4 / 3)])
    np.testing.assert_allclose(log_score(p[:1], np.array([0, 1, 1])), [np.log(2)] * 3)
    assert np.isfinite(log_score(np.array([[0.0, 1.0]]), np.array([0]))).all()


def test_evidence_is_stated_of_each_record_alike_in_a_batch_and_alone(answers: LawAnswers) -> None:
    kind = answers.model.schema.images["image"]
    images = np.random.default_rng(0).random((9, kind.channels, *kind.shape), dtype=np.float32)
    together = stated_evidence(answers.model, {"image": images})
    alone = stated_evidence(answers.model, {"image": images[8:]})
    for name, x in vars(together).items():
        torch.testing.assert_close(x[8:], vars(alone)[name], atol=1e-5, rtol=1e-5)


def test_the_measures_in_numbers_and_in_words(answers: LawAnswers) -> None:
    few = answers.of(slice(40))
    truth = {**few.truth, "weight": np.full(40, np.nan)}  # of nobody known, so not asked
    found = coherence(LawAnswers(few.model, few.evidence, truth), 0)
    assert [c["of"] for c in found["chain_rule"]] == [
        ["age", "sex"], ["age", "diagnosis"], ["sex", "diagnosis"],
    ]  # fmt: skip
    assert len(found["additions"]) == 3 * 3 * 2**2
    rows = coherence_rows(found)
    assert [title for title, *_ in rows] == [
        "chain rule, total variation",
        "single additions, mean change",
        "the worst addition",
        "harmful additions",
        "label frequencies, standard errors",
    ]
    worst = max(found["additions"], key=lambda c: c["mean"])
    assert worst["addition"] in rows[2][1]
    assert rows[3][1] == "0 of 36"


def test_where_nothing_can_be_compared_nothing_is_said(answers: LawAnswers) -> None:
    """One subject, one scalar known: no pair of questions, no paired subjects."""
    few = answers.of(slice(1))
    found = coherence(LawAnswers(few.model, few.evidence, {"age": few.truth["age"]}), 0)
    assert [title for title, *_ in coherence_rows(found)] == ["label frequencies, standard errors"]
