"""What an experiment has shown: the reference against each other system, by margins set before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from metavoxel.evaluation.experiment.results import Answers, Pooled, paired
from metavoxel.evaluation.experiment.work import Experiment, Run
from metavoxel.evaluation.scores import Bootstrap, Score, mean_of

BETTER = "shown: better"
NO_WORSE = "shown: no worse by the margin"
NOT_SHOWN = "not shown"
INFERIOR = "inferior by more than the margin"


def verdict(gain: Score, margin: float) -> str:
    """By the 95 % interval of how much the reference is better: wholly above 0, above -margin,
    below -margin, or none of these."""
    if gain.low > 0:
        return BETTER
    if gain.low > -margin:
        return NO_WORSE
    return INFERIOR if gain.high < -margin else NOT_SHOWN


def chance_of_a_tie(standard_error: float, margin: float) -> float:
    """The probability that two systems that are truly level are shown to be no worse by the margin:
    that the gain, N(0, standard_error^2), ends above -margin + 1.96 standard errors."""
    if standard_error == 0:
        return 1.0
    return float(norm.cdf(margin / standard_error - norm.ppf(0.975)))


def verdict_rows(experiment: Experiment, answers: Answers) -> list[dict[str, Any]]:
    """A row per question, variable with a margin, and other system."""
    return [
        row
        for (question, v), by_system in answers.items()
        if v in experiment.config.margins
        for row in _rows(experiment, question, v, by_system)
    ]


def _rows(
    experiment: Experiment, question: str, name: str, by_system: Mapping[str, Pooled]
) -> Iterator[dict[str, Any]]:
    reference, margin = experiment.config.reference, experiment.config.margins[name]
    number = name in experiment.schema.numbers
    for system, theirs in by_system.items():
        pairs = paired(by_system[reference], theirs) if reference in by_system else None
        if system == reference or pairs is None:
            continue
        ours = by_system[reference].losses(number)[pairs[0]]
        gained = theirs.losses(number)[pairs[1]] - ours
        if not number:  # losses are 1 where the label is right
            gained = -gained
        gain = Bootstrap([str(theirs.subjects[k]) for k in pairs[1]]).score(mean_of(gained))
        error = float((gain.high - gain.low) / (2 * norm.ppf(0.975)))
        yield {
            "question": question,
            "variable": name,
            "over": system,
            "gain": gain.to_json(),
            "seed_sd": _seed_sd(gained, theirs.run[pairs[1]], experiment.runs),
            "margin": margin,
            "verdict": verdict(gain, margin),
            "chance_of_a_tie": None if np.isnan(error) else chance_of_a_tie(error, margin),
        }


def _seed_sd(gained: np.ndarray, run: np.ndarray, runs: Sequence[Run]) -> float | None:
    """SD over seeds of the mean gain; None of one seed."""
    seeds = np.array([runs[int(i)].seed for i in run])
    means = [gained[seeds == seed].mean() for seed in np.unique(seeds)]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def verdict_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Comparisons down."""
    head = ["question", "variable", "over", "better by", "SD over seeds", "margin", "verdict"]
    out = [[*head, "chance to show a true tie"]]
    for row in rows:
        sd = "–" if row["seed_sd"] is None else f"{row['seed_sd']:.2g}"
        named = [row["question"], row["variable"], row["over"]]
        said = [str(Score.from_json(row["gain"])), sd, f"{row['margin']:g}", row["verdict"]]
        chance = row["chance_of_a_tie"]
        out.append([*named, *said, "–" if chance is None else f"{chance:.2f}"])
    return out
