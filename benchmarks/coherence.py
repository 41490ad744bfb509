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
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ttest_1samp

from metavoxel.data.bids import read_cohort
from metavoxel.data.causal import DIAGNOSES, SEXES, CausalModel, Posterior
from metavoxel.evaluation.cohort import as_table
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model
from metavoxel.posterior.evidence import Evidence
from metavoxel.posterior.law import ScalarPosterior

LABELS = {"sex": SEXES, "diagnosis": DIAGNOSES}
NUMBERS = ("age", "mmse", "education")
VISIBLE = ("brain_volume", "ventricle_volume", "cortical_thickness")
UNSEEN_IN_A_SLICE = "hippocampus_volume"
POINTS = 281  # ages of the quadrature
PIECE = 250  # subjects answered at once

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


def log_score(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12))


@dataclass(eq=False)
class Answers:
    """A model's answers about some subjects, from one evaluation of each subject's image."""

    model: MetaVoxel
    subjects: Subjects
    images: Mapping[str, np.ndarray]

    @cached_property
    def evidence(self) -> Evidence:
        parts = []
        with torch.inference_mode():
            for rows in torch.arange(len(self.subjects)).split(64):
                raw = {v: torch.from_numpy(x[rows.numpy()]) for v, x in self.images.items()}
                z = self.model.encode(raw)
                corner = self.model.corner(z, len(rows), [*self.model.schema.images], None)
                parts.append(self.model.evidence(*corner))
        joined = (torch.cat([getattr(e, f.name) for e in parts]) for f in fields(Evidence))
        return Evidence(*joined)

    @cached_property
    def encoded(self) -> dict[str, torch.Tensor]:
        raw = {v: torch.from_numpy(self.subjects.truth[v]) for v in self.model.schema.continuous}
        raw |= {v: torch.from_numpy(self.subjects.index(v)) for v in self.model.schema.categorical}
        return self.model.encode(raw)

    def posterior(self, known: Collection[str], fixed: Mapping = {}) -> ScalarPosterior:
        assert self.model.law is not None
        scalars = {v: self.encoded[v] for v in known if v != "image"} | dict(fixed)
        evidence = self.evidence if "image" in known else None
        with torch.inference_mode():
            return self.model.law.posterior(evidence, scalars, len(self.subjects))

    def score(self, name: str, posterior: ScalarPosterior) -> np.ndarray:
        if name in LABELS:
            p = posterior.probabilities(name).numpy()
            return log_score(p, self.subjects.index(name))
        marginal = self.model.marginal(posterior, name)
        score = marginal.crps(self.subjects.truth[name])
        return np.broadcast_to(score, len(self.subjects))

    def scores(self) -> dict[Question, np.ndarray]:
        return {
            (v, known): self.score(v, self.posterior(known))
            for v, known in questions([*self.model.schema.scalars])
        }


def additions(scores: Mapping[Question, np.ndarray], exact: Mapping[Question, np.ndarray]) -> str:
    """Single additions to what is known that make an answer worse, and the worst."""
    rows = []
    for (v, known), before in scores.items():
        marginal = scores[v, frozenset()].mean()
        for w in {w for (u, other) in scores if u == v for w in other - known}:
            after = scores.get((v, known | {w}))
            if after is None:
                continue
            change = after - before
            p = ttest_1samp(change, 0, alternative="greater").pvalue if change.std() else 1.0
            truth = exact[v, known | {w}] - exact[v, known]
            rows.append((change.mean() / marginal, p, truth.mean() / marginal, v, known, w))
    order = np.argsort([p for _, p, *_ in rows])
    holm = np.maximum.accumulate([(len(rows) - i) * rows[j][1] for i, j in enumerate(order)])
    adjusted = dict(zip(order.tolist(), np.minimum(holm, 1), strict=True))
    bad = [i for i, row in enumerate(rows) if row[0] > 0.01 and adjusted[i] < 0.05]
    lines = [f"{len(rows)} single additions, {len(bad)} worse by more than 1 % (Holm's p < 0.05)"]
    for i in sorted(range(len(rows)), key=lambda i: -rows[i][0])[:6]:
        change, _, truth, v, known, w = rows[i]
        said = f"{v} | {', '.join(sorted(known)) or 'nothing'} + {w}"
        lines.append(f"  {said}: {change:+.1%} (p {adjusted[i]:.3f}; exact {truth:+.1%})")
    return "\n".join(lines)


