"""The page of a report: tables and figures of one model."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metavoxel.evaluation import plots
from metavoxel.evaluation.coherence import coherence_rows
from metavoxel.evaluation.groups import groups_html
from metavoxel.evaluation.hypertext import cell, facts, picture, table, write_html
from metavoxel.evaluation.markdown import count, headline
from metavoxel.evaluation.measures import MEASURES
from metavoxel.evaluation.scores import Score
from metavoxel.evaluation.scoring import (
    Evaluation,
    Known,
    known_records,
    predictive_for,
    spread_of,
)

_SHOWN_LEVEL = 0.9
_FEW = 100  # validation records: a 90 % interval then holds 84 to 95 % in most validation sets


def write_page(
    out: Path, evaluation: Evaluation, report: Mapping[str, Any], montages: Mapping[str, Figure]
) -> None:
    """Write report.html. The figures are inside it, and are closed."""
    links = "".join(f'<a href="#{v}">{v}</a>' for v in report["scores"])
    drawn = "".join(
        picture(f"{v}: unseen, autoencoded and generated", fig, "png", 'class="wide"')
        for v, fig in montages.items()
    )
    body = [
        "<h1>Evaluation</h1>",
        _lead(report),
        f"<nav>{links}</nav>",
        "<h2>Mean absolute error and accuracy</h2>",
        _overview(evaluation, report),
        "<h2>Compared on the same records</h2>",
        _gains(report),
        *_variables(evaluation, report),
        groups_html(report),
        _coherence(report),
        "<h2>Images</h2>",
        '<p class="soft">Unseen images, their reconstructions, and unconditional images.</p>',
        drawn,
        "<h2>How it was measured</h2>",
        _methods(evaluation, report),
        _facts(report),
        '<p class="soft">Not a medical device. The same figures stand in report.json and '
        "scores.csv, every answer in answers.csv.</p>",
    ]
    title = f"Evaluation: {', '.join(evaluation.schema.scalars)} from the image"
    write_html(out / "report.html", title, "\n".join(body))


def _lead(report: Mapping[str, Any]) -> str:
    said = (
        f"<code>{html.escape(report['question'])}</code> on {report['test_records']} records of "
        f"{report['test_subjects']} subjects: {html.escape(report['people'])}."
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report["left_out"])
    return f"<p>{said}</p>" + (f"<ul class='soft'>{notes}</ul>" if notes else "")


def _facts(report: Mapping[str, Any]) -> str:
    seconds = ", ".join(f"{k} {x:.3g} s" for k, x in report["seconds_per_record"].items())
    about = {
        "model": f"{report['model']} (weights {report['weights'][:12]})",
        "cohort": report["cohort"],
        "baselines": f"trained on {report['training_records']} records"
        if report["training_records"]
        else "none: the model's training subjects are not in this cohort",
        "time a record": seconds,
        "made": f"{report['date']}, seed {report['seed']}, metavoxel {report['metavoxel']}, "
        f"torch {report['torch']}",
    }
    return facts([(k, str(x)) for k, x in about.items()])


def _overview(evaluation: Evaluation, report: Mapping[str, Any]) -> str:
    scores = report["scores"]
    systems = [s for s in evaluation.systems if any(s in each for each in scores.values())]
    rows = []
    for v, by_system in scores.items():
        measure = "MAE" if v in evaluation.schema.numbers else "accuracy"
        unit = _unit(evaluation, v)
        measure = f"{measure}, {unit}" if unit and measure == "MAE" else measure
        cells = [cell(headline(by_system[s])) if s in by_system else "–" for s in systems]
        rows.append(
            [f'<a href="#{v}">{v}</a>', html.escape(measure), str(count(by_system)), *cells]
        )
    return table(["variable", "measure", "n", *map(html.escape, systems)], rows)


def _gains(report: Mapping[str, Any]) -> str:
    gains, reference = report["gains"], html.escape(report["reference"])
    systems = list(dict.fromkeys(s for each in gains.values() for s in each))
    if not systems:
        return f"<p>There is no system beside {reference}.</p>"
    rows = []
    for v, each in gains.items():
        cells = []
        for s in systems:
            score = Score.from_json(each[s]) if s in each else None
            sure = score and ("better" * (score.low > 0) or "worse" * (score.high < 0))
            cells.append(f'<span class="{sure}">{cell(score)}</span>' if score else "–")
        rows.append([html.escape(v), str(next(iter(each.values()))["n"]) if each else "", *cells])
    compared = table(["variable", "n", *(f"over {html.escape(s)}" for s in systems)], rows)
    return (
        f"<p>By how much <b>{reference}</b> has the smaller absolute error, or is right more "
        "often, than each other system, record by record. Above 0 it is the better one; coloured "
        f"where the interval leaves out 0.</p>{compared}"
    )


def _coherence(report: Mapping[str, Any]) -> str:
    found = report["coherence"]
    if found is None:
        return ""
    rows = coherence_rows(found)
    measured = [[html.escape(title), html.escape(figure)] for title, figure, _ in rows]
    return (
        "<h2>Coherence</h2><p>Whether the answers to different questions about a subject agree "
        f"with one another, and whether more information harms. {found['subjects']} subjects, one "
        f"record each.</p>{table(['measure', 'found'], measured)}"
        f"{facts([(title, meaning) for title, _, meaning in rows])}"
    )


def _variables(evaluation: Evaluation, report: Mapping[str, Any]) -> Iterator[str]:
    for v, known in known_records(evaluation):
        draw = _continuous if v in evaluation.schema.numbers else _categorical
        pictures = "".join(
            picture(f"{v}: {title}", fig, "svg")
            for title, fig in draw(evaluation, report, v, known).items()
        )
        yield (
            f'<section id="{v}"><h2>{v}</h2><div class="figures">{pictures}</div>'
            f"{_caption(evaluation, v)}{_measures(evaluation, report['scores'][v], v)}</section>"
        )


def _caption(evaluation: Evaluation, name: str) -> str:
    said = f"Points and intervals are those of {evaluation.reference}."
    if name in evaluation.calibrations:
        n = evaluation.calibrations[name].n
        said += f" Conformal intervals and the bias correction come from {n} validation records."
        if n < _FEW:
            said += " That is few: another validation set would give other ones."
    return f'<p class="soft">{html.escape(said)}</p>'


def _continuous(
    evaluation: Evaluation, report: Mapping[str, Any], name: str, known: Known
) -> dict[str, Figure]:
    systems = {s: a for s, a in evaluation.systems.items() if name in a.points}
    own, truth = systems[evaluation.reference], known.truth
    point, unit = own.points[name][known.rows], _unit(evaluation, name)
    label = f"{name} ({unit})" if unit else name
    calibration = evaluation.calibrations.get(name)
    drawn = {s: predictive_for(a, name, known.rows) for s, a in systems.items()}
    predictives = {s: p for s, p in drawn.items() if p is not None}
    ends, kind = None, ""
    if calibration is not None and np.isfinite(calibration.quantiles[_SHOWN_LEVEL]):
        spread = spread_of(own, name, known.rows)
        ends = calibration.interval(point, spread, _SHOWN_LEVEL)
        kind = "Conformal 90 %"
    elif (predictive := predictives.get(evaluation.reference)) is not None:
        ends, kind = predictive.interval(_SHOWN_LEVEL), "Stated 90 %"
    title = f"Predicted and true (n = {len(truth)})"
    if ends is not None:
        inside = int(((truth >= ends[0]) & (truth <= ends[1])).sum())
        title = f"{kind} intervals hold {inside} of {len(truth)}"
    corrected = None if calibration is None else calibration.corrected(point)
    colours = plots.palette(evaluation.reference, evaluation.systems)
    out = {
        "predicted and true": plots.predicted_and_true(truth, point, ends, label, title),
        "bias": plots.error_and_truth(truth, point, corrected, label),
    }
    if predictives:
        scores = report["scores"][name][evaluation.reference]
        held = {
            level: scores[f"conformal_{100 * level:g}"]["value"]
            for level in (calibration.quantiles if calibration else ())
            if f"conformal_{100 * level:g}" in scores
        }
        out["coverage"] = plots.coverage_curves(truth, predictives, held, colours)
        out["PIT"] = plots.pit_histograms(report["pit"][name], len(truth), colours)
    return out


def _categorical(
    evaluation: Evaluation, report: Mapping[str, Any], name: str, known: Known
) -> dict[str, Figure]:
    systems = {s: a for s, a in evaluation.systems.items() if name in a.points}
    own, labels = systems[evaluation.reference], evaluation.schema.categorical[name].labels
    point = own.points[name][known.rows]
    probabilities = {s: a.probabilities[name][known.rows] for s, a in systems.items()}
    first = {evaluation.reference: probabilities[evaluation.reference]}
    colours = plots.palette(evaluation.reference, evaluation.systems)
    confidence = first[evaluation.reference][np.arange(len(point)), point.astype(int)]
    return {
        "reliability": plots.reliability((point == known.truth) * 1.0, confidence),
        "ROC": plots.roc_curves(known.truth, first | probabilities, labels, colours),
        "confusion": plots.confusion(known.truth, point, labels),
    }


def _measures(evaluation: Evaluation, by_system: Mapping[str, Any], name: str) -> str:
    """Measures down, systems across."""
    measured = {m for scores in by_system.values() for m in scores}
    unit, rows = _unit(evaluation, name), []
    for m, measure in MEASURES.items():
        if m in measured:
            title = f"{measure.title}, {unit}" if measure.unit and unit else measure.title
            cells = [cell(Score.from_json(x[m])) if m in x else "–" for x in by_system.values()]
            tip = html.escape(measure.meaning)
            rows.append([f'<span title="{tip}">{html.escape(title)}</span>', *cells])
    n = count(by_system)
    return table([f"n = {n}", *map(html.escape, by_system)], rows)


def _methods(evaluation: Evaluation, report: Mapping[str, Any]) -> str:
    meanings = "".join(
        f"<dt>{html.escape(m.title)}</dt><dd>{html.escape(m.meaning)}</dd>"
        for m in MEASURES.values()
    )
    fitted = sorted({c.n for c in evaluation.calibrations.values()})
    conformal = (
        "<p>Conformal intervals and the bias correction were fitted on "
        f"{' to '.join(map(str, dict.fromkeys((fitted[0], fitted[-1]))))} records, answered by "
        "networks that were not trained on them: training records by cross-fitting where there "
        "were enough, else validation records, on which the epoch was chosen, too. With n records "
        "the highest level that has an interval is n / (n + 1), and the share it holds varies from "
        "one such set to the next by about sqrt(p (1 - p) / (n + 2)): with few, read it as a check "
        "of the order, no more.</p>"
        if fitted
        else "<p>No conformal intervals: the model has none, and its validation subjects are not "
        "here, or it answers by sampling.</p>"
    )
    return (
        "<p>Brackets hold 95 % percentile bootstrap intervals over subjects (2000 resamples), of "
        "shares of 0 and 1 Wilson's; what "
        "another training run would give is not in them. Probabilities are those of the one "
        "evaluation; where a system only samples, one is added to how often each label was drawn. "
        "The intervals of m draws run from the smallest to the largest at most, which holds "
        "(m - 1) / (m + 1); levels beyond that are not reported.</p>"
        f"{conformal}<dl>{meanings}</dl>"
    )


def _unit(evaluation: Evaluation, name: str) -> str:
    return getattr(evaluation.schema[name], "unit", None) or ""
