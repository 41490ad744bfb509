"""Coherence of a model's answers: separate questions about the same subjects, held together."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from scipy.stats import binom, norm, ttest_1samp

from metavoxel.evaluation.law_answers import LawAnswers
from metavoxel.posterior.law import ScalarPosterior
from metavoxel.posterior.marginal import Marginal

DRAWS = 10_000  # joint draws of a subject, for the frequencies of labels
HARM, LEVEL = 0.01, 0.05  # a share of the marginal's score; of Holm's p
_ADDITIONS, _PAIRS = 200, 10  # drawn at most
_FEW = 50  # subjects of the chain rule and the draws, at most
_LEAST = 10  # subjects of an addition
_PARTS = 10  # of the draws
_GROUP = 8  # cells of a marginal taken as one
_TINY = 1e-6  # probability of a group of cells, below which nothing is asked given it

Score = Callable[[str, frozenset[str]], np.ndarray]  # of one answer, (n,); NaN where not observed


class Stated(Protocol):
    """Answers a scalar of n subjects given what is known of each, and values (n,) that are told:
    the distribution of a number, or the probabilities (n, K) of labels."""

    def __call__(
        self, asked: str, known: Collection[str], told: Mapping[str, np.ndarray]
    ) -> Marginal | np.ndarray: ...


def chain_rule_gap(state: Stated, a: str, b: str, known: Collection[str]) -> np.ndarray:
    """Total variation (n,) between p(a | known) p(b | known, a) and p(b | known) p(a | known, b).

    Every factor is a separate question; numbers are told at the means of groups of cells.
    """
    one_way, other = _joint(state, a, b, known), _joint(state, b, a, known)
    return np.abs(one_way - other.swapaxes(1, 2)).sum((1, 2)) / 2


def _joint(state: Stated, first: str, second: str, known: Collection[str]) -> np.ndarray:
    """p(first | known) p(second | known, first) of groups of values, (n, A, B)."""
    mass, values = _grouped(state(first, known, {}))
    every, _ = _grouped(state(second, known, {}))
    out = np.zeros((*mass.shape, every.shape[1]))
    for i in np.flatnonzero(mass.max(0) > _TINY):
        given, _ = _grouped(state(second, known, {first: values[:, i]}))
        out[:, i] = mass[:, i, None] * given
    return out


def _grouped(stated: Marginal | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and values (n, groups): labels with their indices, or cells with their mean."""
    if not isinstance(stated, Marginal):
        return stated, np.broadcast_to(np.arange(stated.shape[1]), stated.shape)
    starts = np.arange(0, stated.mass.shape[1], _GROUP)
    mass = np.add.reduceat(stated.mass, starts, axis=1)
    start = stated.edges[..., starts]
    total = np.add.reduceat(stated.mass * stated.centres, starts, axis=1)
    return mass, np.where(mass > _TINY**2, total / np.maximum(mass, _TINY**2), start)


@dataclass(frozen=True)
class Addition:
    """One more variable that is known when a scalar is asked."""

    asked: str
    known: frozenset[str]
    added: str

    def __str__(self) -> str:
        return f"{self.asked} | {', '.join(sorted(self.known)) or 'nothing'} + {self.added}"


def draw_additions(
    scalars: Sequence[str], images: str, seed: int, most: int = _ADDITIONS
) -> list[Addition]:
    """At most so many different single additions, known sets of every size alike; all, if fewer."""
    rng, found = np.random.default_rng(seed), dict[Addition, None]()
    others = len(scalars)  # the other scalars, and the images
    every = len(scalars) * others * 2 ** (others - 1) if scalars else 0
    while len(found) < min(most, every):
        asked = scalars[int(rng.integers(len(scalars)))]
        order = rng.permutation([v for v in (images, *scalars) if v != asked]).tolist()
        size = int(rng.integers(others))
        found[Addition(asked, frozenset(order[:size]), order[size])] = None
    return [*found]


@dataclass(frozen=True)
class Change:
    """What an addition does to the score, paired over the n subjects that have all its values: the
    mean, as a share of the marginal's score (above 0 it is worse), and a one-sided p."""

    addition: Addition
    mean: float
    p: float
    n: int


def changes(additions: Sequence[Addition], score: Score, least: int = _LEAST) -> list[Change]:
    """Of the additions with at least so many subjects; p as Holm (1979) corrects it for them all.

    Once a question is scored, its score is used again.
    """
    scored, out = functools.cache(score), list[Change]()
    for it in additions:
        change = scored(it.asked, it.known | {it.added}) - scored(it.asked, it.known)
        rows = np.flatnonzero(~np.isnan(change))
        if len(rows) >= max(least, 2):
            change = change[rows]
            share = change.mean() / scored(it.asked, frozenset())[rows].mean()
            out.append(Change(it, float(share), _worse(change), len(rows)))
    corrected = holm(np.array([c.p for c in out]))
    return [replace(c, p=float(p)) for c, p in zip(out, corrected, strict=True)]


