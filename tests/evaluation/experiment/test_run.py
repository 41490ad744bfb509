"""An experiment from its file to its page: every system on the same folds, in pieces done once."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy.stats import norm

from metavoxel.data.bids import Cohort
from metavoxel.data.records import Record
from metavoxel.data.simulate import simulate
from metavoxel.data.tables import read_table
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.experiment import opponents, work
from metavoxel.evaluation.experiment.coded import Coding
from metavoxel.evaluation.experiment.config import read_experiment
from metavoxel.evaluation.experiment.generated import free_images
from metavoxel.evaluation.experiment.pieces import Piece, Pieces, helpers
from metavoxel.evaluation.experiment.run import experiment
from metavoxel.evaluation.experiment.work import Experiment
from metavoxel.evaluation.images.scores import score_images
from metavoxel.evaluation.systems import SIMPLE, SystemAnswers
from metavoxel.schema import Continuous, Schema
from metavoxel.training.hidden import hide

QUIET = Console(quiet=True)
FOLDS = {"training.split": {"kind": "folds", "folds": 3, "validation": 0.2}}
SMALL = {"blocks": [2], "init_features": 8, "growth_rate": 4}
RUN = {
    "schema": {
        "variables": {
            "image": {"kind": "image", "shape": [24, 24], "spacing": [2, 2]},
            "age": {"kind": "continuous", "unit": "years", "range": [20, 90]},
            "sex": {"kind": "categorical", "labels": ["F", "M"]},
        }
    },
    "model": {
        "encoding": {"kind": "identity"},
        "denoiser": {
            "channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8,
        },
        "sampling": {"steps": 3},
    },
    "training": {
        "joint": {
            "steps": 4, "batch_size": 8, "copies": 1, "validate_every": 2, "answer_samples": 2,
            "answer_steps": 2, "warmup_steps": 1, "calibration_folds": 0,
        },
    },
}  # fmt: skip
CODED = {"kind": "continuous", "codes": {"M": 1, "F": 0}}
PLAN = {
    "title": "Tiny",
    "cohort": {"subjects": 48, "resolution": 8.0, "missing": 0.1, "slices": True},
    "folds": [0, 1],
    "set": FOLDS,
    "trainings": {
        "ours": {"config": "run.yaml"},
        "coded": {"config": "run.yaml", "set": {"schema.variables.sex": CODED}},
    },
    "systems": {
        "one evaluation": {"training": "ours"},
        "overwritten": {
            "training": "ours",
            "samples": 2,
            "sampling": {"conditioner": "repaint", "spacing": "uniform"},
        },
        "continuous sex": {"training": "coded"},
        "DenseNet": {
            "specialists": [
                {"network": "densenet", "question": "age | image, sex", "steps": 2,
                 "validate_every": 2, "densenet": SMALL},
            ]
        },
        "multi-task": {
            "multitask": {"steps": 2, "validate_every": 1, "resnet": {"width": 4}},
            "weights": "both",
            "hidden": 0.3,
            "questions": ["age | image, sex", "age | image"],
        },
    },
    "questions": ["age | image, sex", "sex | image", "age | sex", "age | image"],
    "reference": "one evaluation",
    "images": {
        "trainings": ["ours"], "count": 6, "conditional": ["ours"], "given": ["age", "sex"],
        "memorisation": ["ours"],
        "anatomy": {
            "along": "age",
            "table": "derivatives/truth/participants.tsv",
            "columns": ["brain_volume"],
        },
    },
}  # fmt: skip


def write_plan(folder: Path, **changes: object) -> Path:
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
    return path


def check_own_folds(this: Experiment, row: dict[str, Any], text: str) -> None:
    """A model's images are compared with the test images of its own fold, and no others; beside
    the distance stands that of as many of its training images."""
    for run, value in zip(this.runs, row["frechet"]["each"], strict=True):
        drawn = free_images(this, "ours", run, "image")
        _, _, test = this.tables(run)
        assert drawn is not None
        assert value == pytest.approx(score_images(drawn, test.images["image"])["frechet"]["value"])
    assert row["frechet"]["value"] == pytest.approx(np.mean(row["frechet"]["each"]))
    assert row["m"] == sum(len(this.tables(run)[2]) for run in this.runs)
    assert row["frechet_training"]["value"] == row["floor"]["frechet"]["value"]
    assert "Fréchet distance (gist features)" in text and "FID" not in text


def check_coherence(found: dict[str, Any], text: str) -> None:
    """Of both trainings, in both folds, about each fold's own test subjects."""
    both = ["fold 0, seed 0", "fold 1, seed 0"]
    assert {name: [*runs] for name, runs in found.items()} == {"ours": both, "coded": both}
    for runs in found.values():
        for each in runs.values():
            assert each["subjects"] == 16
            assert [c["of"] for c in each["chain_rule"]] == [["age", "sex"]]
            assert each["chain_rule"][0]["max"] < 0.01
    assert found["coded"]["fold 0, seed 0"]["frequencies"]["compared"] == 0  # it has no labels
    assert "## Coherence of ours" in text and "| harmful additions |" in text


