"""A trained model on the subjects it never saw: the scalars given the images, and baselines."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from metavoxel.api import load
from metavoxel.data.bids import Cohort, read_cohort
from metavoxel.data.images import as_scan, read_scan
from metavoxel.data.splits import read_split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation import figures
from metavoxel.evaluation.baselines import kernel_ridge, logistic, majority, population_mean
from metavoxel.evaluation.scores import Score, coverage, dispersion, over_subjects
from metavoxel.files import atomic_write
from metavoxel.inference.ask import Drawn, ask
from metavoxel.model import MetaVoxel
from metavoxel.preprocess.preparation import Preparation
from metavoxel.schema import Schema

FEW = 3  # the paper's number of samples
_SHOWN = 6  # images in a row of the montage


@dataclass(frozen=True, eq=False)
class Table:
    """A cohort as arrays: images (n, C, *grid); scalars as numbers or label indices, or NaN."""

    images: dict[str, np.ndarray]
    scalars: dict[str, np.ndarray]
    records: tuple[str, ...] = ()  # their names

    def __len__(self) -> int:
        return len(next(iter(self.scalars.values())))


def evaluate(
    folder: Path,
    bids: Path,
    out: Path,
    samples: int,
    seed: int,
    console: Console,
    any_preparation: bool = False,
) -> dict[str, Any]:
    """Ask a model for every scalar of its test subjects given their images, and write the scores.

    Writes report.json, report.md, answers.csv and a montage of unseen and generated images to
    `out`. Raises MetaVoxelError if the model's test subjects are not in the cohort, or their scans
    were prepared otherwise than the training scans, unless `any_preparation` is set.
    """
    loaded = load(folder, any_preparation=any_preparation)
    model = loaded.network
    cohort = read_cohort(bids, model.schema)
    split = read_split(Path(folder) / "split.json")
    test = cohort.only(split.test)
    if not test.records:
        raise MetaVoxelError(
            f"{bids}: none of the model's {len(split.test)} test subjects is here. Give the "
            "dataset that it was trained on."
        )
    console.print(f"Reading {len(test.records)} test and {len(split.train)} training records")
    table = as_table(model.schema, test)
    if not any_preparation:
        _check_preparation(loaded.preparation, test, table)
    training = as_table(model.schema, cohort.only([*split.train, *split.validation]))
    systems = {
        **baseline_answers(model.schema, training, table),
        **model_answers(model, table, samples, seed, console),
    }
    report = {
        "model": str(folder),
        "question": f"{', '.join(model.schema.scalars)} | {', '.join(model.schema.images)}",
        "split": split.made,
        "test_records": len(table),
        "training_records": len(training),
        "scores": score_systems(model.schema, table, systems),
        "seconds_per_record": {k: v.seconds for k, v in systems.items() if v.seconds},
    }
    with atomic_write(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    with atomic_write(out / "report.md") as temporary:
        temporary.write_text(as_markdown(report))
    with atomic_write(out / "answers.csv") as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows(answers_by_record(model.schema, table, systems))
    for v, fig in montages(model, table, seed).items():
        with atomic_write(out / f"montage-{v}.png") as temporary:
            fig.savefig(temporary, dpi=120)
    return report


@dataclass(frozen=True, eq=False)
class SystemAnswers:
    """One system's answers by variable: `points` (n,), numbers or labels; `samples` (n, m)."""

    points: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]
    seconds: float = 0.0


def as_table(schema: Schema, cohort: Cohort) -> Table:
    """The records that have every image, as arrays."""
    records = [r for r in cohort.records if all(v in r.values for v in schema.images)]
    if not records:
        raise MetaVoxelError(
            f"{cohort.root}: none of the {len(cohort.records)} records asked about has an image."
        )
    images = {
        v: np.stack([read_scan(Path(str(r.values[v])), kind).array for r in records])
        for v, kind in schema.images.items()
    }
    scalars = {}
    for v, kind in schema.scalars.items():
        labels = getattr(kind, "labels", None)
        column = np.full(len(records), np.nan)
        for i, r in enumerate(records):
            if v in r.values:
                x = r.values[v]
                column[i] = labels.index(str(x)) if labels else float(str(x))
        scalars[v] = column
    return Table(images, scalars, tuple(r.id for r in records))


