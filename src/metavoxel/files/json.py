"""JSON files. What stands twice, nests without end or is no text is refused, not guessed at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from metavoxel.errors import MetaVoxelError
from metavoxel.files.text import read_text
from metavoxel.files.wall import damaged, reading
from metavoxel.settings import explain

MOST_VALUES = 2 * 10**6  # a file's: a bomb of references unfolds to more
Model = TypeVar("Model", bound=BaseModel)


def read_json(path: Path) -> Any:
    """What a JSON file says. Raises MetaVoxelError naming file, line and column."""
    text = read_text(path)
    with reading(path, "JSON", "Correct it."):
        try:
            return parse_json(text)
        except json.JSONDecodeError as error:
            raise MetaVoxelError(
                f"{path}, line {error.lineno}: this is not valid JSON ({error.msg}). Correct it."
            ) from None


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError, or RecursionError where it nests without end."""
    return checked(json.loads(text, object_pairs_hook=_once))


def read_object(path: Path) -> dict[str, Any]:
    """The same of a file that must hold a JSON object, as all of BIDS do."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise damaged(path, "a JSON object", f"it holds a {type(data).__name__}", "Correct it.")
    return data


def read_model(path: Path, kind: type[Model]) -> Model:
    """What a JSON file says, as a pydantic model. Raises MetaVoxelError naming file and key."""
    data = read_json(path)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explain(error, str(path)) from None


def checked(data: Any) -> Any:
    """Data as it is. Raises ValueError where it is too much, refers to itself, or is no text."""
    left, waiting = MOST_VALUES, [data]
    while waiting:
        value = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it unfolds to more than {MOST_VALUES} values")
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str):
            value.encode()  # a lone half of a surrogate pair cannot be written anywhere
    return data


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{twice}" stands twice')
    return data