def test_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every system answers for every test person of every fold; nothing is done twice."""
    path, out = write_plan(tmp_path), tmp_path / "out"
    seeds, draw = [], work._drawn  # one seed a fold, for the images of nobody and those asked for
    monkeypatch.setattr(work, "_drawn", lambda *x: seeds.append(x[-1]) or draw(*x))
    text = experiment(path, out, QUIET)
    assert len(seeds) == 4 and len(set(seeds)) == 2
    report = json.loads((out / "report.json").read_text())
    rows = {(r["question"], r["system"]): r for r in report["answers"]}
    everyone = {name for _, name in rows}
    assert everyone == {
        "the exact posterior",
        "population mean / majority",
        "ridge / logistic on voxels",
        *PLAN["systems"],
    }
    assert {q for q, name in rows if name == "DenseNet"} == {"age | image, sex"}
    assert ("age | sex", "ridge / logistic on voxels") not in rows  # it reads images alone
    assert {q for q, name in rows if name == "the exact posterior"} == {
        "sex | image",
        "age | image",
    }
    conformal = {row for row, found in rows.items() if "conformal_50" in found["scores"]}
    assert conformal == {("age | image", "one evaluation"), ("age | image", "continuous sex")}
    asked = [r for (q, _), r in rows.items() if q == "age | image, sex"]
    assert len({r["n"] for r in asked}) == 1 and asked[0]["n"] > 20  # 2 of 3 folds of 48, some n/a
    for row in rows.values():
        headline = row["scores"].get("mae", row["scores"].get("accuracy"))
        assert len(row["runs"]) == 2
        assert min(row["runs"]) - 1e-9 <= headline["value"] <= max(row["runs"]) + 1e-9
    assert report["left"] == [] and {r["system"] for r in report["images"]} == {"ours"}
    (everybody,) = report["images_by_group"]  # by age and sex the groups are too small
    assert everybody["group"] == "all" and everybody["n"] > 20
    assert f"| image \\| age, sex | all | {everybody['n']} |" in text
    assert "## Table 1" in text and "Table 2: age" in text
    check_coherence(report["coherence"], text)
    check_memory(report["memorisation"]["ours"], text)
    check_own_folds(Experiment(read_experiment(path), tmp_path, out), report["images"][0], text)
    (measured,) = report["anatomy"]
    truth = read_table(out / "cohort" / "derivatives" / "truth" / "participants.tsv")
    people = [row.cells for row in truth.rows]
    age, brain = (np.array([float(x[c]) for x in people]) for c in ("age", "brain_volume"))
    x, y = (np.array(v, dtype=float) for v in measured["values"]["test subjects, measured"])
    known = ~np.isnan(x)
    assert known.sum() > 20 and {*zip(x[known], y[known], strict=True)} <= {
        *zip(age, brain, strict=True)
    }
    for name in ("report.html", "report.md", "scores.csv", "figures"):
        assert (out / name).exists()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done already")

    for name in ("train", "simulate", "answer_question", "ask"):
        monkeypatch.setattr(work, name, never)
    for name in ("train_specialist", "train_multitask"):
        monkeypatch.setattr(opponents, name, never)
    assert experiment(path, out, QUIET) == text
    changed = write_plan(tmp_path, folds=[0, 2])  # another fold is other work
    with pytest.raises(AssertionError, match="done already"):
        experiment(changed, out, QUIET)
    assert "Unfinished" in experiment(changed, out, QUIET, report_only=True)
    # What was measured over other folds is not of this experiment.
    unfinished = json.loads((out / "report.json").read_text())
    assert unfinished["images"] == unfinished["images_by_group"] == unfinished["anatomy"] == []
    assert [*unfinished["memorisation"]["ours"]] == ["fold 0, seed 0"]
    pages = (out / "report.html").read_text()
    assert "ours, fold 0, seed 0 beside" in pages and "ours, fold 1, seed 0 beside" not in pages
    shutil.rmtree(out / "answers" / "one-evaluation")  # the reference has not been asked yet
    assert "By how much" not in experiment(path, out, QUIET, report_only=True)


def check_memory(found: dict[str, dict], text: str) -> None:
    """Of the model of every fold, which has other training people, and of all together."""
    assert [*found] == ["fold 0, seed 0", "fold 1, seed 0"]
    aucs = [of_run["membership_auc"]["denoiser"]["value"] for of_run in found.values()]
    first, second = found.values()
    assert first["spaces"] != second["spaces"]
    section = text.partition("## Does ours remember its training images")[2].partition("##")[0]
    of_all = {line.split(" | ")[0]: line.split(" | ")[-1] for line in section.splitlines()}
    mean, spread = statistics.mean(aucs), statistics.stdev(aucs)
    assert of_all["| AUC by the error of the denoiser"] == f"{mean:.3g} ± {spread:.2g} |"
    near = [of_run["spaces"]["latent"]["nearest_is_training"]["p"] for of_run in found.values()]
    together = norm.sf(norm.isf(near).sum() / 2**0.5)  # Stouffer's
    assert of_all["| p of that share, latent"] == f"{together:.3g} |"


def test_two_processes_share_the_pieces(tmp_path: Path) -> None:
    """A piece that another process holds is left to it; needs come first."""
    done: list[str] = []

    def piece(name: str, *needs: str, key: str = "") -> Piece:
        return Piece(name, lambda console: done.append(name), lambda: key, needs)

    pieces = Pieces(tmp_path, [piece("ask", "train"), piece("train")])
    pieces.run(QUIET)
    assert done == ["train", "ask"]
    pieces.run(QUIET)
    assert done == ["train", "ask"]
    Pieces(tmp_path, [piece("train", key="other settings")]).run(QUIET)
    assert done == ["train", "ask", "train"]


def test_a_piece_that_fails_stops_only_those_that_need_it(tmp_path: Path) -> None:
    done: list[str] = []

    def fail(console: Console) -> None:
        raise MetaVoxelError("no such luck")

    def piece(name: str, *needs: str) -> Piece:
        return Piece(name, lambda console: done.append(name), lambda: "", needs)

    bad = Piece("train", fail, lambda: "")
    pieces = [bad, piece("ask", "train"), piece("measure", "ask"), piece("another")]
    with pytest.raises(MetaVoxelError, match="no such luck"):
        Pieces(tmp_path, pieces).run(QUIET)
    assert done == ["another"]


def test_several_jobs_share_an_experiment(tmp_path: Path) -> None:
    """Two processes do every piece once, and the report is that of one."""
    systems = {"one evaluation": {"training": "ours"}}
    path = write_plan(tmp_path, folds=[0], systems=systems, images=None)
    alone = experiment(path, tmp_path / "alone", QUIET)
    together = experiment(path, tmp_path / "together", QUIET, jobs=2)
    assert together.splitlines()[:20] == alone.splitlines()[:20]
    left = json.loads((tmp_path / "together" / "report.json").read_text())["left"]
    assert left == []


def _report_and_wait(queue: Any) -> None:
    queue.put(os.getpid())
    time.sleep(60)


def _with_a_helper(queue: Any) -> None:
    with helpers(2, _report_and_wait, queue):
        time.sleep(60)


def test_a_helper_does_not_outlive_whom_it_helps() -> None:
    """Not even a kill -9."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    helped = context.Process(target=_with_a_helper, args=(queue,))
    helped.start()
    helper = queue.get(timeout=60)
    helped.kill()
    helped.join()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{helper}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{helper}").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reference": "nobody"}, 'there is no system "nobody"'),
        ({"questions": ["age | sex=F"]}, "names alone"),
        ({"systems": {"x": {"training": "theirs"}}, "reference": "x"}, 'no training "theirs"'),
        ({"systems": {"x": {}}, "reference": "x"}, "either a training or specialists or multitask"),
        (
            {"systems": {"x": {"training": "ours", "hidden": 0.3}}, "reference": "x"},
            "Set training.hidden there",
        ),
        ({"colour": "x"}, "there is no key colour"),
        (
            {
                "images": {
                    "trainings": ["ours"],
                    "given": ["sex"],
                    "anatomy": {"columns": ["x"], "along": "age"},
                }
            },
            'no given variable "age"',
        ),
        (
            {"images": {"trainings": ["ours"], "memorisation": ["coded"]}},
            'images.trainings, "coded"',
        ),
    ],
)
def test_a_wrong_plan_is_one_sentence(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(MetaVoxelError, match=says):
        read_experiment(write_plan(tmp_path, **changes))


def test_specialists_learn_from_all_whose_value_is_not_hidden(tmp_path: Path) -> None:
    """What is hidden from them is what is hidden from a training; complete rows are far fewer."""
    simulate(tmp_path / "cohort", subjects=60, slices=True, resolution=8.0, jobs=1)
    plan = {"specialists": [{"network": "resnet", "question": "age | image"}], "hidden": 0.6}
    changes = {"cohort": "cohort", "questions": ["age | image"], "images": None}
    path = write_plan(tmp_path, **changes, systems={"x": plan}, reference="x", folds=[0])
    this = Experiment(read_experiment(path), tmp_path, tmp_path / "out")
    system, (run,) = this.config.systems["x"], this.runs
    seen = this.opponent(system, system.specialists[0], run).training
    hidden = hide(this.cohort.only(this.split(run).train), 0.6, run.seed)
    known = {r.id for r in hidden.records if "age" in r.values}
    ages = seen.scalars["age"]
    assert {r for r, x in zip(seen.records, ages, strict=True) if not np.isnan(x)} == known
    complete = [r for r in hidden.records if {"age", "sex"} <= {*r.values}]
    assert len(complete) < len(known) < len(seen)


def test_an_ensemble_is_the_mean_of_numbers_and_of_probabilities() -> None:
    one, other = (
        SystemAnswers({"age": np.array([age]), "sex": np.array([0.0])}, {}, {"sex": np.array([p])})
        for age, p in ((50.0, [0.6, 0.4]), (60.0, [0.1, 0.9]))
    )
    said = opponents.mean_answers([one, other])
    assert said.points["age"] == [55] and said.points["sex"] == [1]
    np.testing.assert_allclose(said.probabilities["sex"], [[0.35, 0.65]])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"set": {"training.split": "folds"}}, r"run.yaml, key training.split: "),
        ({"set": {"training.split.fold": 0}}, r"run.yaml: .*training.split.kind is missing"),
        ({"set": {"training.joint.steps.x": 1}}, 'training.joint.steps is "4". Set training'),
        ({"set": {"training.joint.step": 1}}, "no key training.joint.step. Remove"),
        ({"folds": [-1]}, r"run.yaml, key training.split.folds.fold: "),
        (
            {"systems": {"x": {"multitask": {}, "questions": ["age | sex"]}}, "reference": "x"},
            '"age | sex": the multi-task specialist reads every image',
        ),
    ],
)
def test_what_a_plan_sets_wrongly_is_told_before_anything_is_done(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    path, out = write_plan(tmp_path, **changes), tmp_path / "out"
    with pytest.raises(MetaVoxelError, match=says):
        experiment(path, out, QUIET)
    assert not out.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"questions": ["age | image, sex", "age | image", "age | image, height"]},
        {"images": {"trainings": ["ours"], "conditional": ["ours"], "given": ["height"]}},
    ],
)
def test_a_variable_that_nobody_has_is_named_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(MetaVoxelError, match='no training has a variable "height"'):
        experiment(write_plan(tmp_path, **changes), tmp_path / "out", QUIET)
    assert not (tmp_path / "out" / "pieces").exists()