def chain_rule(answers: Answers) -> float:
    """Mean total variation between p(age | I) p(d | I, age) and p(d | I) p(age | I, d).

    By quadrature over the cells of the age's distribution.
    """
    law = answers.model
    scores = law.scalings["age"]
    first = law.marginal(answers.posterior({"image"}), "age")
    p_d = answers.posterior({"image"}).probabilities("diagnosis").numpy()
    n, K = p_d.shape  # noqa: N806
    second = np.stack(
        [
            law.marginal(answers.posterior({"image"}, {"diagnosis": _one_hot(k, K, n)}), "age").mass
            * p_d[:, k, None]
            for k in range(K)
        ],
        2,
    )
    gap, step = np.zeros(n), 8  # cells taken as one
    cells = range(0, first.mass.shape[1], step)
    for start in cells:
        part = slice(start, start + step)
        centre = float(first.centres[..., min(start + step // 2, first.mass.shape[1] - 1)])
        age = scores.encode(torch.full((n,), centre))
        p = answers.posterior({"image"}, {"age": age}).probabilities("diagnosis").numpy()
        direct = first.mass[:, part].sum(1)[:, None] * p
        gap += np.abs(direct - second[:, part].sum(1)).sum(1) / 2
    return float(gap.mean())


def _one_hot(k: int, labels: int, n: int) -> torch.Tensor:
    return torch.eye(labels)[k].expand(n, -1)


def contrast(answers: Answers) -> tuple[float, float]:
    """E[age | I, MCI] - E[age | I, CN], weighted by p(MCI | I) p(CN | I): the model's, exact."""
    subjects, model = answers.subjects, answers.model
    exact = subjects.posterior({"image"})
    weight = exact.diagnosis["CN"] * exact.diagnosis["MCI"]
    means, truth = [], []
    for k in (0, 1):
        z = {"diagnosis": _one_hot(k, len(DIAGNOSES), len(subjects))}
        means.append(model.marginal(answers.posterior({"image"}, z), "age").mean)
        label = np.full(len(subjects), DIAGNOSES[k])
        both = {"diagnosis": label}
        truth.append(CausalModel().posterior(subjects.measured, both, POINTS).age.mean)
    mean = lambda x: float((weight * x).sum() / weight.sum())  # noqa: E731
    return mean(means[1] - means[0]), mean(truth[1] - truth[0])


def variance_ratio(answers: Answers, name: str) -> tuple[float, float, float]:
    """Stated variance over squared error, over all subsets: their mean, the least, the greatest."""
    ratios = []
    for v, known in questions([*answers.model.schema.scalars]):
        if v == name:
            marginal = answers.model.marginal(answers.posterior(known), name)
            error = marginal.mean - answers.subjects.truth[name]
            ratios.append(float(np.mean(marginal.std**2) / np.mean(error**2)))
    return float(np.mean(ratios)), min(ratios), max(ratios)


def frequencies(answers: Answers, draws: int = 10_000, subjects: int = 200) -> float:
    """The largest difference of drawn labels' frequencies from their probabilities, in standard
    errors, over subjects and labels, joint draws given the image."""
    posterior, worst = answers.posterior({"image"}), 0.0
    drawn = posterior.draw(draws, torch.Generator().manual_seed(0))
    for v in answers.model.schema.categorical:
        p = posterior.probabilities(v)[:subjects]
        share = drawn[v][:subjects].double().mean(1)
        error = (p * (1 - p) / draws).sqrt().clamp_min(1e-6)
        worst = max(worst, float(((share - p).abs() / error).max()))
    return worst


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
        answers = Answers(model, subjects, table.images)
        scores = answers.scores()
        print(f"\n{folder}, {len(subjects)} new subjects")
        print(selected(scores, exact, [*model.schema.scalars]))
        print(additions(scores, exact))
        if {"age", "diagnosis"} <= {*model.schema.scalars}:
            print(f"chain rule, total variation: {chain_rule(answers):.4f}")
            ours, theirs = contrast(answers)
            print(
                f"E[age | image, MCI] - E[age | image, CN]: {ours:+.2f}, exact {theirs:+.2f} years"
            )
        mean, least, most = variance_ratio(answers, "age")
        print(f"age, variance over squared error: {mean:.2f} [{least:.2f}, {most:.2f}]")
        print(f"frequencies of labels: at most {frequencies(answers):.1f} standard errors off")


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--subjects", type=int, default=4000)
    arguments = parser.parse_args()
    main(arguments.cohort, arguments.models, arguments.subjects)
