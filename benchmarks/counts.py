"""How large the package is where it answers: configuration fields, classes that an age passes.

    python benchmarks/counts.py MODEL
    PYTHONPATH=OTHER/src python benchmarks/counts.py MODEL

Fields are those of every settings class that a run configuration can hold, but for the schema's.
Classes are those of the package whose methods run while a model is asked for the age given its
images, and the answer is put into words. MODEL is a folder that the counted version has trained,
with a variable "age"; the first line says which version that is.
"""

from __future__ import annotations

import argparse
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
from pydantic import BaseModel

import metavoxel
from metavoxel.api import Model, load
from metavoxel.training.config import RunConfig


def settings(kind: object, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Every settings class that a type holds, each once."""
    for part in typing.get_args(kind):
        yield from settings(part, seen)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
        seen.add(kind)
        yield kind
        for field in kind.model_fields.values():
            yield from settings(field.annotation, seen)


def classes_passed(model: Model, asked: str) -> set[str]:
    """The package's classes, with their modules, whose methods run in one answer."""
    passed: set[str] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        ours, method = module.startswith("metavoxel."), "." in name and "<locals>" not in name
        if event == "call" and ours and method:
            passed.add(f"{module.removeprefix('metavoxel.')}.{name.split('.')[0]}")

    rng = np.random.default_rng(0)
    images = {
        v: rng.random((kind.channels, *kind.shape), dtype=np.float32)
        for v, kind in model.schema.images.items()
    }
    sys.setprofile(watch)
    try:
        model.ask(asked, images).summary()
    finally:
        sys.setprofile(None)
    return passed


def main(folder: Path) -> None:
    print(f"metavoxel {metavoxel.__version__}, {Path(metavoxel.__file__).parent}")
    found = [c for c in settings(RunConfig, set()) if not c.__module__.endswith("schema")]
    fields = sum(len(c.model_fields) for c in found)
    print(f"configuration: {fields} fields in {len(found)} classes")
    passed = sorted(classes_passed(load(folder, any_preparation=True), "age"))
    print(f"an answer about age: {len(passed)} classes")
    print("  " + "\n  ".join(passed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    main(parser.parse_args().model)