def test_a_measurement_that_nobody_has_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    simulate(tmp_path / "cohort", subjects=10, slices=True, resolution=8.0, jobs=1)
    images = {**PLAN["images"], "anatomy": {"along": "age", "columns": ["spleen_volume"]}}
    plan = write_plan(tmp_path, cohort="cohort", images=images)
    with pytest.raises(MetaVoxelError, match=r'participants.tsv: .*no column "spleen_volume"'):
        experiment(plan, tmp_path / "out", QUIET)
    assert not (tmp_path / "out" / "pieces").exists()


def test_codes_become_labels() -> None:
    """Label indices to numbers and back, whatever the order of the codes."""
    coding = Coding(np.array([1.0, 0.0, 3.0]))
    np.testing.assert_array_equal(coding.numbers(np.array([0, 2, np.nan])), [1, 3, np.nan])
    np.testing.assert_array_equal(coding.nearest(np.array([0.4, 0.6, 9.0])), [1, 0, 2])
    stated = coding.probabilities(np.array([0.5]), None, np.array([1e-6]))
    np.testing.assert_allclose(stated, [[0.5, 0.5, 0]], atol=1e-9)
    drawn = coding.probabilities(np.array([0.0]), np.array([[0.1, 0.2, 2.9]]), None)
    np.testing.assert_allclose(drawn, [[1 / 6, 3 / 6, 2 / 6]])


