"""The page of a report: tables and figures of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metavoxel.evaluation.coherence import coherence_rows
from metavoxel.evaluation.figures import variable
from metavoxel.evaluation.figures.style import palette, svg, variable_text
from metavoxel.evaluation.groups import groups_html
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
from metavoxel.files.html import (
    Html,
    element,
    facts,
    join,
    picture,
    small_interval,
    table,
    write_page,
)

_SHOWN_LEVEL = 0.9
_FEW = 100  # validation records: a 90 % interval then holds 84 to 95 % in most validation sets


def write_report_page(
    out: Path, evaluation: Evaluation, report: Mapping[str, Any], montages: Mapping[str, Path]
) -> None:
    """Write report.html with everything inside it. `montages` are PNG files."""
    title = f"Evaluation: {', '.join(evaluation.schema.scalars)} from the image"
    body = [
        element("h1", "Evaluation"),
        _lead(report),
        element("nav", *(_link(v) for v in report["scores"])),
        element("h2", "Mean absolute error and accuracy"),
        _overview(evaluation, report),
        element("h2", "Compared on the same records"),
        _gains(report),
        *_variables(evaluation, report),
        groups_html(report),
        _coherence(report),
        element("h2", "Images"),
        _soft("Unseen images, their reconstructions, and unconditional images."),
        *(
            picture(f"{v}: unseen, autoencoded and generated", path.read_bytes())
            for v, path in montages.items()
        ),
        element("h2", "How it was measured"),
        _methods(evaluation),
        _facts(report),
        _soft(
            "Not a medical device. The same figures stand in report.json and scores.csv, every "
            "answer in answers.csv."
        ),
    ]
    write_page(out / "report.html", title, body)


def _soft(text: str) -> Html:
    return element("p", text, class_="soft")


def _link(name: str) -> Html:
    return element("a", name, href=f"#{name}")


def _lead(report: Mapping[str, Any]) -> Html:
    said = (
        f" on {report['test_records']} records of {report['test_subjects']} subjects: "
        f"{report['people']}."
    )
    notes = [element("li", note) for note in report["left_out"]]
    listed = element("ul", *notes, class_="soft") if notes else ""
    return join(element("p", element("code", report["question"]), said), listed)


def _facts(report: Mapping[str, Any]) -> Html:
    seconds = ", ".join(f"{k} {x:.3g} s" for k, x in report["seconds_per_record"].items())
    about = {
        "model": f"{report['model']} (weights {report['weights'][:12]})",
        "cohort": str(report["cohort"]),
        "baselines": f"trained on {report['training_records']} records"
        if report["training_records"]
        else "none: the model's training subjects are not in this cohort",
        "time a record": seconds,
        "made": f"{report['date']}, seed {report['seed']}, metavoxel {report['metavoxel']}, "
        f"torch {report['torch']}",
    }
    return facts(about)


def _overview(evaluation: Evaluation, report: Mapping[str, Any]) -> Html:
    scores = report["scores"]
    systems = [s for s in evaluation.systems if any(s in each for each in scores.values())]
    rows = []
    for v, by_system in scores.items():
        measure = "MAE" if v in evaluation.schema.numbers else "accuracy"
        unit = _unit(evaluation, v)
        measure = f"{measure}, {unit}" if unit and measure == "MAE" else measure
        cells = [str(headline(by_system[s])) if s in by_system else "–" for s in systems]
        rows.append([_link(v), measure, str(count(by_system)), *cells])
    return table(["variable", "measure", "n", *systems], rows)


def _gains(report: Mapping[str, Any]) -> Html:
    gains, reference = report["gains"], report["reference"]
    systems = list(dict.fromkeys(s for each in gains.values() for s in each))
    if not systems:
        return element("p", f"There is no system beside {reference}.")
    rows = []
    for v, each in gains.items():
        cells = [_gain(Score.from_json(each[s])) if s in each else "–" for s in systems]
        rows.append([v, str(next(iter(each.values()))["n"]) if each else "", *cells])
    said = element(
        "p",
        "By how much ",
        element("b", reference),
        " has the smaller absolute error, or is right more often, than each other system, record "
        "by record. Above 0 it is the better one; coloured where the interval leaves out 0.",
    )
    return join(said, table(["variable", "n", *(f"over {s}" for s in systems)], rows))


def _gain(score: Score) -> Html:
    sure = "better" if score.low > 0 else "worse" if score.high < 0 else ""
    return element("span", small_interval(str(score)), class_=sure)


def _coherence(report: Mapping[str, Any]) -> Html:
    found = report["coherence"]
    if found is None:
        return Html()
    rows = coherence_rows(found)
    said = (
        "Whether the answers to different questions about a subject agree with one another, and "
        f"whether more information harms. {found['subjects']} subjects, one record each."
    )
    return join(
        element("h2", "Coherence"),
        element("p", said),
        table(["measure", "found"], [(title, figure) for title, figure, _ in rows]),
        facts({title: meaning for title, _, meaning in rows}),
    )


def _variables(evaluation: Evaluation, report: Mapping[str, Any]) -> Iterator[Html]:
    for v, known in known_records(evaluation):
        draw = _continuous if v in evaluation.schema.numbers else _categorical
        pictures = [
            picture(f"{v}: {title}", svg(fig), "svg+xml")
            for title, fig in draw(evaluation, report, v, known).items()
        ]
        yield element(
            "section",
            element("h2", v),
            element("div", *pictures, class_="figures"),
            _caption(evaluation, v),
            _measures(evaluation, report["scores"][v], v),
            id=v,
        )


def _caption(evaluation: Evaluation, name: str) -> Html:
    said = f"Points and intervals are those of {evaluation.reference}."
    if name in evaluation.calibrations:
        n = evaluation.calibrations[name].n
        said += f" Conformal intervals and the bias correction come from {n} validation records."
        if n < _FEW:
            said += " That is few: another validation set would give other ones."
    return _soft(said)


def _continuous(
    evaluation: Evaluation, report: Mapping[str, Any], name: str, known: Known
) -> dict[str, Figure]:
    systems = {s: a for s, a in evaluation.systems.items() if name in a.points}
    own, truth = systems[evaluation.reference], known.truth
    point, label = own.points[name][known.rows], variable_text(evaluation.schema, name)
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
    colours = palette(evaluation.reference, evaluation.systems)
    out = {
        "predicted and true": variable.scatter(
            truth, point, (f"true {label}", f"predicted {label}"), title, ends
        ),
        "bias": variable.error_and_truth(truth, point, corrected, label),
    }
    if predictives:
        scores = report["scores"][name][evaluation.reference]
        held = {
            level: scores[f"conformal_{100 * level:g}"]["value"]
            for level in (calibration.quantiles if calibration else ())
            if f"conformal_{100 * level:g}" in scores
        }
        out["coverage"] = variable.coverage_curves(truth, predictives, held, colours)
        out["PIT"] = variable.pit_histograms(report["pit"][name], len(truth), colours)
    return out


def _categorical(
    evaluation: Evaluation, report: Mapping[str, Any], name: str, known: Known
) -> dict[str, Figure]:
    systems = {s: a for s, a in evaluation.systems.items() if name in a.points}
    own, labels = systems[evaluation.reference], evaluation.schema.categorical[name].labels
    point = own.points[name][known.rows]
    probabilities = {s: a.probabilities[name][known.rows] for s, a in systems.items()}
    first = {evaluation.reference: probabilities[evaluation.reference]}
    colours = palette(evaluation.reference, evaluation.systems)
    confidence = first[evaluation.reference][np.arange(len(point)), point.astype(int)]
    return {
        "reliability": variable.reliability((point == known.truth) * 1.0, confidence),
        "ROC": variable.roc_curves(known.truth, first | probabilities, labels, colours),
        "confusion": variable.confusion(known.truth, point, labels),
    }


def _measures(evaluation: Evaluation, by_system: Mapping[str, Any], name: str) -> Html:
    """Measures down, systems across."""
    measured = {m for scores in by_system.values() for m in scores}
    unit, rows = _unit(evaluation, name), []
    for m, measure in MEASURES.items():
        if m in measured:
            title = f"{measure.title}, {unit}" if measure.unit and unit else measure.title
            cells = [str(Score.from_json(x[m])) if m in x else "–" for x in by_system.values()]
            rows.append([element("span", title, title=measure.meaning), *cells])
    return table([f"n = {count(by_system)}", *by_system], rows)


def _methods(evaluation: Evaluation) -> Html:
    fitted = sorted({c.n for c in evaluation.calibrations.values()})
    conformal = (
        "Conformal intervals and the bias correction were fitted on "
        f"{' to '.join(map(str, dict.fromkeys((fitted[0], fitted[-1]))))} records, answered by "
        "networks that were not trained on them: training records by cross-fitting where there "
        "were enough, else validation records, on which the epoch was chosen, too. With n records "
        "the highest level that has an interval is n / (n + 1), and the share it holds varies from "
        "one such set to the next by about sqrt(p (1 - p) / (n + 2)): with few, read it as a check "
        "of the order, no more."
        if fitted
        else "No conformal intervals: the model has none, and its validation subjects are not "
        "here, or it answers by sampling."
    )
    bootstrap = (
        "Brackets hold 95 % percentile bootstrap intervals over subjects (2000 resamples), of "
        "shares of 0 and 1 Wilson's; what another training run would give is not in them. "
        "Probabilities are those of the one evaluation; where a system only samples, one is added "
        "to how often each label was drawn. The intervals of m draws run from the smallest to the "
        "largest at most, which holds (m - 1) / (m + 1); levels beyond that are not reported."
    )
    meanings = facts({m.title: m.meaning for m in MEASURES.values()})
    return join(element("p", bootstrap), element("p", conformal), meanings)


def _unit(evaluation: Evaluation, name: str) -> str:
    return getattr(evaluation.schema[name], "unit", None) or ""
