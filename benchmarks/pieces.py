"""What the pieces of experiments took, by kind.

python benchmarks/pieces.py experiments/ixi/pieces ...
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path


def main(folders: list[Path]) -> None:
    print("| experiment | piece | done | seconds, median | longest |\n|---|---|---|---|---|")
    for folder in folders:
        kinds: dict[str, list[float]] = defaultdict(list)
        for path in sorted(folder.glob("*.json")):
            record = json.loads(path.read_text())
            kinds[record["piece"].partition(", fold")[0]].append(record["seconds"])
        for kind, seconds in kinds.items():
            figures = f"{len(seconds)} | {statistics.median(seconds):.0f} | {max(seconds):.0f}"
            print(f"| {folder.parent.name} | {kind} | {figures} |")


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]])