def _check_preparation(preparation: Preparation, cohort: Cohort, table: Table) -> None:
    """As of every scan that a model is asked about."""
    values = {r.id: r.values for r in cohort.records}
    for v, arrays in table.images.items():
        kind = cohort.schema.images[v]
        for record, array in zip(table.records, arrays, strict=True):
            path = Path(str(values[record][v]))
            preparation.check(v, path, as_scan(array, path, kind))


def baseline_answers(schema: Schema, training: Table, test: Table) -> dict[str, SystemAnswers]:
    """Population mean or majority; ridge and logistic regression on the voxels."""
    x, x_test = (
        np.concatenate([i.reshape(len(i), -1) for i in t.images.values()], axis=1)
        for t in (training, test)
    )
    simple, linear = {}, {}
    for v in schema.scalars:
        known = ~np.isnan(training.scalars[v])
        values, seen = training.scalars[v][known], x[known]
        if v in schema.continuous:
            simple[v] = population_mean(values, len(test))
            linear[v] = kernel_ridge(seen, values, x_test)
        else:
            simple[v] = majority(values, len(test))
            linear[v] = logistic(seen, values, x_test)
    return {
        "population mean / majority": SystemAnswers(simple, {}),
        "ridge / logistic on voxels": SystemAnswers(linear, {}),
    }


def model_answers(
    model: MetaVoxel, table: Table, samples: int, seed: int, console: Console
) -> dict[str, SystemAnswers]:
    """The model's answers: in one evaluation if it can, from few samples, from many."""
    known = {v: torch.from_numpy(x) for v, x in table.images.items()}
    asked, n = [*model.schema.scalars], len(table)
    engine = model.config.sampling.conditioner
    out: dict[str, SystemAnswers] = {}
    if model.config.sampling.point == "one_evaluation":
        drawn, seconds = _timed(model, asked, known, n, 0, seed)
        points = {
            v: (x if v in model.schema.continuous else x.argmax(-1)).numpy().astype(float)
            for v, x in drawn.point.items()
        }
        out["one evaluation"] = SystemAnswers(points, {}, seconds)
        console.print(f"One evaluation: {seconds:.3f} s a record")
    for count in sorted({FEW, samples} - {0}):
        drawn, seconds = _timed(model, asked, known, n, count, seed)
        raw = {v: x.numpy().astype(float) for v, x in drawn.samples.items()}
        points = {v: _centre(model.schema, v, x, table, seed) for v, x in raw.items()}
        out[f"{count} samples, {engine}"] = SystemAnswers(points, raw, seconds)
        console.print(f"{count} samples: {seconds:.2f} s a record")
    return out


def _timed(
    model: MetaVoxel, asked: list[str], known: dict[str, Tensor], n: int, count: int, seed: int
) -> tuple[Drawn, float]:
    settings = model.config.sampling
    if count:  # the point answer is timed on its own
        settings = settings.model_copy(update={"point": "samples"})
    start = time.perf_counter()
    drawn = ask(model, asked, known, n, count, seed, settings)
    return drawn, (time.perf_counter() - start) / n


def _centre(schema: Schema, name: str, samples: np.ndarray, table: Table, seed: int) -> np.ndarray:
    """Mean of the samples (n, m), or their majority; a tie goes to a label drawn first."""
    if name in schema.continuous:
        return samples.mean(1)
    labels = len(schema.categorical[name].labels)
    counts = np.stack([(samples == k).sum(1) for k in range(labels)], axis=1).astype(float)
    counts[np.arange(len(samples)), samples[:, 0].astype(int)] += 0.5
    return counts.argmax(1).astype(float)


