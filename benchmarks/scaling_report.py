"""The page and the figure of scaling.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from metavoxel.evaluation.figures.style import STYLE
from metavoxel.files.writing import atomic_write

Piece = Mapping[str, Any]
Read = Callable[[Piece], float | None]  # a figure off a piece, None where it has none

# Okabe and Ito's colours, told apart by the colour-blind; and a marker each.
SHOWN = {
    "metavoxel": ("MetaVoxel", "#0072B2", "o"),
    "multitask": ("multi-task ResNet", "#D55E00", "s"),
    "resnet": ("ResNet, one a question", "#009E73", "^"),
    "ridge": ("ridge / logistic regression", "#000000", "v"),
    "before": ("MetaVoxel before the law", "#56B4E9", "D"),
    "paper": ("the paper's engine", "#CC79A7", "P"),
}
QUESTIONS = {
    "age | image": "CRPS, years",
    "age | image, diagnosis": "CRPS, years",
    "mmse | image, age": "CRPS, points",
    "diagnosis | image, age": "log score, nats",
}
SIZES, SEEDS = (100, 300, 1000, 3000, 10_000), 3
HOW = """# Does it hold as cohorts grow?

Simulated slices, whose exact posterior is known. A system is trained on n subjects, validated on
n / 10 more (20 at least), and asked about {subjects} new subjects of another seed (82), once.
A figure is the **excess over the exact posterior's score**: 0 is the best that anybody could do.

    git worktree add older before-coherent-law
    python benchmarks/scaling.py work --sizes {sizes} --older older
    python benchmarks/scaling.py work --sizes {sizes} --older older --images
    python benchmarks/scaling.py work --report docs/results/scaling.md

A figure is the mean over seeds, in brackets the least and the greatest of them; one without
brackets is of one seed. **A seed draws the training and validation subjects and all that is random
in the training**; the new subjects are the same for all. What another draw of new subjects would
change, the same for all systems for the most part, is told below the tables as a standard error.

