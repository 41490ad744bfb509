"""Are answers about validation subjects worse than an earlier engine's? Paired, by fold.

    python benchmarks/validation.py ask BIDS NOW.json MODEL [MODEL ...]
    PYTHONPATH=OLDER/src python benchmarks/validation.py ask BIDS BEFORE.json MODEL [MODEL ...]
    python benchmarks/validation.py compare BEFORE.json NOW.json

Models are given fold by fold, in the same order. Every scalar is asked given nothing, all other
scalars, the image, the image and one other scalar, and all else. A number is scored by the CRPS of
200 stated quantiles, a label by its log score, in nats. `ask` runs under the source that trained
the models; `compare` prints mean scores, their paired difference with its standard error over
subjects, and the p of "worse" (one-sided t-test, Holm's correction).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scaling_ask import answers
from scipy.stats import ttest_1samp

from metavoxel.data.bids import read_cohort
from metavoxel.data.splits import read_split
from metavoxel.evaluation.cohort import as_table
from metavoxel.inference.calibration import crps
from metavoxel.model_folder import load_model

Scores = dict[str, list[float]]  # by question, one value a subject, NaN where it cannot be asked


def scored(bids: Path, folder: Path) -> Scores:
    """Of the validation subjects of one model."""
    model = load_model(folder).eval()
    cohort = read_cohort(bids, model.schema).only(read_split(folder / "split.json").validation)
    table, out = as_table(model.schema, cohort), {}
    scalars = [*model.schema.scalars]
    for v in scalars:
        others = [w for w in scalars if w != v]
        some = [["image", w] for w in others]
        for known in ([], others, ["image"], *some, ["image", *others]):
            told = [w for w in known if w != "image"]
            rows = ~np.isnan([table.scalars[w] for w in (v, *told)]).any(0)
            raw = {w: table.scalars[w][rows] for w in told} | {"image": table.images["image"][rows]}
            request = {"asked": v, "known": known, "fixed": {}, "rows": int(rows.sum()), "draws": 0}
            stated, truth = answers(model, raw, [request])[0], table.scalars[v][rows]
            score = np.full(len(table), np.nan)
            if v in model.schema.categorical:
                score[rows] = -np.log(stated[np.arange(len(truth)), truth.astype(int)])
            else:
                score[rows] = crps(stated, truth)
            out[f"{v} | {', '.join(known)}"] = score.tolist()
    return out


def compare(before: Scores, now: Scores) -> None:
    rows: list[tuple[str, float, float, float, float, int, float]] = []
    for question, old in before.items():
        both = np.array([old, now[question]])
        both = both[:, ~np.isnan(both).any(0)]
        change = both[1] - both[0]
        p = float(ttest_1samp(change, 0, alternative="greater").pvalue)  # type: ignore[attr-defined]  # scipy's result has no types
        old_mean, new_mean = both.mean(1).tolist()
        spread = float(change.std(ddof=1))
        rows.append((question, old_mean, new_mean, change.mean(), spread, len(change), p))
    order = np.argsort([row[-1] for row in rows])
    running, holm = 0.0, {}
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(rows) - rank) * rows[i][-1]))
        holm[i] = running
    for i, (question, old, new, change, spread, n, p) in enumerate(rows):
        print(
            f"{question[:60]:60} {old:8.3f} {new:8.3f} {change:+7.3f} ({spread / n**0.5:.3f}) "
            f"p {p:.3f} Holm {holm[i]:.3f} n {n}"
        )


def main(a: argparse.Namespace) -> None:
    if a.what == "compare":
        compare(*(json.loads(path.read_text()) for path in (a.before, a.now)))
        return
    folds = [scored(a.bids, folder) for folder in a.models]
    joined = {q: [x for fold in folds for x in fold[q]] for q in folds[0]}
    a.out.write_text(json.dumps(joined))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    asking, comparing = commands.add_parser("ask"), commands.add_parser("compare")
    asking.add_argument("bids", type=Path)
    asking.add_argument("out", type=Path)
    asking.add_argument("models", type=Path, nargs="+")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("now", type=Path)
    main(parser.parse_args())