def test_every_value_of_a_column_may_be_a_fold_of_an_experiment(tmp_path: Path) -> None:
    """Without values to test on another fold is another value; with them, another draw."""
    split = {"kind": "column", "column": "sex"}
    for test, keys in (([], ("fold", [0, 1])), (["F"], ("seed", [0, 1]))):
        path = write_plan(tmp_path, set={"training.split": {**split, "test": test}})
        this = Experiment(read_experiment(path), tmp_path, tmp_path / "out")
        found = [this.run_config("ours", run).training.split for run in this.runs]
        assert [getattr(each, keys[0]) for each in found] == keys[1]


@pytest.mark.parametrize(("common", "kind"), [(FOLDS, "folds"), ({}, "fractions")])
def test_every_fold_tests_other_people(common: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """Of folds; of fractions, which the configuration need not name, another draw."""
    path = write_plan(tmp_path, set=common)
    read = work.Experiment(read_experiment(path), tmp_path, tmp_path / "out")
    first, second = (read.run_config("ours", run).training.split for run in read.runs)
    assert first.kind == second.kind == kind
    records = tuple(Record(f"sub-{i}", None, {}) for i in range(30))
    people = Cohort(tmp_path, Schema(variables={"age": Continuous()}), records)
    tested = [{*split.make(people).test} for split in (first, second)]
    assert tested[0] != tested[1]
    assert kind == "fractions" or not tested[0] & tested[1]


def test_what_differs_in_every_training_gives_way_to_its_own(tmp_path: Path) -> None:
    own = {"config": "run.yaml", "set": {"training.joint.steps": 3}}
    path = write_plan(
        tmp_path,
        set={"training.joint.steps": 2, "training.joint.batch_size": 4},
        trainings={"ours": {"config": "run.yaml"}, "coded": own},
    )
    read = work.Experiment(read_experiment(path), tmp_path, tmp_path / "out")
    joint = {name: read.run_config(name, read.runs[0]).training.joint for name in ("ours", "coded")}
    assert {name: (j.steps, j.batch_size) for name, j in joint.items()} == {
        "ours": (2, 4),
        "coded": (3, 4),
    }


def test_a_training_with_more_variables_leaves_what_others_answered(tmp_path: Path) -> None:
    simulate(tmp_path / "cohort", subjects=10, slices=True, resolution=8.0, jobs=1)
    few = {"config": "run.yaml", "variables": ["image", "age"]}
    changes = {"cohort": "cohort", "questions": ["age | image"], "images": None}
    systems = {
        "ours": {"training": "few"},
        "ResNet": {"specialists": [{"network": "resnet", "question": "age | image"}]},
    }

    def keys(trainings: dict[str, object]) -> dict[str, str]:
        plan = {**changes, "trainings": trainings, "systems": systems, "reference": "ours"}
        this = work.Experiment(
            read_experiment(write_plan(tmp_path, **plan)), tmp_path, tmp_path / "out"
        )
        return {name: this.answers(name, this.runs[0]).key for name in (*systems, SIMPLE)}

    before = keys({"few": few})
    after = keys({"few": few, "all": {"config": "run.yaml"}})
    assert {name for name in before if before[name] != after[name]} == {SIMPLE}


@pytest.mark.parametrize("name", ["thesis.tex", "models/mine", "report.md"])
def test_an_experiment_does_not_go_where_others_files_are(tmp_path: Path, name: str) -> None:
    path, out = write_plan(tmp_path), tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(MetaVoxelError, match="out is not empty"):
        experiment(path, out, QUIET, report_only=True)
    assert [p for p in out.rglob("*") if p.is_file()] == [out / name]


@pytest.mark.parametrize("jobs", [0, -1, 257, 10**12])
def test_a_number_of_jobs_that_cannot_be_is_told(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(MetaVoxelError, match=f"--jobs is {jobs}; choose 1 to 256"):
        experiment(write_plan(tmp_path), tmp_path / "out", QUIET, jobs=jobs)
    assert not (tmp_path / "out").exists()
