"""Settings that are checked: unknown keys are errors, and what is wrong is one sentence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from metavoxel.errors import MetaVoxelError


class Strict(BaseModel):
    """A configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(error: ValidationError, where: str) -> MetaVoxelError:
    """Turn pydantic's report into one sentence: which key of which file, and what is wrong."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the top level"
    if first["type"] == "extra_forbidden":
        return MetaVoxelError(f"{where}: there is no key {key}. Remove it or correct its spelling.")
    if first["type"] == "missing":
        return MetaVoxelError(f"{where}: the key {key} is missing. Add it.")
    if first["type"] == "union_tag_not_found":
        kinds = first.get("ctx", {}).get("expected_tags")
        which = f": {kinds}" if kinds else ""
        return MetaVoxelError(f"{where}: the key {key}.kind is missing. Add it{which}.")
    if first["type"] == "union_tag_invalid":
        kinds = first.get("ctx", {}).get("expected_tags")
        return MetaVoxelError(f"{where}, key {key}: its kind must be one of {kinds}.")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and not first["loc"]:  # keys that contradict each other
        return MetaVoxelError(f"{where}: {message}.")
    return MetaVoxelError(f"{where}, key {key}: {message}.")
