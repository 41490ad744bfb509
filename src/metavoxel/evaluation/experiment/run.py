"""An experiment from its file to its page, in pieces that are done once."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.experiment import tables
from metavoxel.evaluation.experiment.anatomy import (
    anatomy_rows,
    anatomy_table,
    check_anatomy,
    reading,
)
from metavoxel.evaluation.experiment.coherent import coherence_table, coherences, judging
from metavoxel.evaluation.experiment.config import Simulation, read_experiment
from metavoxel.evaluation.experiment.drawings import figures_of
from metavoxel.evaluation.experiment.generated import (
    group_rows,
    image_rows,
    measuring,
    memories,
    pairs_drawn,
)
from metavoxel.evaluation.experiment.pieces import Pieces, helpers
from metavoxel.evaluation.experiment.results import collect, scored
from metavoxel.evaluation.experiment.verdicts import verdict_rows, verdict_table
from metavoxel.evaluation.experiment.work import Experiment, work
from metavoxel.evaluation.figures.style import save_png
from metavoxel.files.html import Html, element, facts, picture, table, write_page
from metavoxel.files.owned import holding
from metavoxel.files.writing import atomic_write
from metavoxel.model_files import json_text
from metavoxel.terminal import sentences
from metavoxel.version import __version__

_MOST_JOBS = 256  # processes
_FOLDERS = ("cohort/", "models/", "specialists/", "answers/", "images/", "pieces/", "figures/")
_WRITTEN = (*_FOLDERS, "report.html", "report.md", "report.json", "scores.csv")


def experiment(
    path: Path, out: Path, console: Console, report_only: bool = False, jobs: int = 1
) -> str:
    """Do what is left of an experiment and write its report to `out`; returns it as Markdown.

    Writes report.html, report.md, report.json, scores.csv and the figures as PNG. `jobs` processes
    share the work and the cores. With `report_only` nothing is trained or asked: what is done so
    far is reported. Raises MetaVoxelError for anything wrong with the file or the data.
    """
    this = Experiment(read_experiment(path), Path(path).parent, Path(out))
    this.check(str(path))
    check_anatomy(this)
    if not 1 <= jobs <= _MOST_JOBS:
        raise MetaVoxelError(f"--jobs is {jobs}; choose 1 to {_MOST_JOBS}.")
    with _sharing(this.out):
        if not report_only:
            with helpers(jobs, _help, path, out):
                _pieces(this).run(console)
        console.print("Scoring")
        return _report(this, _pieces(this))


@contextmanager
def _sharing(out: Path) -> Iterator[None]:
    """Hold the folder of an experiment together with other processes that work on it.

    Raises MetaVoxelError if it holds anything else.
    """
    with holding(out, "experiment", shared=True) as place:
        place.add(*_WRITTEN)
        yield


def _pieces(this: Experiment) -> Pieces:
    return Pieces(this.pieces, [*work(this), *judging(this), *measuring(this), *reading(this)])


def _help(path: Path, out: Path) -> None:
    """Do pieces beside another process, which reports them."""
    this = Experiment(read_experiment(path), Path(path).parent, Path(out))
    with sentences(), _sharing(this.out):
        _pieces(this).run(Console(stderr=True, force_terminal=False))


def _report(this: Experiment, pieces: Pieces) -> str:
    answers = collect(this)
    rows, verdicts = scored(this, answers), verdict_rows(this, answers)
    images = image_rows(this)
    report = {
        "title": this.config.title,
        "cohort": _cohort(this),
        "runs": [str(run) for run in this.runs],
        "reference": this.config.reference,
        "answers": rows,
        "verdicts": verdicts,
        "coherence": coherences(this),
        "images": images,
        "images_by_group": group_rows(this),
        "anatomy": anatomy_rows(this),
        "memorisation": memories(this),
        "seconds": pieces.seconds(),
        "left": [p.name for p in pieces.pieces if not pieces.done(p)],
        "date": time.strftime("%Y-%m-%d"),
        "metavoxel": __version__,
        "torch": torch.__version__,
    }
    found = _tables(this, rows, images)
    if verdicts:
        found[f"Verdicts on {this.config.reference}"] = verdict_table(verdicts)
    drawn = {}
    for title, fig in figures_of(this, rows, images).items():
        drawn[title] = this.out / "figures" / f"{title}.png"
        save_png(fig, drawn[title])
    for name, path in pairs_drawn(this).items():
        drawn[f"Images of {name} beside the nearest training images"] = path
    with atomic_write(this.out / "scores.csv") as temporary, temporary.open("w") as file:
        csv.writer(file, lineterminator="\n").writerows(tables.as_csv(rows))
    text = _markdown(report, found)
    with atomic_write(this.out / "report.md") as temporary:
        temporary.write_text(text)
    write_page(this.out / "report.html", this.config.title, _body(report, found, drawn))
    with atomic_write(this.out / "report.json") as temporary:
        temporary.write_text(json_text(report, indent=1))
    return text


def _cohort(this: Experiment) -> str:
    cohort = this.config.cohort
    if isinstance(cohort, Simulation):
        kind = "slices" if cohort.slices else "volumes"
        return f"{cohort.subjects} simulated {kind}, seed {cohort.seed}"
    return str(cohort)


Table = list[list[str]]


def _tables(
    this: Experiment, rows: Sequence[tables.Row], images: Sequence[tables.Row]
) -> dict[str, Table]:
    """The tables of the report, by title."""
    if not rows:
        return {}
    first = {p.training: name for name, p in reversed(this.config.systems.items())}
    named = [{**row, "system": first.get(row["system"], row["system"])} for row in images]
    out = {"Table 1: every system": tables.table_1(rows, named)}
    reference = this.config.reference
    if any(r["gain"] for r in rows):
        title = f"By how much {reference} is better, record by record"
        out[title] = tables.gains_table(rows, reference)
    for v, lines in tables.table_2(rows, this.schema):
        out[f"Table 2: {v} from what is known"] = lines
    if len(this.runs) > 1:
        out["Every fold and seed on its own"] = tables.folds_table(rows)
    for name, found in coherences(this).items():
        out[f"Coherence of {name}"] = coherence_table(found)
    if images:
        out["Generated images"] = tables.images_table(images)
    if by_group := group_rows(this):
        out["Images that were asked for, by group"] = tables.images_table(by_group)
    if anatomy := anatomy_rows(this):
        out[f"Anatomy along {anatomy[0]['along']}"] = anatomy_table(anatomy)
    for name, found in memories(this).items():
        out[f"Does {name} remember its training images"] = tables.memory_table(found)
    return out


def _markdown(report: Mapping[str, Any], found: Mapping[str, Table]) -> str:
    lines = [f"# {report['title']}", "", _lead(report), ""]
    for title, cells in found.items():
        lines += [f"## {title}", "", tables.as_markdown(cells)]
    return "\n".join(lines)


def _lead(report: Mapping[str, Any]) -> str:
    first, *others = report["runs"]
    runs = f"{1 + len(others)} runs, {first} to {others[-1]}" if others else first
    text = (
        f"{report['cohort']}; {runs}. Mean absolute error ± standard deviation of the error, or "
        "accuracy, with 95 % bootstrap intervals over subjects."
    )
    if report["left"]:
        text += f" Unfinished: {len(report['left'])} pieces are left."
    return text


def _body(
    report: Mapping[str, Any], found: Mapping[str, Table], drawn: Mapping[str, Path]
) -> Iterator[Html]:
    """`drawn` are the PNG files of the figures, by title."""
    yield element("h1", report["title"])
    yield element("p", _lead(report))
    for title, lines in found.items():
        yield element("section", element("h2", title), table(lines[0], lines[1:]))
    for title, path in drawn.items():
        yield element("section", element("h2", title), picture(title, path.read_bytes()))
    details = [
        part
        for title, lines in tables.measures_tables(report["answers"])
        for part in (element("h3", title), table(lines[0], lines[1:]))
    ]
    summary = element("summary", "Every measure of every question")
    yield element("details", summary, *details)
    total = sum(report["seconds"].values()) / 60
    yield facts(
        {
            "made": f"{report['date']}, metavoxel {report['metavoxel']}, torch {report['torch']}",
            "time": f"{len(report['seconds'])} pieces, {total:.0f} minutes in all",
        }
    )
    yield element("p", "The same figures stand in report.json and scores.csv.", class_="soft")
