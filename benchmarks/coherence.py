"""Is a model one coherent law? Set beside the exact posterior of simulated subjects.

    python benchmarks/coherence.py COHORT MODEL [MODEL ...] [--subjects 4000]

COHORT is of `metavoxel simulate COHORT [--slices] --missing 0 --seed S`, with a seed that trained
no MODEL; the models know image, age, sex, diagnosis, mmse and education, or some of them. Every
scalar is asked given every subset of the others, with the image and without. A number is scored by
its CRPS, a label by its log score. The exact scores are kept in COHORT, in exact-scores-N.npz.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metavoxel.data.bids import read_cohort
from metavoxel.data.causal import DIAGNOSES, SEXES, CausalModel, Posterior
from metavoxel.evaluation.coherence import (
    HARM,
    LEVEL,
    chain_rule_gap,
    changes,
    draw_additions,
    frequency_errors,
    harmful,
)
from metavoxel.evaluation.cohort import as_table
from metavoxel.evaluation.law_answers import LawAnswers, log_score, stated_evidence
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model
from metavoxel.posterior.marginal import Marginal

LABELS = {"sex": SEXES, "diagnosis": DIAGNOSES}
NUMBERS = ("age", "mmse", "education")
VISIBLE = ("brain_volume", "ventricle_volume", "cortical_thickness")
UNSEEN_IN_A_SLICE = "hippocampus_volume"
POINTS = 281  # ages of the quadrature
PIECE = 250  # subjects answered at once
DRAWN = 200  # subjects of whom labels are drawn

Question = tuple[str, frozenset[str]]  # asked, known


@dataclass(frozen=True, eq=False)
class Subjects:
    """n subjects of a simulated cohort: what is true of each, and what their images measure."""

    truth: Mapping[str, np.ndarray]
    measured: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, cohort: Path, names: Sequence[str]) -> Subjects:
        table = cohort / "derivatives/truth/participants.tsv"
        with table.open() as file:
            rows = {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}
        chosen = [rows[name] for name in names]
        columns = {v: np.array([row[v] for row in chosen]) for v in rows[names[0]]}
        slices = any(cohort.glob("sub-*/**/*.png"))
        visible = VISIBLE if slices else (*VISIBLE, UNSEEN_IN_A_SLICE)
        numbers = {v: columns[v].astype(float) for v in (*NUMBERS, *visible)}
        truth = {v: numbers[v] for v in NUMBERS} | {v: columns[v] for v in LABELS}
        return cls(truth, {v: numbers[v] for v in visible})

    def __len__(self) -> int:
        return len(self.truth["age"])

    def rows(self, rows: slice) -> Subjects:
        return Subjects(
            {v: x[rows] for v, x in self.truth.items()},
            {v: x[rows] for v, x in self.measured.items()},
        )

    def posterior(self, known: Collection[str]) -> Posterior:
        """The exact one, given the known variables of each subject."""
        measured = self.measured if "image" in known else {}
        given = {v: self.truth[v] for v in known if v != "image"}
        return CausalModel().posterior(measured, given, POINTS)

    def index(self, label: str) -> np.ndarray:
        """Which label every subject has."""
        return np.array([LABELS[label].index(x) for x in self.truth[label]])


def questions(scalars: Sequence[str]) -> list[Question]:
    """Every scalar, given every subset of the others and of the image."""
    out = []
    for v in scalars:
        others = ["image", *(w for w in scalars if w != v)]
        for k in range(len(others) + 1):
            out += [(v, frozenset(s)) for s in itertools.combinations(others, k)]
    return out


def exact_scores(cohort: Path, subjects: Subjects) -> dict[Question, np.ndarray]:
    """The score (n,) of the exact answer to every question."""
    kept = cohort / f"exact-scores-{len(subjects)}.npz"
    every = questions([*NUMBERS, *LABELS])
    if kept.exists():
        found = np.load(kept)["scores"]
        return dict(zip(every, found, strict=True))
    parts = []
    for start in range(0, len(subjects), PIECE):
        some = subjects.rows(slice(start, start + PIECE))
        by_known = {known: some.posterior(known) for _, known in every}
        parts.append(np.stack([exact_score(some, v, by_known[known]) for v, known in every]))
        print(f"exact: {start + len(some)} of {len(subjects)}", flush=True)
    scores = np.concatenate(parts, 1)
    np.savez_compressed(kept, scores=scores)
    return dict(zip(every, scores, strict=True))


def exact_score(subjects: Subjects, name: str, posterior: Posterior) -> np.ndarray:
    if name in NUMBERS:
        marginal = posterior.age if name == "age" else posterior.number(name)
        score = marginal.crps(subjects.truth[name])
        return np.broadcast_to(score, len(subjects))
    p = getattr(posterior, name)
    each = np.stack([np.broadcast_to(p[x], len(subjects)) for x in LABELS[name]], 1)
    return log_score(each, subjects.index(name))


def answers_about(
    model: MetaVoxel, subjects: Subjects, images: dict[str, np.ndarray]
) -> LawAnswers:
    """A model's answers about the subjects, from one evaluation of each one's image."""
    truth = {
        v: subjects.index(v) if v in LABELS else subjects.truth[v] for v in model.schema.scalars
    }
    return LawAnswers(model, stated_evidence(model, images), truth)


def additions(scores: Mapping[Question, np.ndarray], exact: Mapping[Question, np.ndarray]) -> str:
    """Single additions to what is known that make an answer worse, and the worst."""
    every = draw_additions(list(dict.fromkeys(v for v, _ in scores)), "image", 0, len(scores) ** 2)
    found = changes(every, lambda v, known: scores[v, known])
    true = {c.addition: c.mean for c in changes(every, lambda v, known: exact[v, known])}
    lines = [
        f"{len(found)} single additions, {len(harmful(found))} worse by more than {100 * HARM:g} % "
        f"(Holm's p < {LEVEL:g})"
    ]
    for c in sorted(found, key=lambda c: -c.mean)[:6]:
        lines.append(f"  {c.addition}: {c.mean:+.1%} (p {c.p:.3f}; exact {true[c.addition]:+.1%})")
    return "\n".join(lines)


def chain_rule(answers: LawAnswers) -> float:
    """The mean gap of age and diagnosis given the image."""
    pieces = [answers.of(slice(i, i + PIECE)) for i in range(0, len(answers), PIECE)]
    gaps = [chain_rule_gap(some.state, "age", "diagnosis", {"image"}) for some in pieces]
    return float(np.concatenate(gaps).mean())


def contrast(answers: LawAnswers, subjects: Subjects) -> tuple[float, float]:
    """E[age | I, MCI] - E[age | I, CN], weighted by p(MCI | I) p(CN | I): the model's, exact."""
    exact = subjects.posterior({"image"})
    weight = exact.diagnosis["CN"] * exact.diagnosis["MCI"]
    means, truth = [], []
    for k in (0, 1):
        told = {"diagnosis": np.full(len(subjects), k)}
        means.append(age(answers, {"image"}, told).mean)
        both = {"diagnosis": np.full(len(subjects), DIAGNOSES[k])}
        truth.append(CausalModel().posterior(subjects.measured, both, POINTS).age.mean)
    share = weight / weight.sum()
    return float(share @ (means[1] - means[0])), float(share @ (truth[1] - truth[0]))


