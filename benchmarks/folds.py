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
    hits: dict[tuple[str, str], list[float]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for report in reports:
        scores = json.loads((report / "report.json").read_text())["scores"]
        with (report / "answers.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                variable, record, truth = row.pop("variable"), row.pop("record"), row.pop("truth")
                if (variable, record) in seen:
                    raise MetaVoxelError(f"{report}: {record} is in another report, too.")
                seen.add((variable, record))
                number = "mae" in scores[variable][next(iter(row))]
                for system, answer in row.items():
                    hit = abs(float(answer) - float(truth)) if number else float(answer == truth)
                    hits[variable, system].append(hit)
    systems = list(dict.fromkeys(system for _, system in hits))
    print(f"{len(reports)} folds. Mean absolute error or accuracy, 95 % intervals over records.\n")
    print(f"| variable | {' | '.join(systems)} |\n|---|{'---|' * len(systems)}")
    for variable in dict.fromkeys(v for v, _ in hits):
        each = [over_subjects(np.array(hits[variable, system])) for system in systems]
        print(f"| {variable} (n = {each[0].n}) | {' | '.join(map(str, each))} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+")
    main(parser.parse_args().reports)
