"""Does it hold as cohorts grow? Excess over the exact posterior against the number of subjects.

    python benchmarks/scaling.py WORK [--sizes 100 300 1000] [--systems ...] [--older CHECKOUT]
    python benchmarks/scaling.py WORK --images         # shapes, variety, memory; after the scores
    python benchmarks/scaling.py WORK --report docs/results/scaling.md

WORK gets the simulated cohorts, what is trained on them, and results/SYSTEM-N-SEED.json: a piece.
Pieces that are there are kept, so that the command may be killed, repeated, and run twice at once.
CHECKOUT holds the tag before-coherent-law (git worktree add CHECKOUT before-coherent-law).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from coherence import PIECE, Question, Subjects, exact_score, log_score
from scaling_images import measured
from scaling_report import report
from scaling_specialists import multitask, resnet, ridge
from scaling_systems import (
    Answer,
    Answered,
    New,
    Piece,
    Request,
    before,
    joint,
    paper,
    steps,
    train_joint,
    validation_size,
)
from scipy.stats import ttest_1samp

from metavoxel.data.bids import read_cohort
from metavoxel.data.simulate import simulate
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import as_table
from metavoxel.files.writing import BusyError, atomic_write, locked

NEW_SEED, NEW = 82, 4000  # 77 to 79 were looked at while the method was built
FIRST_SEED = 100  # cohorts to train on are of seeds 101, 102 ...
SEEDS_UP_TO = 1000  # subjects; above, one seed
QUESTIONS: tuple[Question, ...] = (
    ("age", frozenset({"image"})),
    ("age", frozenset({"image", "diagnosis"})),
    ("mmse", frozenset({"image", "age"})),
    ("diagnosis", frozenset({"image", "age"})),
)
BESIDE: tuple[Question, ...] = (  # what coherence needs as well
    ("mmse", frozenset({"image"})),
    ("diagnosis", frozenset({"image"})),
)
MARGINALS: tuple[Question, ...] = tuple((v, frozenset()) for v in ("age", "mmse", "diagnosis"))
CELLS = np.linspace(20, 90, 29)  # ends of the ages of the chain rule, in years
FEW = 200  # subjects of the chain rule


@dataclass(frozen=True)
class System:
    """`coherent`: asked for anything given an image, so that its coherence is measured. Of `draws`
    images it is asked. `subjects` answered, all by default."""

    answer: Callable[[Piece, Sequence[Request], New], Answered]
    coherent: bool = False
    draws: bool = False
    subjects: int = NEW


SYSTEMS = {
    "ridge": System(ridge),
    "metavoxel": System(joint, coherent=True, draws=True),
    "multitask": System(multitask, coherent=True),
    "resnet": System(resnet),
    "before": System(before, coherent=True, draws=True),
    "paper": System(paper, draws=True, subjects=1000),
}


@dataclass(frozen=True)
class Work:
    """The folder, and what is done in it."""

    folder: Path
    older: Path | None
    quick: bool

    def cohort(self, subjects: int, seed: int) -> Path:
        """Simulated once. A larger one of a seed holds the smaller: person i depends on i alone."""
        path = self.folder / f"cohort-{seed}-{subjects}"
        with locked(self.folder / f"{path.name}.lock", "", wait=True):
            if not (path / "dataset_description.json").exists():  # the last that is written
                print(f"simulating {subjects} subjects, seed {seed}", flush=True)
                simulate(path, subjects, seed, missing=0, slices=True, jobs=1)
        return path

    def piece(self, system: str, n: int, seed: int) -> Piece:
        bids = self.cohort(n + validation_size(n), FIRST_SEED + seed)
        folder = self.folder / "trained" / f"{system}-{n}-{seed}"
        return Piece(system, n, seed, bids, folder, self.quick, self.older)

    def new(self, schema: Any) -> tuple[New, dict[Question, np.ndarray]]:
        """New subjects, and the scores (n,) of the exact answers."""
        bids = self.cohort(60 if self.quick else NEW, NEW_SEED)
        table = as_table(schema, read_cohort(bids, schema))
        names = [f"sub-{s.removeprefix('sub-')}" for s in table.subjects]
        subjects = Subjects.read(bids, names)
        every = (*QUESTIONS, *BESIDE, *MARGINALS)
        kept = self.folder / f"exact-{len(subjects)}.npy"
        with locked(self.folder / "exact.lock", "", wait=True):
            if not kept.exists():
                found = exact_scores(subjects, every)
                with atomic_write(kept) as temporary, temporary.open("wb") as file:
                    np.save(file, found)
        return New(subjects, table), dict(zip(every, np.load(kept), strict=True))

    def result(self, name: str) -> Path:
        return self.folder / "results" / f"{name}.json"


def exact_scores(subjects: Subjects, every: Sequence[Question]) -> np.ndarray:
    """(questions, n)."""
    parts = []
    for start in range(0, len(subjects), PIECE):
        some = subjects.rows(slice(start, start + PIECE))
        by_known = {known: some.posterior(known) for _, known in every}
        parts.append(np.stack([exact_score(some, v, by_known[known]) for v, known in every]))
    return np.concatenate(parts, 1)


def scored(work: Work, piece: Piece) -> dict[str, Any]:
    """Train, ask and score one piece."""
    system = SYSTEMS[piece.system]
    new, exact = work.new(piece.schema)
    rows, few = min(system.subjects, len(new)), min(FEW, len(new))
    questions = [*QUESTIONS, *(BESIDE if system.coherent else ())]
    requests = [Request(v, known, rows) for v, known in questions]
    chain = chain_requests(few) if system.coherent else []
    answers = system.answer(piece, [*requests, *chain], new)
    scores = {
        q: score(q[0], answers[r], new.first(rows))
        for q, r in zip(questions, requests, strict=True)
    }
    out: dict[str, Any] = {"subjects": rows, "questions": {}}
    for q, x in scores.items():
        excess = x - exact[q][:rows]
        out["questions"][said(q)] = {
            "score": float(x.mean()),
            "exact": float(exact[q][:rows].mean()),
            "excess": float(excess.mean()),
            "standard error": float(excess.std(ddof=1) / np.sqrt(rows)),
        }
    out["marginals"] = {v: float(exact[v, known].mean()) for v, known in MARGINALS}
    if system.coherent:
        out["chain rule"] = chain_rule(answers, few)
        out["additions"] = additions(scores, exact)
    return out


def drawn(work: Work, piece: Piece) -> dict[str, Any]:
    """Measure the images of a model that is trained already, or is now."""
    train_joint(piece)
    new, _ = work.new(piece.schema)
    return measured(piece, new, work.folder)


def said(question: Question) -> str:
    known = sorted(question[1], key=lambda v: (v != "image", v))
    return f"{question[0]} | {', '.join(known)}"


def score(name: str, answer: Answer, new: New) -> np.ndarray:
    """(n,): the CRPS of a number, the log score of a label."""
    if isinstance(answer, np.ndarray):
        return log_score(answer, new.subjects.index(name))
    return answer.crps(new.subjects.truth[name])


def chain_requests(rows: int) -> list[Request]:
    image = frozenset({"image"})
    centres, labels = (CELLS[1:] + CELLS[:-1]) / 2, range(3)
    at_age = [Request("diagnosis", image | {"age"}, rows, (("age", float(a)),)) for a in centres]
    of = [Request("age", image | {"diagnosis"}, rows, (("diagnosis", k),)) for k in labels]
    return [Request("age", image, rows), Request("diagnosis", image, rows), *at_age, *of]


def chain_rule(answers: Answered, rows: int) -> float:
    """Mean total variation of p(age | I) p(d | I, age) and p(d | I) p(age | I, d), by cells of age.

    A coherent law is at 0 up to what p(d | I, age) bends within a cell.
    """
    age, diagnosis, *rest = (cast(Any, answers[r]) for r in chain_requests(rows))
    at_age, of = np.stack(rest[: len(CELLS) - 1], 1), rest[len(CELLS) - 1 :]
    first = cells(age)[:, :, None] * at_age
    second = np.stack([cells(x) for x in of], 2) * diagnosis[:, None]
    return float(np.abs(first - second).sum((1, 2)).mean() / 2)


def cells(answer: Any) -> np.ndarray:
    """The probability of each cell of age, (n, cells); what lies beyond counts to the last ones."""
    below = np.stack([answer.cdf(x) for x in CELLS[1:-1]], 1)
    ends = np.zeros_like(below[:, :1]), np.ones_like(below[:, :1])
    return np.diff(np.concatenate([ends[0], below, ends[1]], 1), axis=1)


def additions(
    scores: Mapping[Question, np.ndarray], exact: Mapping[Question, np.ndarray]
) -> dict[str, Any]:
    """Single additions among what was asked: the change of the score as a share of the marginal's,
    one-sided p, and the change of the exact answers."""
    out = {}
    for v, known in scores:
        for w in known:
            if (v, known - {w}) not in scores:
                continue
            change = scores[v, known] - scores[v, known - {w}]
            n, marginal = len(change), exact[v, frozenset()].mean()
            truth = (exact[v, known] - exact[v, known - {w}])[:n]
            out[f"{said((v, known - {w}))} + {w}"] = {
                "change": float(change.mean() / marginal),
                "p": float(np.asarray(ttest_1samp(change, 0, alternative="greater"))[1]),
                "exact": float(truth.mean() / marginal),
            }
    return out


def main(a: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    a.work.mkdir(parents=True, exist_ok=True)
    if a.report:
        report(a.work, a.report)
        return
    others = [
        subprocess.Popen([sys.executable, *sys.argv, "--jobs", "1"]) for _ in range(a.jobs - 1)
    ]
    work = Work(a.work, a.older, a.quick)
    todo = [
        (system, n, seed)
        for n in sorted(a.sizes)
        for seed in range(1, 1 + (a.seeds if n <= SEEDS_UP_TO else 1))
        for system in SYSTEMS
        if system in a.systems and (SYSTEMS[system].draws or not a.images)
    ]
    failed, start = [], time.monotonic()
    for i, one in enumerate(todo):
        if a.deadline and time.monotonic() - start > a.deadline * 60:
            print(f"{a.deadline:g} minutes are over; call again for the rest.")
            break
        if not attempt(work, *one, a.images, a.keep):
            failed.append("-".join(map(str, one)))
        print(f"  {time_left(work, todo[i + 1 :], a.images)}", flush=True)
    for other in others:
        other.wait()
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}. The errors stand above.")


def attempt(work: Work, system: str, n: int, seed: int, images: bool, keep: bool) -> bool:
    """Do a piece unless it is done, or another process does it; False if it fails."""
    name = f"{system}-{n}-{seed}"
    path = work.result(f"{name}-images" if images else name)
    with contextlib.suppress(BusyError), locked(work.folder / "locks" / path.name, "busy"):
        if path.exists():
            return True
        start = time.monotonic()
        print(f"{path.stem}: begins {time.strftime('%H:%M')}", flush=True)
        try:
            piece = work.piece(system, n, seed)
            out = drawn(work, piece) if images else scored(work, piece)
        except Exception as error:  # the others go on
            print(f"{path.stem}: {error if isinstance(error, MetaVoxelError) else ''}")
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            return False
        seconds = time.monotonic() - start
        about = {"system": system, "n": n, "seed": seed, "steps": piece.steps, "seconds": seconds}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(about | out, indent=1) + "\n")
        if not keep:  # gigabytes of cached encodings
            shutil.rmtree(piece.folder.with_name(f"{name}.training"), ignore_errors=True)
        print(f"{path.stem}: {seconds / 60:.1f} minutes", flush=True)
    return True


def time_left(work: Work, todo: Sequence[tuple[str, int, int]], images: bool) -> str:
    """From what the pieces of the same system took that are nearest in size, by their steps."""
    took: dict[str, list[tuple[int, float]]] = {}
    ending = "-images" if images else ""
    for path in (work.folder / "results").glob("*.json"):
        if path.stem.endswith("-images") == images:
            x = json.loads(path.read_text())
            took.setdefault(x["system"], []).append((x["n"], x["seconds"]))
    left = [x for x in todo if not work.result("-".join(map(str, x)) + ending).exists()]
    known = [x for x in left if x[0] in took]
    seconds = 0.0
    for system, n, _ in known:
        near, each = min(took[system], key=lambda t: abs(np.log(t[0] / n)))
        seconds += each * steps(n) / steps(near)
    unknown = f", {len(left) - len(known)} of unknown length" if len(left) > len(known) else ""
    return f"{len(left)} pieces left: {seconds / 60:.0f} minutes of a core{unknown}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seeds", type=int, default=3, help="up to 1,000 subjects; one above")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--older", type=Path, help="checkout of the tag before-coherent-law")
    parser.add_argument("--deadline", type=float, help="minutes after which no piece begins")
    parser.add_argument("--images", action="store_true", help="measure drawn images instead")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a dozen steps, to see that it runs; in a WORK of its own",
    )
    parser.add_argument(
        "--keep", action="store_true", help="the state of trainings, for their logs"
    )
    parser.add_argument("--report", type=Path, help="write the page and its figure")
    main(parser.parse_args())
