"""A report as the terminal shows it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metavoxel.evaluation.coherence import coherence_rows
from metavoxel.evaluation.groups import groups_markdown
from metavoxel.evaluation.measures import HEADLINE
from metavoxel.evaluation.scores import Score

_LEVELS = ("50", "80", "90", "95")


def as_markdown(report: Mapping[str, Any]) -> str:
    """Variables down, systems across, 95 % intervals over subjects; then the calibration."""
    scores = report["scores"]
    systems = list(dict.fromkeys(s for by_system in scores.values() for s in by_system))
    lines = [
        f"`{report['question']}` on {report['test_records']} records of {report['people']}.",
        *(f"Left out: {note}." for note in report["left_out"]),
        "Mean absolute error or accuracy, with 95 % bootstrap intervals over subjects.",
        "",
        f"| variable | {' | '.join(systems)} |",
        f"|---|{'---|' * len(systems)}",
    ]
    for v, by_system in scores.items():
        cells = [str(headline(by_system[s])) if s in by_system else "-" for s in systems]
        lines.append(f"| {v} (n = {count(by_system)}) | {' | '.join(cells)} |")
    lines += ["", *_calibration(scores), "", *groups_markdown(report), *_coherence(report)]
    seconds = ", ".join(f"{s}: {x:.3g} s" for s, x in report["seconds_per_record"].items())
    return "\n".join([*lines, f"Time per record: {seconds}.", ""])


def _coherence(report: Mapping[str, Any]) -> list[str]:
    if report["coherence"] is None:
        return []
    lines = ["| coherence | found |", "|---|---|"]
    for title, found, _ in coherence_rows(report["coherence"]):
        said = found.replace("|", "\\|")
        lines.append(f"| {title} | {said} |")
    return [*lines, ""]


def _calibration(scores: Mapping[str, Any]) -> list[str]:
    of = " / ".join(_LEVELS)
    lines = [
        f"| variable | system | variance / squared error | coverage {of} % | conformal {of} % |",
        "|---|---|---|---|---|",
    ]
    for v, by_system in scores.items():
        for system, values in by_system.items():
            covered, conformal = (_shares(values, kind) for kind in ("coverage", "conformal"))
            if "dispersion" in values or conformal:
                spread = values.get("dispersion", {}).get("value")
                cells = "-" if spread is None else f"{spread:.2f}"
                lines.append(
                    f"| {v} | {system} | {cells} | {covered or '-'} | {conformal or '-'} |"
                )
    return lines


def _shares(values: Mapping[str, Any], kind: str) -> str:
    each = [values.get(f"{kind}_{level}") for level in _LEVELS]
    return " / ".join("-" if x is None else f"{x['value']:.2f}" for x in each) if any(each) else ""


def headline(values: Mapping[str, Any]) -> Score:
    """The first measure of a system's answers: mean absolute error, or accuracy."""
    return Score.from_json(next(values[name] for name in HEADLINE if name in values))


def count(by_system: Mapping[str, Any]) -> int:
    """How many records know a variable."""
    return headline(next(iter(by_system.values()))).n