def _worse(change: np.ndarray) -> float:
    """The p-value of a one-sided t-test of changes (n,) against 0; 1 if none changes."""
    if not change.std():
        return 1.0
    return float(np.asarray(ttest_1samp(change, 0, alternative="greater"))[1])


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (n,) corrected for their number (Holm, 1979)."""
    order, out = np.argsort(p), np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return out


def harmful(found: Sequence[Change]) -> list[Change]:
    """Those that make an answer worse beyond chance, and by more than a hundredth."""
    return [c for c in found if c.mean > HARM and c.p < LEVEL]


def frequency_errors(posterior: ScalarPosterior, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How far labels' shares in joint draws lie from their stated probabilities, in standard
    errors, (subjects and labels, in one row): of the normal whose tail the binomial has."""
    generator, labels = torch.Generator().manual_seed(seed), [*posterior.law.labels]
    count = dict.fromkeys(labels, np.zeros(()))
    for _ in range(_PARTS):  # all at once would not fit in memory
        drawn = posterior.draw(draws // _PARTS, generator)
        count = {v: count[v] + drawn[v].double().sum(1).cpu().numpy().round() for v in labels}
    out = [np.zeros(0)]
    for v in labels:
        p = posterior.probabilities(v).cpu().numpy().clip(0, 1)
        k, n = count[v], draws // _PARTS * _PARTS
        tail = np.minimum(binom.cdf(k, n, p), binom.sf(k - 1, n, p))
        out.append(norm.isf(np.minimum(tail, 0.5)).ravel())
    return np.concatenate(out)


def coherence(answers: LawAnswers, seed: int) -> dict[str, Any]:
    """Every measure of coherence, as plain numbers."""
    scalars = [v for v, x in answers.truth.items() if not np.isnan(x).all()]
    few, rng = answers.of(slice(_FEW)), np.random.default_rng(seed)
    pairs = [*itertools.combinations(scalars, 2)]
    drawn = [pairs[int(i)] for i in sorted(rng.permutation(len(pairs))[:_PAIRS])]
    gaps = {(a, b): chain_rule_gap(few.state, a, b, {answers.images}) for a, b in drawn}
    found = changes(draw_additions(scalars, answers.images, seed), answers.score)
    errors = frequency_errors(few.posterior({answers.images}), seed)
    return {
        "subjects": len(answers),
        "chain_rule": [
            {"of": [*pair], "mean": float(gap.mean()), "max": float(gap.max()), "n": len(gap)}
            for pair, gap in gaps.items()
        ],
        "additions": [
            {"addition": str(c.addition), "mean": c.mean, "p": c.p, "n": c.n} for c in found
        ],
        "harmful": len(harmful(found)),
        "frequencies": {
            "draws": DRAWS,
            "largest": float(errors.max(initial=0)),
            "compared": len(errors),
            "by_chance": float(norm.isf(LEVEL / 2 / max(len(errors), 1))),
        },
    }


def coherence_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What `coherence` found in words: the measure, its figure, and what that means."""
    gaps, additions, frequencies = (found[k] for k in ("chain_rule", "additions", "frequencies"))
    rows = []
    if gaps:
        worst, mean = max(gaps, key=lambda gap: gap["max"]), np.mean([gap["mean"] for gap in gaps])
        rows.append((
            "chain rule, total variation",
            f"{mean:.4f}; at most {worst['max']:.4f} ({' and '.join(worst['of'])})",
            "p(a | image) p(b | image, a) against p(b | image) p(a | image, b), each factor asked "
            "on its own: 0 if all answers follow from one joint distribution",
        ))  # fmt: skip
    if additions:
        worst = max(additions, key=lambda c: c["mean"])
        mean = float(np.mean([c["mean"] for c in additions]))
        known = f"{worst['addition']}; n = {worst['n']}, p = {worst['p']:.2g}"
        rows += [
            (
                "single additions, mean change",
                f"{_percent(mean)} of {len(additions)}",
                "one more value is known: how the CRPS or log score changes, as a share of that of "
                "the marginal; below 0, the value helps",
            ),
            (
                "the worst addition",
                f"{_percent(worst['mean'])} ({known})",
                "the variable after the + is the added one; p of a one-sided paired t-test over "
                "subjects, by Holm's correction for all additions",
            ),
            (
                "harmful additions",
                f"{found['harmful']} of {len(additions)}",
                f"worse by more than {100 * HARM:g} % with p below {LEVEL:g}: to know more makes "
                "the answer worse",
            ),
        ]
    if frequencies["compared"]:
        rows.append((
            "label frequencies, standard errors",
            f"at most {frequencies['largest']:.1f} of {frequencies['compared']}",
            f"labels in {frequencies['draws']:,} joint draws given the image against their stated "
            f"probabilities; by chance alone, 19 reports in 20 stay below "
            f"{frequencies['by_chance']:.1f}",
        ))  # fmt: skip
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"