def age(answers: LawAnswers, known: Collection[str], told: Mapping = {}) -> Marginal:
    stated = answers.state("age", known, told)
    assert isinstance(stated, Marginal)
    return stated


def variance_ratio(answers: LawAnswers) -> tuple[float, float, float]:
    """Stated variance over squared error of the age, over all subsets: their mean, the least, the
    greatest."""
    ratios = []
    for v, known in questions([*answers.model.schema.scalars]):
        if v == "age":
            marginal = age(answers, known)
            error = marginal.mean - answers.truth["age"]
            ratios.append(float(np.mean(marginal.std**2) / np.mean(error**2)))
    return float(np.mean(ratios)), min(ratios), max(ratios)


def main(cohort: Path, folders: list[Path], count: int) -> None:
    torch.set_num_threads(1)
    for folder in folders:
        model = load_model(folder)
        records = read_cohort(cohort, model.schema)
        records = records.only(records.subjects[:count])
        table = as_table(model.schema, records)
        names = [f"sub-{s.removeprefix('sub-')}" for s in table.subjects]
        subjects = Subjects.read(cohort, names)
        exact = exact_scores(cohort, subjects)
        answers = answers_about(model, subjects, table.images)
        every = questions([*model.schema.scalars])
        scores = {(v, known): answers.score(v, known) for v, known in every}
        print(f"\n{folder}, {len(subjects)} new subjects")
        print(selected(scores, exact, [*model.schema.scalars]))
        print(additions(scores, exact))
        if {"age", "diagnosis"} <= {*model.schema.scalars}:
            print(f"chain rule, total variation: {chain_rule(answers):.4f}")
            ours, theirs = contrast(answers, subjects)
            print(
                f"E[age | image, MCI] - E[age | image, CN]: {ours:+.2f}, exact {theirs:+.2f} years"
            )
        mean, least, most = variance_ratio(answers)
        print(f"age, variance over squared error: {mean:.2f} [{least:.2f}, {most:.2f}]")
        errors = frequency_errors(answers.of(slice(DRAWN)).posterior({"image"}), 0)
        print(f"frequencies of labels: at most {errors.max():.1f} standard errors off")


def selected(
    scores: Mapping[Question, np.ndarray],
    exact: Mapping[Question, np.ndarray],
    scalars: Sequence[str],
) -> str:
    """A table of mean scores, the exact ones, and the excess as a share of the marginal's."""
    lines = []
    for v in scalars:
        others = [w for w in scalars if w != v]
        pairs = [["image", w] for w in others]
        for known in ([], others, ["image"], *pairs, ["image", *others]):
            key = v, frozenset(known)
            ours, theirs = scores[key].mean(), exact[key].mean()
            excess = (ours - theirs) / exact[v, frozenset()].mean()
            lines.append(
                f"  {v + ' | ' + ', '.join(known):52} {ours:7.3f} {theirs:7.3f} {excess:+.1%}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--subjects", type=int, default=4000)
    arguments = parser.parse_args()
    main(arguments.cohort, arguments.models, arguments.subjects)
