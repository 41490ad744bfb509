"""What the demo does, in order. Finished parts are skipped when it is run again."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import RootModel
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from metavoxel.api import Model, load
from metavoxel.data.bids import Cohort, read_cohort
from metavoxel.data.simulate import simulate
from metavoxel.data.splits import read_split
from metavoxel.demo.page import Section, training_curves, write_demo_page
from metavoxel.evaluation.figures.images import difference, montage
from metavoxel.evaluation.figures.trajectory import trajectory
from metavoxel.evaluation.figures.variable import scatter
from metavoxel.evaluation.report import Table, as_table
from metavoxel.evaluation.scores import over_subjects
from metavoxel.files.json import read_model
from metavoxel.files.owned import holding
from metavoxel.files.writing import atomic_write
from metavoxel.files.yaml import read_yaml
from metavoxel.inference.ask import ask
from metavoxel.model import SCALARS
from metavoxel.training.config import read_config
from metavoxel.training.run import train
from metavoxel.training.run_folder import Folders

SUBJECTS, SAMPLES, STEPS = 320, 19, 20
STEPS_BACK = 50  # of a counterfactual: to the noise, and from there
CONFIG = Path(__file__).with_name("demo.yaml")
_WRITTEN = ("bids/", "model/", "model.training/", "figures/", "seconds.json", "report.html")


class Seconds(RootModel[dict[str, float]]):
    """`seconds.json`: how long each part took."""


@dataclass(eq=False)
class Demo:
    """Where the demo stands: its folders, what it has measured, how long each part took."""

    out: Path
    console: Console
    subjects: int = SUBJECTS
    config: Path = CONFIG
    seconds: dict[str, float] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)

    @property
    def bids(self) -> Path:
        return self.out / "bids"

    @property
    def model(self) -> Path:
        return self.out / "model"

    @contextmanager
    def part(self, title: str) -> Iterator[None]:
        """Time one part. Parts done in an earlier run keep the time they took then."""
        path, start = self.out / "seconds.json", time.perf_counter()
        before = read_model(path, Seconds).root if path.is_file() else {}
        self.console.print(f"[bold]{title}[/]")
        yield
        spent = time.perf_counter() - start
        self.seconds = {**before, title: max(spent, before.get(title, 0.0))}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.seconds, indent=2) + "\n")


def run_demo(out: Path, console: Console, **changes: Any) -> Path:
    """Run the demo into `out`, or finish one that was killed; return the path of its report.

    A finished cohort and a finished model are kept. `changes` are other fields of Demo. Raises
    MetaVoxelError if `out` holds anything but a demo.
    """
    demo = Demo(Path(out), console, **changes)
    with holding(demo.out, "demo") as place:
        place.add(*_WRITTEN)
        return _told(demo)


def _told(demo: Demo) -> Path:
    start, console = time.perf_counter(), demo.console
    with demo.part("Simulate"), Progress(console=console, transient=True) as bar:
        task = bar.add_task("Subjects", total=demo.subjects)
        simulate(
            demo.bids,
            subjects=demo.subjects,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    if not demo.model.exists():
        begun = Folders(demo.model).settings.exists()
        with demo.part("Train"):
            train(demo.bids, read_config(demo.config), demo.model, begun, console=console)
    with demo.part("Ask"):
        tell(demo)
    page = write_demo_page(demo.out, demo.sections, demo.seconds)
    console.print(f"Report: {escape(str(page))} ({time.perf_counter() - start:.0f} s)")
    return page


def tell(demo: Demo) -> None:
    """Ask the trained model everything, and turn the answers into the page's sections."""
    model = load(demo.model)
    cohort = read_cohort(demo.bids, model.schema)
    split = read_split(demo.model / "split.json")
    test = cohort.only(split.test)
    seen = as_table(model.schema, cohort.only(split.train[:8]))
    table, truth = as_table(model.schema, test), _truth(demo, test)
    _cohort(demo, split.train, split.test, seen)
    _learning(demo, model)
    _generated(demo, model, seen)
    _trajectory(demo, model)
    _answers(demo, model, table, truth, cohort.only(split.train))
    _subsets(demo, model, table, truth)
    _ageing(demo, model, table, truth)
    _inpainting(demo, model, table)


