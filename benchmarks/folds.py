"""Pool the reports of several folds: one score per variable and system, over all their records.

    python benchmarks/folds.py REPORT REPORT ...

Each REPORT is a folder that `metavoxel evaluate` wrote. Systems are matched by name. Intervals are
95 % bootstrap intervals over records; what varies between folds by training alone is not in them.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.scores import over_subjects


def main(reports: list[Path]) -> None:
    pooled: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for report in reports:
        for key, hits in read_hits(report).items():
            twice = pooled[key].keys() & hits
            if twice:
                raise MetaVoxelError(f"{report}: {min(twice)} is in another report, too.")
            pooled[key] |= hits
    systems = list(dict.fromkeys(system for _, system in pooled))
    print(f"{len(reports)} folds. Mean absolute error or accuracy, 95 % intervals over records.\n")
    print(f"| variable | {' | '.join(systems)} |\n|---|{'---|' * len(systems)}")
    for variable in dict.fromkeys(v for v, _ in pooled):
        each = [over_subjects(np.array([*pooled[variable, s].values()])) for s in systems]
        print(f"| {variable} (n = {each[0].n}) | {' | '.join(map(str, each))} |")


def read_hits(report: Path) -> dict[tuple[str, str], dict[str, float]]:
    """By variable and system, then by record: the absolute error, or 1 for the right label."""
    scores = json.loads((report / "report.json").read_text())["scores"]
    hits: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    with (report / "answers.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            variable, record, truth = row.pop("variable"), row.pop("record"), row.pop("truth")
            number = "mae" in scores[variable][next(iter(row))]
            for system, answer in row.items():
                hit = abs(float(answer) - float(truth)) if number else float(answer == truth)
                hits[variable, system][record] = hit
    return hits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+")
    main(parser.parse_args().reports)