The networks take as many steps each ({steps}), the paper's engine four times
as many, its own settings as in `configs/simulated-slices-paper.yaml`. It is asked about the first
1,000 new subjects, three draws each: CRPS without bias; for a label the frequencies of the draws,
one added to each. A Gaussian stands for what a specialist or ridge regression states of a number;
its variance is the squared error on the validation subjects. They choose a network's step, too;
cross-validation chooses the penalty of ridge and logistic regression.
"""


def report(work: Path, page: Path) -> None:
    """Write the page, and beside it the figure of the same name."""
    every = [json.loads(path.read_text()) for path in sorted((work / "results").glob("*.json"))]
    scores = [x for x in every if "questions" in x]
    images = [x for x in every if "ageing" in x]
    sizes = sorted({x["n"] for x in scores})
    figure = page.with_suffix(".svg")
    used = {x["n"]: x["steps"] for x in scores if x["system"] != "paper"}
    parts = [
        HOW.format(
            subjects=f"{max((x['subjects'] for x in scores), default=4000):,}",
            sizes=" ".join(map(str, sizes)) or "100 300 1000",
            steps=", ".join(f"{used[n]:,} at {n:,}" for n in sorted(used)) or "600 to 6,000",
        ),
        f"![Excess over the exact posterior against training subjects]({figure.name})",
        *(_question(q, scores, sizes) for q in QUESTIONS),
        _error(scores),
        _coherence(scores, sizes),
        _images(images, sizes),
        _cost(every),
        _missing(scores, images),
    ]
    with atomic_write(page) as temporary:
        temporary.write_text("\n\n".join(part.strip() for part in parts if part) + "\n")
    _draw(scores, figure)


def excess(question: str) -> Read:
    return lambda x: x["questions"].get(question, {}).get("excess")


def _question(question: str, scores: Sequence[Piece], sizes: Sequence[int]) -> str:
    full = [x for x in scores if x["system"] != "paper"]
    if not full:
        return ""
    exact = full[0]["questions"][question]["exact"]
    known_nothing = full[0]["marginals"][question.split(" | ")[0]]
    about = f"Exact: {exact:.3f}; who knows nothing of a subject: {known_nothing:.3f}."
    table = _table(scores, sizes, excess(question))
    return f"## {question} ({QUESTIONS[question]})\n\n{about}\n\n{table}"


def _table(pieces: Sequence[Piece], sizes: Sequence[int], read: Read, form: str = ".3f") -> str:
    """Systems by sizes."""
    lines = [f"| n | {' | '.join(f'{n:,}' for n in sizes)} |", f"|---|{'---|' * len(sizes)}"]
    for system, (name, *_) in SHOWN.items():
        cells = [_cell(_values(pieces, system, n, read), form) for n in sizes]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _values(pieces: Iterable[Piece], system: str, n: int, read: Read) -> list[float]:
    found = (read(x) for x in pieces if (x["system"], x["n"]) == (system, n))
    return [x for x in found if x is not None]


def _cell(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return format(values[0], form)
    return f"{np.mean(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def _error(scores: Sequence[Piece]) -> str:
    """By question, all systems but the one of 1,000 subjects."""
    full = [x for x in scores if x["system"] != "paper"]
    if not full:
        return ""
    worst = {q: max(x["questions"][q]["standard error"] for x in full) for q in QUESTIONS}
    said = "; ".join(f"{q}: {x:.3f}" for q, x in worst.items())
    return f"Largest standard error of an excess over the new subjects: {said}."


def _coherence(scores: Sequence[Piece], sizes: Sequence[int]) -> str:
    if not any("chain rule" in x for x in scores):
        return ""

    def worst(x: Piece) -> float | None:
        return 100 * max(a["change"] for a in x["additions"].values()) if "additions" in x else None

    def against_exact(x: Piece) -> float | None:
        if "additions" not in x:
            return None
        return 100 * max(a["change"] - a["exact"] for a in x["additions"].values())

    return "\n\n".join(
        [
            "## Coherence",
            "p(age given image) p(diagnosis given image, age) and p(diagnosis given image) "
            "p(age given image, diagnosis): total variation, mean over 200 new subjects, cells of "
            "2.5 years. A coherent law is at 0, up to what bends within a cell.",
            _table(scores, sizes, lambda x: x.get("chain rule")),
            "The worst single addition to an image (diagnosis or age told beside it, of three): "
            "change of the score in % of the score of who knows nothing; above 0 is harm.",
            _table(scores, sizes, worst, "+.1f"),
            "The same, less the change of the exact answers: what telling it should have brought.",
            _table(scores, sizes, against_exact, "+.1f"),
        ]
    )


def _images(images: Sequence[Piece], sizes: Sequence[int]) -> str:
    if not images:
        return ""

    def grown(x: Piece, group: str, a: int, b: int) -> float:
        return x["ageing"][str(b)][group][0] - x["ageing"][str(a)][group][0]

    parts, first = ["## Images"], images[0]
    for a, b in ((25, 55), (55, 85)):
        truth = grown(first, "exact", a, b)
        read = np.mean([grown(x, "subjects", a, b) for x in images])
        parts += [
            f"Growth of the ventricles from {a} to {b} years, sex F, diagnosis CN, in mL, read off "
            f"100 images an age. Truth: {truth:.1f}; read off as many new subjects: {read:.1f}.",
            _table(images, sizes, lambda x, a=a, b=b: grown(x, "images", a, b), ".1f"),
        ]
    floor = np.mean([x["frechet floor"] for x in images])
    parts += [
        "Frechet distance of GIST features of 500 generated slices to new subjects; of 500 other "
        f"new subjects: {floor:.3f}.",
        _table(images, sizes, lambda x: x["frechet"]),
        "AUC of telling training from new subjects (0.5: nothing leaks), by the denoiser's loss of "
        "the image, and by the squared error of the age given the image.",
        _table(images, sizes, lambda x: x["membership AUC"].get("image")),
        _table(images, sizes, lambda x: x["membership AUC"].get("age")),
    ]
    return "\n\n".join(parts)


def _cost(every: Sequence[Piece]) -> str:
    if not every:
        return ""
    sizes = sorted({x["n"] for x in every})
    table = _table(every, sizes, lambda x: x["seconds"] / 60 if "questions" in x else None, ".1f")
    about = "Minutes by the clock, one thread a piece, training and answers together."
    return f"## Cost\n\n{about}\n\n{table}"


def _missing(scores: Sequence[Piece], images: Sequence[Piece]) -> str:
    """What the plan holds and was not run."""
    lines = []
    for system, (name, *_) in SHOWN.items():
        left = []
        for n in SIZES:
            want = SEEDS if n <= 1000 else 1
            have = sum((x["system"], x["n"]) == (system, n) for x in scores)
            if have < want:
                left.append(f"n = {n:,}" + (f" ({have} of {want} seeds)" if have else ""))
        if left:
            lines.append(f"- {name}: {', '.join(left)}.")
    if not images:
        lines.append("- Ageing, Frechet distance and membership.")
    lines.append("- The search of the paper engine's own settings (12 trials at n = 1,000).")
    return "## What was not run\n\n" + "\n".join(lines)


def _draw(scores: Sequence[Piece], path: Path) -> None:
    """Excess against n, both axes logarithmic; bars from the least to the greatest seed."""
    sizes = sorted({x["n"] for x in scores})
    with plt.rc_context({**STYLE, "svg.hashsalt": "scaling"}):
        figure, axes = plt.subplots(2, 2, figsize=(8.4, 6.6), layout="constrained", sharex=True)
        for ax, (question, unit) in zip(axes.flat, QUESTIONS.items(), strict=True):
            for system, (name, colour, marker) in SHOWN.items():
                found = {n: _values(scores, system, n, excess(question)) for n in sizes}
                found = {n: x for n, x in found.items() if x}
                if not found:
                    continue
                values = [*found.values()]
                mean = np.array([np.mean(v) for v in values])
                ends = np.abs([[m - min(v), max(v) - m] for m, v in zip(mean, values, strict=True)])
                style = {"color": colour, "marker": marker, "ms": 5, "lw": 1.4, "capsize": 2}
                ax.errorbar([*found], mean, ends.T, label=name, **style)
            ax.set(xscale="log", yscale="log", title=question, ylabel=f"excess {unit}")
            ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_minor_formatter(NullFormatter())
        for ax in axes[1]:
            ax.set_xlabel("training subjects")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=3)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        plt.close(figure)
