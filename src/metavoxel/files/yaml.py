"""YAML files, which our own settings are: plain values alone, no tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import checked, read_json
from metavoxel.files.text import read_text
from metavoxel.files.wall import one_line, reading


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice, where PyYAML keeps the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f'the key "{key.value}" stands twice'
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | str) -> Any:
    """What a YAML file (or .json) says. Raises MetaVoxelError naming file and line."""
    path = Path(path)
    if path.suffix == ".json":
        return read_json(path)
    text = read_text(path)
    with reading(path, "YAML", "Correct it."):
        try:
            return checked(yaml.load(text, _Loader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = "" if mark is None else f", line {mark.line + 1}"
            reason = one_line(error.problem or "its structure is broken")
            raise MetaVoxelError(
                f"{path}{place}: this is not valid YAML ({reason}). Correct it."
            ) from None
