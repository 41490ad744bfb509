"""A model folder is what was saved, or one sentence names the file that is not."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import metavoxel as mv
from folders import scores
from metavoxel import model_files
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.inference.calibration import LEVELS
from metavoxel.inference.selftest import selftest_record
from metavoxel.info import describe
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_files import KNOWN, Calibrations, check_files, json_text, write_checksums
from metavoxel.model_folder import save_model
from metavoxel.schema import parse_schema

VARIABLES = {
    "image": {"kind": "image", "shape": [8, 8, 8], "spacing": [2, 2, 2]},
    "age": {"kind": "continuous", "unit": "years", "range": [0, 100]},
    "sex": {"kind": "categorical", "labels": ["F", "M"]},
}
SMALL = {
    "encoding": {"kind": "identity"},
    "denoiser": {"channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8},
}
POINT = {
    "n": 20,
    "normalised": True,
    "conformal_quantiles": {str(level): 2.0 for level in LEVELS},
    "bias_line": [1.0, 0.5],
}
LOOKS = {"mean": {"a": 1.0}, "spread": {"a": 1.0}, "mean_image": [0.5], "left_right": [0.5]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with every file that training writes."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    schema, config = parse_schema({"variables": VARIABLES}, "test"), ModelConfig(**SMALL)
    model = MetaVoxel(schema, config, {"age": scores(0, 100)}).eval()
    files = {
        "calibration.json": json_text({"scores": {}, "one_evaluation": {"age": POINT}}),
        "selftest.json": json_text(selftest_record(model)),
        "preprocessing.json": json_text({"declared": None, "fingerprints": {"image": LOOKS}}),
        "split.json": json_text({"train": ["sub-1"], "validation": [], "test": ["sub-2"]}),
        "training.yaml": "{}\n",
        "README.md": "# Model\n",
    }
    save_model(model, folder, files)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def test_every_file_of_a_model_is_known_and_listed(saved: Path) -> None:
    listed = json.loads((saved / "checksums.json").read_text())
    assert {p.name for p in saved.iterdir()} == {*listed, "checksums.json"}
    assert {*listed} == KNOWN


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_file_that_changed_is_named_and_nothing_is_loaded(name: str, folder: Path) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(MetaVoxelError, match=f"{name} is not the file that was saved"):
        mv.load(folder)
    (folder / name).unlink()
    with pytest.raises(MetaVoxelError, match=f"{name} is missing"):
        mv.load(folder)


@pytest.mark.parametrize("name", ["schema.json", "config.yaml", "calibration.json", "split.json"])
def test_what_info_tells_is_compared_too_and_the_weights_are_not(name: str, folder: Path) -> None:
    with (folder / "denoiser.safetensors").open("ab") as file:
        file.write(b"more")
    assert describe(folder)["subjects"] == {"train": 1, "validation": 0, "test": 1}
    (folder / name).write_text((folder / name).read_text() + " ")
    with pytest.raises(MetaVoxelError, match=f"{name} is not the file that was saved"):
        describe(folder)


def test_several_changes_are_one_sentence(folder: Path) -> None:
    for name in ("config.yaml", "schema.json"):
        (folder / name).write_text("{}")
    with pytest.raises(MetaVoxelError, match=r"config\.yaml, schema\.json are not the files"):
        mv.load(folder)


def test_a_file_of_others_in_the_folder_does_not_matter(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "figures").mkdir()
    assert mv.load(folder).schema["age"].kind == "continuous"
    assert describe(folder)["variables"]["sex"]["labels"] == ["F", "M"]


def test_a_file_that_the_list_leaves_out_is_not_read(folder: Path) -> None:
    listed = json.loads((folder / "checksums.json").read_text())
    del listed["preprocessing.json"]
    (folder / "checksums.json").write_text(json.dumps(listed))
    with pytest.raises(MetaVoxelError, match=r"preprocessing\.json is not the file that was saved"):
        mv.load(folder)


LISTS: dict[str, tuple[Callable[[dict[str, str]], Any], str]] = {
    "a path": (
        lambda x: {**x, "../other": x["schema.json"]},
        r'"\.\./other" is no file of a model',
    ),
    "no weights": (lambda x: {k: s for k, s in x.items() if k[0] != "d"}, "denoiser.*not in it"),
    "no digest": (lambda x: {**x, "schema.json": "abc"}, r"key schema\.json"),
    "a number": (lambda x: {**x, "schema.json": 3}, r"key schema\.json"),
    "a list": (lambda x: [*x], "checksums.json"),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_that_is_none_of_a_model_is_refused(case: str, folder: Path) -> None:
    change, says = LISTS[case]
    listed = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps(change(listed)))
    with pytest.raises(MetaVoxelError, match=rf"checksums\.json.*{says}|{says}"):
        mv.load(folder)


def test_without_the_list_nothing_is_loaded(folder: Path) -> None:
    (folder / "checksums.json").unlink()
    for load in (mv.load, describe):
        with pytest.raises(MetaVoxelError, match=r"checksums\.json: there is no such file"):
            load(folder)


# file: key path, what is put there, what the sentence says
WRONG: dict[str, tuple[str, list[Any], Any, str]] = {
    "no number": ("encoding.json", ["numbers", "age", "low"], "0", r"numbers\.age, key low"),
    "no finite one": ("encoding.json", ["numbers", "age", "high"], math.inf, r"age, key high"),
    "backwards": ("encoding.json", ["numbers", "age", "low"], 101, "low must be below high"),
    "others": ("encoding.json", ["numbers"], {}, "key numbers: it is not of the variables"),
    "labels": ("encoding.json", ["categorical", "sex"], ["M", "F"], "key categorical"),
    "no spread": ("encoding.json", ["numbers", "age", "components"], [], "std or components"),
    "no width": ("encoding.json", ["numbers", "age", "components", 0, 2], 0, r"ents\.0\.2"),
    "too many": ("posterior.json", ["prior", "unary"], [0.0] * 9, "2 elements"),
    "a row less": ("posterior.json", ["prior", "pair"], [[0.0, 0.0]], "pair must have shape"),
    "no frequency": ("posterior.json", ["prior", "frequencies", 0], 0.0, r"prior\.frequencies\.0"),
    "no finite slope": ("posterior.json", ["prior", "slopes", 0, 0], math.nan, r"slopes\.0\.0"),
    "no number of labels": ("posterior.json", ["prior", "counts", 0], -2, r"prior\.counts\.0"),
    "no variance": ("posterior.json", ["prior", "covariance"], [[-1.0]], "of no distribution"),
    "other labels": ("posterior.json", ["prior", "counts"], [1, 1], "key prior: it is not of the"),
    "no temperature": ("posterior.json", ["temperatures", "age"], 0.0, r"temperatures\.age"),
    "temperatures": ("posterior.json", ["temperatures"], {"age": 1.0}, "key temperatures"),
    "shift": ("posterior.json", ["shifts"], {"age": {"sex": -1.0}}, r"shifts\.age\.sex"),
    "shifts": ("posterior.json", ["shifts"], {"age": {"colour": 1.0}}, "key shifts"),
    "sharing": ("posterior.json", ["sharing"], -1.0, "sharing"),
    "no count": ("calibration.json", ["one_evaluation", "age", "n"], -1, r"one_evaluation\.age\.n"),
    "levels": ("calibration.json", ["one_evaluation", "age", "conformal_quantiles"], {}, "levels"),
    "slope": ("calibration.json", ["one_evaluation", "age", "bias_line"], [1, 0], r"bias_line\.1"),
    "answers": ("selftest.json", ["answers", "age"], [math.nan], r"answers\.age\.0"),
    "digest": ("selftest.json", ["weights", "denoiser"], "0", r"weights\.denoiser"),
    "looks": ("preprocessing.json", ["fingerprints", "image", "mean"], {}, "same statistics"),
    "spread": ("preprocessing.json", ["fingerprints", "image", "spread", "a"], 0, r"image\.spread"),
    "names": ("split.json", ["train"], "sub-1", "key train"),
    "one name": ("split.json", ["train", 0], 1, r"key train\.0"),
    "unknown": ("schema.json", ["colour"], "red", "no key colour"),
    "format": ("schema.json", ["format"], 2, "another version of metavoxel"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named_by_its_file_and_key(case: str, folder: Path) -> None:
    """Also where whoever changed it wrote the checksums anew."""
    from metavoxel.data.splits import read_split

    name, (*keys, last), value, says = WRONG[case]
    data = json.loads((folder / name).read_text())
    at = data
    for key in keys:
        at = at[key]
    at[last] = value
    (folder / name).write_text(json.dumps(data))
    write_checksums(folder)
    with pytest.raises(MetaVoxelError, match=rf"{name}.*{says}"):
        mv.load(folder)
        describe(folder)
        read_model(folder / "selftest.json", model_files.SelfTest)
        read_split(folder / "split.json")


def test_weights_are_as_readable_as_the_rest(saved: Path) -> None:
    """Safetensors leaves them to their owner alone; whoever may read the schema needs them."""
    modes = {p.stat().st_mode for p in saved.iterdir()}
    assert len(modes) == 1


def test_above_a_gigabyte_the_seconds_are_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_files(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(model_files, "_LARGE", 1000)
    check_files(folder)
    said = " ".join(capsys.readouterr().err.split())
    assert "GB took 0 s to compare with its checksums" in said


def test_what_is_not_finite_is_null_and_comes_back_as_none(tmp_path: Path) -> None:
    scores = {"scores": {"age": {"mae": math.nan, "crps": math.inf, "n": 1.0}}}
    text = json_text(scores)
    assert "NaN" not in text and "Infinity" not in text
    (tmp_path / "new.json").write_text(text)
    (tmp_path / "old.json").write_text(json.dumps(scores))  # with NaN, as older versions wrote
    for name in ("new.json", "old.json"):
        read = read_model(tmp_path / name, Calibrations).scores
        assert read == {"age": {"mae": None, "crps": None, "n": 1.0}}


def test_info_starts_without_what_takes_seconds_to_import(saved: Path) -> None:
    program = (
        "import sys; from metavoxel.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'nibabel', 'pandas', 'scipy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, "info", str(saved), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *printed, loaded = done.stdout.strip().splitlines()
    assert loaded == "[]"
    assert json.loads("\n".join(printed))["subjects"]["train"] == 1