def score_systems(
    schema: Schema, table: Table, systems: Mapping[str, SystemAnswers]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Per variable and system: mean absolute error or accuracy, and calibration of the samples."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for v in schema.scalars:
        known = ~np.isnan(table.scalars[v])
        if not known.any():
            continue
        truth, out[v] = table.scalars[v][known], {}
        for name, answers in systems.items():
            point = answers.points[v][known]
            hits = np.abs(point - truth) if v in schema.continuous else (point == truth) * 1.0
            measure = "mae" if v in schema.continuous else "accuracy"
            scores: dict[str, Any] = {measure: vars(over_subjects(hits))}
            drawn = answers.samples.get(v)
            if drawn is not None and v in schema.continuous:
                scores["dispersion"] = dispersion(drawn[known], truth)
                if drawn.shape[1] >= 20:
                    scores["coverage"] = {
                        str(level): coverage(drawn[known], truth, level)
                        for level in (0.5, 0.8, 0.9)
                    }
            out[v][name] = scores
    return out


def answers_by_record(
    schema: Schema, table: Table, systems: Mapping[str, SystemAnswers]
) -> Iterator[list[str]]:
    """A header, then a row per variable and record where it is known: the truth, every answer."""
    yield ["variable", "record", "truth", *systems]
    for v, kind in schema.scalars.items():
        for i in np.flatnonzero(~np.isnan(table.scalars[v])):
            row = [table.scalars[v][i], *(answers.points[v][i] for answers in systems.values())]
            labels = getattr(kind, "labels", None)
            texts = [labels[int(x)] if labels else f"{x:.6g}" for x in row]
            yield [v, table.records[i], *texts]


def montages(model: MetaVoxel, table: Table, seed: int) -> dict[str, Figure]:
    """Per image variable: unseen images, what the autoencoder leaves of them, generated ones."""
    count = min(_SHOWN, len(table))
    drawn = ask(model, [*model.schema.images], {}, 1, count, seed).samples
    out = {}
    for v in model.schema.images:
        unseen = torch.from_numpy(table.images[v][:count])
        back = model.decode(model.encode({v: unseen}))[v].cpu()
        rows = {"unseen": unseen, "autoencoded": back, "generated": drawn[v][0].cpu()}
        out[v] = figures.montage({title: [*x[:, 0].numpy()] for title, x in rows.items()})
    return out


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as one table: variables down, systems across, 95 % intervals over subjects."""
    scores = report["scores"]
    systems = list(next(iter(scores.values())))
    lines = [
        f"`{report['question']}` on {report['test_records']} unseen records ({report['split']}).",
        "Mean absolute error or accuracy, with 95 % bootstrap intervals over subjects.",
        "",
        f"| variable | {' | '.join(systems)} |",
        f"|---|{'---|' * len(systems)}",
    ]
    for v, by_system in scores.items():
        cells = [str(Score(**next(iter(by_system[s].values())))) for s in systems]
        lines.append(f"| {v} (n = {_count(by_system)}) | {' | '.join(cells)} |")
    lines += ["", "| variable | system | variance / squared error | coverage 50 / 80 / 90 % |"]
    lines += ["|---|---|---|---|"]
    for v, by_system in scores.items():
        for s, values in by_system.items():
            if "dispersion" in values:
                covered = values.get("coverage", {}).values()
                cells = " / ".join(f"{x:.2f}" for x in covered) or "-"
                lines.append(f"| {v} | {s} | {values['dispersion']:.2f} | {cells} |")
    seconds = ", ".join(f"{s}: {x:.3g} s" for s, x in report["seconds_per_record"].items())
    return "\n".join([*lines, "", f"Time per record: {seconds}.", ""])


def _count(by_system: Mapping[str, Any]) -> int:
    return next(iter(next(iter(by_system.values())).values()))["n"]