def _cohort(demo: Demo, train: tuple[str, ...], test: tuple[str, ...], seen: Table) -> None:
    fig = montage({"simulated": [x[0] for x in seen.images["image"]]})
    demo.sections.append(
        Section(
            "The cohort",
            f"{demo.subjects} simulated subjects, grown from the MNI152 template by a known "
            "causal model: sex sets head size; age thins the cortex and widens the ventricles; "
            "diagnosis, more likely with age, adds to both and shrinks the hippocampi. A fifth of "
            f"the table is missing. {len(train)} subjects train the model; {len(test)} are kept "
            "away from it and answer for it below.",
            f"metavoxel simulate {demo.out.name}/bids --subjects {demo.subjects}",
            {"cohort": fig},
        )
    )


def _learning(demo: Demo, model: Model) -> None:
    logs = demo.out / "model.training/joint/logs"
    parts = [*model.schema.images, SCALARS]
    fig = training_curves(logs, {v: f"validation/{v}" for v in parts})
    demo.sections.append(
        Section(
            "Training",
            "One network, one loss. The held-out loss, over random questions: of the image its "
            "error (Eq. 5), 1 if nothing is learnt beyond the LMMSE estimate; of the scalars "
            "that are asked the mean of -log p(scalars | what is known).",
            f"metavoxel train {demo.out.name}/bids --config demo.yaml --out {demo.out.name}/model",
            {"training": fig},
        )
    )


def _generated(demo: Demo, model: Model, seen: Table) -> None:
    people = model.sample(8, seed=1, steps=STEPS)
    captions = [
        f"{age:.0f}, {sex}, {group}"
        for age, sex, group in zip(
            people["age"].samples, people["sex"].samples, people["diagnosis"].samples, strict=True
        )
    ]
    fig = montage(
        {
            "generated": [x[0] for x in people["image"].samples],
            "training": [x[0] for x in seen.images["image"]],
        },
        {"generated": captions},
    )
    demo.sections.append(
        Section(
            "Unconditional samples",
            "Image, age, sex and diagnosis drawn together; nothing is given. Below, subjects of "
            "the training set for comparison.",
            "model.sample(8)",
            {"generated": fig},
        )
    )


def _trajectory(demo: Demo, model: Model) -> None:
    """Figure 2 of the paper: one record on its way from T to 0."""
    settings = model.sampling.model_copy(update={"steps": STEPS})
    demo.sections.append(
        Section(
            "From noise to a record",
            "One record on its way from T to 0 (Figure 2 of the paper). Its age, sex and diagnosis "
            "are drawn first and the image after them: the noisy state decoded, and what the "
            "network expects at that moment. Below, what can be told of the three from the noisy "
            "image alone: at first no more than the prior, in the end as much as from a scan. "
            "Images are coded relative to the mean brain, so what is decoded from pure noise is "
            "that brain and noise.",
            "trajectory(model.network, seed=4)",
            {"trajectory": trajectory(model.network, 4, settings=settings)},
        )
    )


def _answers(
    demo: Demo, model: Model, table: Table, truth: dict[str, np.ndarray], training: Cohort
) -> None:
    images = {"image": torch.from_numpy(table.images["image"])}
    n, asked = len(table), ["age", "sex"]
    start = time.perf_counter()
    said = ask(model.network, asked, images, n, SAMPLES, 0)
    each = (time.perf_counter() - start) / n
    point, age = said.point, said.point["age"].numpy()
    low, high = said.numbers["age"].interval(0.9)
    held = (low <= truth["age"]) & (truth["age"] <= high)
    ratio = np.square(said.numbers["age"].std).mean() / np.square(age - truth["age"]).mean()
    error = over_subjects(np.abs(age - truth["age"]))
    similar = np.corrcoef(truth["age_mean"], age)[0, 1]
    ages, sexes = (
        [str(r.values[v]) for r in training.records if v in r.values] for v in ("age", "sex")
    )
    naive = over_subjects(np.abs(np.mean(np.array(ages, float)) - truth["age"]))
    commoner = model.schema.categorical["sex"].labels.index(max(set(sexes), key=sexes.count))
    naive_sex = over_subjects((truth["sex"] == commoner) * 1.0)
    best = over_subjects(np.abs(truth["age_mean"] - truth["age"]))
    right = over_subjects((point["sex"].argmax(1).numpy() == truth["sex"]) * 1.0)
    best_sex = over_subjects((truth["p_M"] > 0.5) == truth["sex"])
    rows = [
        ("", "age: mean absolute error (years)", "sex: accuracy"),
        (
            "population mean / majority",
            str(naive),
            str(naive_sex),
        ),
        ("this model, one evaluation", str(error), str(right)),
        ("exact posterior, the best possible", str(best), str(best_sex)),
    ]
    demo.sections.append(
        Section(
            "Age and sex of test subjects",
            f"{n} unseen scans; 95 % intervals over subjects. One evaluation states the "
            f"distribution of both; with {SAMPLES} joint samples of it that took "
            f"{1000 * each:.0f} ms a scan. Its 90 % intervals hold {100 * held.mean():.0f} % of "
            f"the true ages, and its variance is {ratio:.2f} times the squared error. A scan "
            "depends on the subject through four measurements, so the exact posterior given those "
            "is known: the best possible answer.",
            'metavoxel ask model/ "age, sex | image=scan.nii.gz"',
            {
                "age": scatter(
                    truth["age"],
                    age,
                    ("true age (years)", "age (years) given the scan"),
                    f"90 % intervals hold {held.sum()} of {n}",
                    (low, high),
                ),
                "age-exact": scatter(
                    truth["age_mean"],
                    age,
                    ("exact posterior mean of age (years)", "age (years) given the scan"),
                    f"correlation {similar:.2f}",
                ),
            },
            rows,
        )
    )


