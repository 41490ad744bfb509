"""A trained model on subjects it never saw: the scalars given the images, beside baselines."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metavoxel.api import Model, load
from metavoxel.data.splits import read_split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.coherence import coherence
from metavoxel.evaluation.cohort import (
    Parts,
    Table,
    as_table,
    check_preparation,
    has_images,
    identity,
    join,
    read_parts,
)
from metavoxel.evaluation.figures.images import montage
from metavoxel.evaluation.figures.style import save_png
from metavoxel.evaluation.groups import groupings, score_groups
from metavoxel.evaluation.law_answers import answers_about
from metavoxel.evaluation.markdown import as_markdown
from metavoxel.evaluation.page import write_report_page
from metavoxel.evaluation.scoring import (
    Evaluation,
    compare_systems,
    pit_of_systems,
    score_systems,
)
from metavoxel.evaluation.systems import (
    ONE,
    Kept,
    SystemAnswers,
    answer,
    answers_at_once,
    baseline_answers,
    model_answers,
)
from metavoxel.files.json import read_model
from metavoxel.files.owned import OwnedFolder, holding
from metavoxel.files.writing import atomic_write
from metavoxel.inference.ask import ask
from metavoxel.inference.calibration import Calibration, calibrate
from metavoxel.inference.limits import check_samples, check_seed
from metavoxel.model import MetaVoxel
from metavoxel.model_files import Calibrations, json_text, read_checksums
from metavoxel.schema import Schema
from metavoxel.version import __version__

COMMAND = "evaluate"  # whose folder it is
_FILES = ("report.html", "report.json", "report.md", "scores.csv", "answers.csv")
_SHOWN = 6  # images in a row of the montage


def evaluate(
    folder: Path,
    bids: Path,
    out: Path,
    samples: int,
    seed: int,
    console: Console,
    any_preparation: bool = False,
    external: bool = False,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """Ask a model for every scalar of subjects it never saw given their images; write the scores.

    Writes report.html, report.json, report.md, scores.csv, answers.csv and a montage of unseen and
    generated images to `out`; what is answered is kept in `out`/answers, so that an interrupted
    evaluation goes on. Scores stand by group of every name in `by`, a variable or a column of the
    tables; by the categorical variables if it is empty. Raises MetaVoxelError if `out` holds
    anything but an evaluation, if the cohort shares subjects with the model's training but none
    with its test subjects (unless `external` says that they are other subjects), or its scans were
    prepared otherwise than the training scans (unless `any_preparation`).
    """
    samples, seed = check_samples(samples, least=1), check_seed(seed)
    with holding(out, COMMAND) as place:  # before anything that takes long
        place.check_free(*_FILES)
        return _evaluated(
            folder, bids, place, samples, seed, console, any_preparation, external, by
        )


def _evaluated(
    folder: Path,
    bids: Path,
    place: OwnedFolder,
    samples: int,
    seed: int,
    console: Console,
    any_preparation: bool,
    external: bool,
    by: Sequence[str],
) -> dict[str, Any]:
    loaded = load(folder, any_preparation=any_preparation)
    parts = read_parts(bids, loaded.schema, read_split(Path(folder) / "split.json"), external)
    table = as_table(parts.test.schema, parts.test)
    if all(np.isnan(x).all() for x in table.scalars.values()):
        raise MetaVoxelError(
            f"{bids}: none of the {len(table)} records to score has a value for any of "
            f"{', '.join(table.scalars)}. Fill in participants.tsv."
        )
    groups = groupings(bids, parts.test.schema, table, by)
    if not any_preparation:
        check_preparation(loaded.preparation, parts.test, table)
    console.print(f"{len(table)} records of {parts.people}", highlight=False, soft_wrap=True)
    for kind, said in (("Warning", parts.warnings), ("Note", parts.left_out)):
        for text in said:
            console.print(f"[yellow]{kind}:[/] {escape(text)}", highlight=False, soft_wrap=True)
    place.add("answers/")
    kept = Kept(place.folder / "answers", _key(Path(folder), parts, table, seed))
    evaluation, training = _answered(
        loaded, Path(folder), parts, table, samples, seed, kept, console
    )
    network = loaded.network
    report = {
        **_about(Path(folder), bids, evaluation, samples, seed),
        "training_records": training,
        "scores": score_systems(evaluation),
        "gains": compare_systems(evaluation),
        "pit": pit_of_systems(evaluation),
        "groups": score_groups(evaluation, groups),
        "coherence": None
        if network.law is None
        else coherence(answers_about(network, table, seed, kept), seed),
        "seconds_per_record": {
            k: v.seconds / len(table) for k, v in evaluation.systems.items() if v.seconds
        },
    }
    _write(place, evaluation, report, _montages(network, table, seed, kept))
    return report


def _answered(
    loaded: Model,
    folder: Path,
    parts: Parts,
    table: Table,
    samples: int,
    seed: int,
    kept: Kept,
    console: Console,
) -> tuple[Evaluation, int]:
    """Every system's answers, and how many records the baselines were trained on."""
    schema, model = parts.test.schema, loaded.network
    fitted = [as_table(schema, c) for c in (parts.training, parts.validation) if has_images(c)]
    systems: dict[str, SystemAnswers] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def progress(system: str, done: int, of: int) -> None:
            if system not in tasks:
                tasks[system] = bars.add_task(system)
            bars.update(tasks[system], completed=done, total=of)

        training = 0
        if has_images(parts.training):
            known = fitted[0] if len(fitted) == 1 else join(*fitted)
            training = len(known)
            systems |= baseline_answers(schema, known, table, kept, progress)
        answered = model_answers(model, [*schema.scalars], table, samples, seed, kept, progress)
    systems |= answered
    for system, answers in answered.items():
        each = answers.seconds / len(table)
        console.print(f"{system}: {each:.3g} s a record", highlight=False)
    reference = ONE if ONE in answered else [*answered][-1]
    validation = fitted[-1] if has_images(parts.validation) else None
    calibrations = _calibrations(folder, model, schema, validation, seed)
    return Evaluation(schema, parts, table, systems, reference, calibrations), training


