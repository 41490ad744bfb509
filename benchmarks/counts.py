"""How large the package is: lines, configuration fields, modules and classes that an age passes.

    python benchmarks/counts.py BIDS
    PYTHONPATH=OTHER/src python benchmarks/counts.py BIDS

Fields are those of every settings class that a run configuration can hold, but for the schema's.
A model of images and age is trained on BIDS in three steps, and asked for the age given an image;
modules are those of the package whose functions run meanwhile, classes those whose methods do while
it is asked and the answer is put into words. The first line says which version is counted.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
from pydantic import BaseModel

import metavoxel
from metavoxel.api import Model, load
from metavoxel.training.config import RunConfig
from metavoxel.training.run import train


def settings(kind: object, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Every settings class that a type holds, each once."""
    for part in typing.get_args(kind):
        yield from settings(part, seen)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
        seen.add(kind)
        yield kind
        for own in kind.model_fields.values():
            yield from settings(own.annotation, seen)


@dataclass
class Passed:
    """Modules of the package whose functions run, and classes whose methods do."""

    modules: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        if event == "call" and module.startswith("metavoxel.") and name != "<module>":
            short = module.removeprefix("metavoxel.")
            self.modules.add(short)
            if "." in name and "<locals>" not in name:
                self.classes.add(f"{short}.{name.split('.')[0]}")


@contextmanager
def watched() -> Iterator[Passed]:
    passed = Passed()
    threading.setprofile(passed)
    sys.setprofile(passed)
    try:
        yield passed
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def passed_by_an_answer(model: Model) -> Passed:
    rng = np.random.default_rng(0)
    images = {
        v: rng.random((kind.channels, *kind.shape), dtype=np.float32)
        for v, kind in model.schema.images.items()
    }
    with watched() as passed:
        model.ask("age", images).summary()
    return passed


def passed_by_a_training(bids: Path, out: Path) -> Passed:
    few = {"steps": 3, "validate_every": 3, "copies": 1, "calibration_folds": 2}
    image = {"kind": "image", "suffix": "T1w", "shape": [24, 24, 24], "spacing": [8, 8, 8]}
    small = {"channels": [16, 16], "latent_channels": 4}
    config = {
        "schema": {"variables": {"image": image, "age": {"kind": "continuous"}}},
        "model": {
            "encoding": {"kind": "kl", **small},
            "denoiser": {"channels": [16, 32], "head_channels": 16, "scalar_head_channels": 16},
        },
        "training": {
            "split": {"kind": "fractions", "train": 0.8, "validation": 0.1, "test": 0.1},
            "autoencoder": {"steps": 2, "validate_every": 2},
            "joint": few,
        },
    }
    with watched() as passed:
        train(bids, RunConfig.model_validate(config), out)
    return passed


def source() -> None:
    """Lines and files, the largest file, and the longest function."""
    files = {path: path.read_text() for path in Path(metavoxel.__file__).parent.rglob("*.py")}
    lines = {path.name: text.count("\n") for path, text in files.items()}
    functions = {
        f"{path.name}, {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, text in files.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    }
    print(
        f"source: {sum(text.count(chr(10)) for text in files.values())} lines, {len(files)} files"
    )
    for what, sizes in (("file", lines), ("function", functions)):
        largest = max(sizes, key=lambda name: sizes[name])
        print(f"largest {what}: {largest}, {sizes[largest]} lines")


def main(bids: Path) -> None:
    print(f"metavoxel {metavoxel.__version__}, {Path(metavoxel.__file__).parent}")
    source()
    found = [c for c in settings(RunConfig, set()) if not c.__module__.endswith("schema")]
    fields = sum(len(c.model_fields) for c in found)
    print(f"configuration: {fields} fields in {len(found)} classes")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        trained = passed_by_a_training(bids, out)
        asked = passed_by_an_answer(load(out, any_preparation=True))
    for what, names in (
        ("modules that a training passes", trained.modules),
        ("modules that an answer passes", asked.modules),
        ("classes that an answer passes", asked.classes),
    ):
        print(f"{what}: {len(names)}")
        print("  " + "\n  ".join(sorted(names)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    main(parser.parse_args().bids)