def _subsets(demo: Demo, model: Model, table: Table, truth: dict[str, np.ndarray]) -> None:
    """Table 2 of the paper: age given any subset of what is known."""
    everything = {
        "image": torch.from_numpy(table.images["image"]),
        "sex": torch.from_numpy(truth["sex"]),
        "diagnosis": torch.from_numpy(truth["diagnosis"]),
    }
    rows = [("age given", "mean absolute error (years)")]
    for given in (("image", "sex", "diagnosis"), ("image", "sex"), ("image",), ("diagnosis",), ()):
        known = {v: everything[v] for v in given}
        age = ask(model.network, ["age"], known, len(table), 0, 0).point["age"].numpy()
        error = over_subjects(np.abs(age - truth["age"]))
        rows.append((", ".join(given) or "nothing", str(error)))
    demo.sections.append(
        Section(
            "Any subset of inputs",
            "The same model and the same subjects, given less and less (Table 2 of the paper).",
            'model.ask("age", given={"image": scan, "sex": "F"}, samples=0)',
            {},
            rows,
        )
    )


def _ageing(demo: Demo, model: Model, table: Table, truth: dict[str, np.ndarray]) -> None:
    person = int(np.abs(truth["age"] - 55).argmin())
    image = table.images["image"][person]
    record = {"image": image, "age": float(truth["age"][person]), "diagnosis": "CN"}
    shown = [image[0]]
    for age in (30, 80):
        answer = model.counterfactual(record, {"age": age}, steps=STEPS_BACK)
        shown.append(answer.samples[0, 0])
    fig = montage(
        {"one subject": shown},
        {"one subject": [f"as scanned, {record['age']:.0f}", "asked at 30", "asked at 80"]},
    )
    change = difference(shown[1], shown[2], "80 minus 30")
    demo.sections.append(
        Section(
            "Counterfactual: the same brain at 30 and at 80",
            "The scan is run back to the noise that explains it at its true age, and forward from "
            "there at another. What is the subject's own stays; what age changes, changes.",
            'model.counterfactual({"image": scan, "age": 55, "diagnosis": "CN"}, set={"age": 80})',
            {"ageing": fig, "ageing-change": change},
        )
    )


def _inpainting(demo: Demo, model: Model, table: Table) -> None:
    image = table.images["image"][0]
    mask = np.zeros(image.shape[1:], bool)
    mask[mask.shape[0] // 2 :] = True
    filled = model.inpaint(image, mask, samples=3, steps=STEPS)
    shown = [image[0], np.where(mask, 0, image[0]), *(x[0] for x in filled.samples)]
    captions = ["the scan", "what is given", "filled", "again", "and again"]
    demo.sections.append(
        Section(
            "Half a brain",
            "One half is given, the other drawn, three times (Figure B.3 of the paper).",
            'model.inpaint("scan.nii.gz", mask="half.nii.gz", samples=3)',
            {"inpainting": montage({"inpainting": shown}, {"inpainting": captions})},
        )
    )


def _truth(demo: Demo, test: Cohort) -> dict[str, np.ndarray]:
    """True values and exact posteriors of the test subjects, in the cohort's order."""
    description = read_yaml(demo.bids / "participants.json")
    with (demo.bids / "derivatives/truth/participants.tsv").open() as file:
        rows = {r["participant_id"]: r for r in csv.DictReader(file, delimiter="\t")}
    people = [rows[r.subject] for r in test.records]
    out = {k: np.array([float(p[k]) for p in people]) for k in ("age", "age_mean", "p_M")}
    for v in ("sex", "diagnosis"):
        levels = [*description[v]["Levels"]]
        out[v] = np.array([levels.index(p[v]) for p in people])
    return out
