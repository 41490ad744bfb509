"""An experiment's tables: the paper's Table 1 and Table 2, the ablations, and every measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import combine_pvalues

from metavoxel.evaluation.measures import HEADLINE, MEASURES, Measure
from metavoxel.evaluation.scores import Score
from metavoxel.inference.query import parse_question
from metavoxel.schema import Schema

Row = Mapping[str, Any]  # of results.scored

TITLES = MEASURES | {
    "variance": Measure("mean variance", "mean of the stated variance of the answers")
}
_IMAGE_MEASURES = {
    "frechet": "Fréchet distance",
    "frechet_training": "Fréchet distance of training images",
    "mmd": "MMD",
    "mmd_training": "MMD of training images",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "ms_ssim": "MS-SSIM",
    "ms_ssim_real": "MS-SSIM of real images",
}
_OF_TABLE_1 = ("frechet", "mmd")
_COPIES = {"flagged": "flagged as copies", "expected_flagged": "expected by chance"}
_NEAREST = {
    "share": "nearest is a training subject",
    "expected": "expected without memorisation",
    "p": "p of that share",
}


def first_questions(rows: Sequence[Row]) -> dict[str, str]:
    """The first question that asks each scalar: those of Table 1."""
    out: dict[str, str] = {}
    for row in rows:
        out.setdefault(row["variable"], row["question"])
    return out


def table_1(rows: Sequence[Row], images: Sequence[Row]) -> list[list[str]]:
    """Systems down; image measures, then the headline of the first question of each scalar."""
    asked = first_questions(rows)
    drawn = {(row["system"], k): row[k] for row in images for k in _OF_TABLE_1 if k in row}
    measured = [k for k in _OF_TABLE_1 if any(key == k for _, key in drawn)]
    found = {(r["system"], r["variable"]): r for r in rows if asked[r["variable"]] == r["question"]}
    systems = dict.fromkeys([*(r["system"] for r in rows), *(r["system"] for r in images)])
    head = ["system", *(image_title(k, images) for k in measured)]
    head += [f"{question}, {_title(found, v)}" for v, question in asked.items()]
    out = [head]
    for system in systems:
        cells = [_figure(drawn.get((system, k))) for k in measured]
        cells += [_headline(found.get((system, v))) for v in asked]
        if any(x != "–" for x in cells):
            out.append([system, *cells])
    return out


def _title(found: Mapping[tuple[str, str], Row], name: str) -> str:
    scores = next(r["scores"] for (_, v), r in found.items() if v == name)
    return "MAE ± SD" if "mae" in scores else "accuracy"


def _headline(row: Row | None) -> str:
    """ "4.50 ± 3.46 [4.1, 4.9]", as the paper writes it, with our interval."""
    if row is None:
        return "–"
    name = next(k for k in HEADLINE if k in row["scores"])
    score = Score.from_json(row["scores"][name])
    text = f"{score.value:.3g}"
    if name == "mae":
        text += f" ± {row['scores']['mae_sd']['value']:.3g}"
    return text if np.isnan(score.low) else f"{text} [{score.low:.3g}, {score.high:.3g}]"


def _figure(score: Mapping[str, Any] | None) -> str:
    return "–" if score is None else str(Score.from_json(dict(score)))


def table_2(rows: Sequence[Row], schema: Schema) -> Iterator[tuple[str, list[list[str]]]]:
    """For each continuous variable that is asked in several ways: systems and questions down;
    error, mean variance and their ratio."""
    for v in schema.numbers:
        mine = [r for r in rows if r["variable"] == v]
        if len({r["question"] for r in mine}) < 2:
            continue
        out = [["given", "system", "n", "MAE ± SD", "mean variance", "variance / squared error"]]
        for row in mine:
            given = ", ".join(parse_question(row["question"]).given) or "nothing"
            rest = [_figure(row["scores"].get(k)) for k in ("variance", "dispersion")]
            out.append([given, row["system"], str(row["n"]), _headline(row), *rest])
        yield v, out


def gains_table(rows: Sequence[Row], reference: str) -> list[list[str]]:
    """By how much the reference is better, question by question."""
    questions = list(dict.fromkeys((r["question"], r["variable"]) for r in rows))
    found = {(r["system"], r["question"], r["variable"]): r["gain"] for r in rows}
    out = [["over", *(f"{v} of {q}" if "," in q.split("|")[0] else q for q, v in questions)]]
    for system in dict.fromkeys(r["system"] for r in rows if r["system"] != reference):
        cells = [_figure(found.get((system, *each))) for each in questions]
        out.append([system, *cells])
    return out


def folds_table(rows: Sequence[Row]) -> list[list[str]]:
    """The headline of every fold and seed on its own, its mean and standard deviation."""
    runs = max((len(r["runs"]) for r in rows), default=0)
    out = [["question", "variable", "system", *(f"run {i + 1}" for i in range(runs)), "mean ± SD"]]
    for row in rows:
        each = row["runs"]
        cells = [f"{x:.3g}" for x in each] + ["–"] * (runs - len(each))
        out.append([row["question"], row["variable"], row["system"], *cells, _mean(each)])
    return out


def _mean(each: Sequence[float]) -> str:
    """Of several runs, with the standard deviation."""
    return f"{np.mean(each):.3g} ± {np.std(each, ddof=1):.2g}" if len(each) > 1 else "–"


def measures_tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[list[str]]]]:
    """Every measure of a question, by variable: measures down, systems across."""
    for question, v in dict.fromkeys((r["question"], r["variable"]) for r in rows):
        mine = [r for r in rows if (r["question"], r["variable"]) == (question, v)]
        out = [["n = " + str(mine[0]["n"]), *(r["system"] for r in mine)]]
        for name, measure in TITLES.items():
            if any(name in r["scores"] for r in mine):
                out.append([measure.title, *(_figure(r["scores"].get(name)) for r in mine)])
        title = f"{v} of {question}" if "," in question.split("|")[0] else question
        yield title, out


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of text as Markdown."""
    head, *rows = [[x.replace("|", "\\|") for x in line] for line in lines]
    out = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(out + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def as_csv(rows: Sequence[Row]) -> Iterator[Sequence[object]]:
    """A header, then a row per question, variable, system and measure."""
    yield "question", "variable", "system", "measure", "value", "low", "high", "n"
    for row in rows:
        for name, score in row["scores"].items():
            ends = ["n/a" if score[k] is None else score[k] for k in ("value", "low", "high")]
            yield row["question"], row["variable"], row["system"], name, *ends, score["n"]


def images_table(images: Sequence[Row]) -> list[list[str]]:
    """Every measure of generated images: systems down, and groups of subjects, if there are any."""
    names = list(dict.fromkeys(k for row in images for k, x in row.items() if _is_score(x)))
    about = [k for k in ("system", "question", "group", "n") if any(k in row for row in images)]
    titles = ["model" if k == "system" else k for k in about]
    out = [[*titles, *(image_title(name, images) for name in names)]]
    for row in images:
        out.append([*(str(row[k]) for k in about), *(_figure(row.get(name)) for name in names)])
    return out


def image_title(name: str, images: Sequence[Row]) -> str:
    """What a measure of images is called: a distance of Gaussians by the features that it is of."""
    title = _IMAGE_MEASURES.get(name, name)
    extractors = [row["extractor"] for row in images if "extractor" in row]
    return f"{title} ({extractors[0]} features)" if name == "frechet" and extractors else title


def memory_table(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Copies among the generated images of a model, and how well training subjects are told, down;
    runs across, and all of them: copies added up, p-values combined, means of the rest."""
    runs = [*found.values()]
    out = [["", *found, *(["all"] if len(runs) > 1 else [])]]

    def add(title: str, each: Sequence[Any], of_all: str, shown: Callable[[Any], str]) -> None:
        out.append([title, *map(shown, each), *([of_all] if len(runs) > 1 else [])])

    for people in ("training", "held_out"):
        add(f"{people.replace('_', ' ')} subjects", [run[people] for run in runs], "–", str)
    for space in runs[0]["spaces"]:
        seen = [run["spaces"][space] for run in runs]
        for key, title in _COPIES.items():
            flagged = [x[key] for x in seen]
            add(f"{title}, {space}", flagged, f"{sum(flagged):.3g}", "{:.3g}".format)
        for key, title in _NEAREST.items():
            near = [x["nearest_is_training"][key] for x in seen]
            of_all = f"{_combined(near):.3g}" if key == "p" else _mean(near)
            add(f"{title}, {space}", near, of_all, "{:.3g}".format)
    for kind, said in (("membership_auc", "error of the"), ("answers_auc", "answer of")):
        for key in runs[0][kind]:
            aucs = [run[kind][key] for run in runs]
            add(f"AUC by the {said} {key}", aucs, _mean([x["value"] for x in aucs]), _figure)
    return out


def _combined(p_values: Sequence[float]) -> float:
    """One p-value of several (Stouffer et al., 1949), as if the runs had no subjects in common."""
    return float(np.asarray(combine_pvalues(p_values, method="stouffer"))[1])


def _is_score(value: object) -> bool:
    return isinstance(value, dict) and "value" in value
