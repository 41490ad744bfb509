"""What one report scores more than another, on the same records.

    python benchmarks/paired.py REPORT REPORT

Each REPORT is a folder that `metavoxel evaluate` wrote. Printed is, for every system in both, by
how much the first has the smaller mean absolute error or the higher accuracy (above 0, it is the
better one), with 95 % bootstrap intervals over records, of the differences.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from folds import read_hits

from metavoxel.evaluation.scores import over_subjects


def main(first: Path, second: Path) -> None:
    scores = json.loads((first / "report.json").read_text())["scores"]
    a, b = read_hits(first), read_hits(second)
    both = [key for key in a if key in b]
    systems = list(dict.fromkeys(system for _, system in both))
    print(f"How much better {first} is than {second}, record by record.\n")
    print(f"| variable | {' | '.join(systems)} |\n|---|{'---|' * len(systems)}")
    for variable in dict.fromkeys(v for v, _ in both):
        cells, n = [], 0
        for system in systems:
            x, y = a[variable, system], b[variable, system]
            sign = -1 if "mae" in scores[variable][system] else 1
            gain = over_subjects(
                np.array([sign * (x[record] - y[record]) for record in x if record in y])
            )
            cells.append(str(gain))
            n = gain.n
        print(f"| {variable} (n = {n}) | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    main(arguments.first, arguments.second)
