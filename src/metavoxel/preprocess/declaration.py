"""Whether two datasets declare the same preparation: every pipeline, setting by setting."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metavoxel.data.description import Pipeline
from metavoxel.preprocess.recipe import Recipe


def mismatch(scan: Sequence[Pipeline], model: Sequence[Pipeline]) -> str | None:
    """How two declarations differ, in words; None if they agree, as far as they say.

    Every pipeline counts, in whatever order. Versions are no mismatch; see `other_versions`.
    """
    if Counter(map(_name, scan)) != Counter(map(_name, model)):
        return f"it was prepared by {_listed(scan)}, not by {_listed(model)}"
    differences = (_difference(*pair) for pair in _pairs(scan, model))
    return next((d for d in differences if d is not None), None)


def other_versions(scan: Sequence[Pipeline], model: Sequence[Pipeline]) -> list[str]:
    """The tools and pipelines of which two declarations name different versions, in words.

    Of a pipeline with a recipe its tools count; of another its own version.
    """
    return [
        f"{name} {theirs.get(name)}, not {ours.get(name)}"
        for theirs, ours in ((_versions(a), _versions(b)) for a, b in _pairs(scan, model))
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]


def recipe_of(pipelines: Sequence[Pipeline]) -> Recipe | None:
    """The recipe that a declaration names, to prepare another scan alike.

    None if it names none, or other pipelines beside: they would not be repeated.
    """
    settings = _part(pipelines[0], "settings") if len(pipelines) == 1 else None
    with contextlib.suppress(ValueError):
        return None if settings is None else Recipe.model_validate(settings)
    return None


def _pairs(
    scan: Sequence[Pipeline], model: Sequence[Pipeline]
) -> Iterator[tuple[Pipeline, Pipeline]]:
    """The pipelines of the same name; of several of one name each with its own in order."""
    return zip(sorted(scan, key=_name), sorted(model, key=_name), strict=True)


def _difference(scan: Pipeline, model: Pipeline) -> str | None:
    theirs, ours = _part(scan, "settings"), _part(model, "settings")
    if theirs is None or ours is None:
        if scan.get("Description") == model.get("Description"):
            return None
        if "Description" not in scan:
            return "how it was prepared is not described"
        return f'its preparation is another: "{scan["Description"]}"'
    for name in sorted({*theirs, *ours}):
        if theirs.get(name) != ours.get(name):
            return f"it was prepared with {name} {theirs.get(name)}, not {ours.get(name)}"
    return None


def _versions(pipeline: Pipeline) -> Mapping[str, Any]:
    tools = _part(pipeline, "tools")
    return {_name(pipeline): pipeline.get("Version")} if tools is None else tools


def _part(pipeline: Pipeline, part: str) -> Mapping[str, Any] | None:
    """The settings or tools of a pipeline's recipe; others' entries have none, or of any form."""
    recipe = pipeline.get("Recipe")
    found = recipe.get(part) if isinstance(recipe, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _name(pipeline: Pipeline) -> str:
    return str(pipeline.get("Name")).strip()


def _listed(pipelines: Sequence[Pipeline]) -> str:
    return " and ".join(f'"{name}"' for name in sorted(map(_name, pipelines)))