def _calibrations(
    folder: Path, model: MetaVoxel, schema: Schema, validation: Table | None, seed: int
) -> dict[str, Calibration]:
    """Those stored with the model; of an older model, fitted on its validation subjects if they
    are in the cohort."""
    if not answers_at_once(model, model.config.sampling):
        return {}
    path = folder / "calibration.json"
    stored = read_model(path, Calibrations).one_evaluation if path.is_file() else None
    if stored is not None:
        return {
            v: Calibration.from_json(stored[v].model_dump()) for v in schema.numbers if v in stored
        }
    if validation is None or not schema.numbers:
        return {}
    said = answer(model, [*schema.numbers], validation.images, len(validation), 0, seed)
    return {
        v: calibrate(said.points[v], said.spreads.get(v), validation.scalars[v])
        for v in schema.numbers
    }


def _key(folder: Path, parts: Parts, table: Table, seed: int) -> str:
    """Changes with the model, the records, their images or values, the question and the seed."""
    sums = {k: x for k, x in read_checksums(folder).items() if k != "README.md"}
    people = [
        *identity(parts.test, table.records),
        *identity(parts.training, [r.id for r in parts.training.records]),
        *identity(parts.validation, [r.id for r in parts.validation.records]),
    ]
    facts = [__version__, sums, [*parts.test.schema], seed, people]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _about(
    folder: Path, bids: Path, evaluation: Evaluation, samples: int, seed: int
) -> dict[str, Any]:
    schema, parts, table = evaluation.schema, evaluation.parts, evaluation.table
    return {
        "model": str(folder),
        "weights": read_checksums(folder)["denoiser.safetensors"],
        "cohort": str(bids),
        "question": f"{', '.join(schema.scalars)} | {', '.join(schema.images)}",
        "people": parts.people,
        "left_out": list(parts.left_out),
        "test_records": len(table),
        "test_subjects": len(set(table.subjects)),
        "samples": samples,
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "metavoxel": __version__,
        "torch": torch.__version__,
        "reference": evaluation.reference,
        "calibration": {v: c.to_json() for v, c in evaluation.calibrations.items()},
    }


def _montages(model: MetaVoxel, table: Table, seed: int, kept: Kept) -> dict[str, Figure]:
    """Per image variable: unseen images, what the autoencoder leaves of them, generated ones."""
    count = min(_SHOWN, len(table))
    found = kept.read("generated images")
    if found is None:
        drawn = ask(model, [*model.schema.images], {}, 1, count, seed).samples
        shown = {v: (x[0].clamp(0, 1) * 255).round().byte().numpy() for v, x in drawn.items()}
        found = SystemAnswers(shown)
        kept.write("generated images", found)
    out = {}
    for v in model.schema.images:
        unseen = torch.from_numpy(table.images[v][:count])
        back = model.decode(model.encode({v: unseen}))[v].cpu().numpy()
        rows = {"unseen": unseen.numpy(), "autoencoded": back, "generated": found.points[v] / 255}
        out[v] = montage({title: [*x[:, 0]] for title, x in rows.items()})
    return out


def _write(
    place: OwnedFolder,
    evaluation: Evaluation,
    report: dict[str, Any],
    montages: Mapping[str, Figure],
) -> None:
    """Every file of the report; report.json last, so that where it is, all are."""
    out = place.folder
    drawn = {v: out / f"montage-{v}.png" for v in montages}
    place.add(*_FILES, *(path.name for path in drawn.values()))
    for v, path in drawn.items():
        save_png(montages[v], path)
    _write_csv(out / "answers.csv", answers_by_record(evaluation))
    _write_csv(out / "scores.csv", scores_by_row(report["scores"]))
    with atomic_write(out / "report.md") as temporary:
        temporary.write_text(as_markdown(report))
    write_report_page(out, evaluation, report, drawn)
    with atomic_write(out / "report.json") as temporary:
        temporary.write_text(json_text(report))


def _write_csv(path: Path, rows: Iterator[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def scores_by_row(scores: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    """A header, then a row per variable, system and measure."""
    yield "variable", "system", "measure", "value", "low", "high", "n"
    for v, by_system in scores.items():
        for system, measures in by_system.items():
            for name, score in measures.items():
                ends = [score[k] for k in ("value", "low", "high")]
                yield v, system, name, *("n/a" if x is None else x for x in ends), score["n"]


def answers_by_record(evaluation: Evaluation) -> Iterator[Sequence[object]]:
    """A header, then a row per variable and record where it is known: the truth, every answer."""
    table, systems = evaluation.table, evaluation.systems
    yield ["variable", "record", "truth", *systems]
    for v, kind in evaluation.schema.scalars.items():
        labels = getattr(kind, "labels", None)

        def text(x: float, labels: tuple[str, ...] | None = labels) -> str:
            return labels[int(x)] if labels else f"{x:.6g}"

        for i in np.flatnonzero(~np.isnan(table.scalars[v])):
            said = [
                text(float(a.points[v][i])) if v in a.points else "n/a" for a in systems.values()
            ]
            yield [v, table.records[i], text(float(table.scalars[v][i])), *said]
