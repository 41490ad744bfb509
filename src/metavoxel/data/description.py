"""dataset_description.json: what a dataset says of itself, and of how it was prepared.

The one reader of these files. One that cannot be read is an error, never taken for one that says
nothing: what was prepared otherwise would pass.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object

DESCRIPTION = "dataset_description.json"
Pipeline = Mapping[str, Any]  # an entry of GeneratedBy: Name, and what else is said of it
_BEFORE = "PipelineDescription"  # what GeneratedBy was called before BIDS 1.4


def read_description(folder: Path) -> dict[str, Any] | None:
    """What the description of a dataset says; None where there is none.

    Raises MetaVoxelError if it cannot be read, also if it is a link to a file that is not here.
    """
    path = folder / DESCRIPTION
    return read_object(path) if os.path.lexists(path) else None


def generated_by(folder: Path) -> tuple[Pipeline, ...]:
    """The pipelines that a dataset declares it was made by, all of them; none where it says none.

    Raises MetaVoxelError if its description cannot be read, or is not as BIDS has it.
    """
    path, described = folder / DESCRIPTION, read_description(folder)
    if described is None:
        return ()
    told = described.get("GeneratedBy") or described.get(_BEFORE) or _flat(described)
    if not told:
        return ()
    pipelines = [told] if isinstance(told, dict) else told
    if not isinstance(pipelines, list):
        raise _malformed(path, "it is no list of pipelines")
    for pipeline in pipelines:
        if not isinstance(pipeline, dict):
            raise _malformed(path, "an entry is no object")
        if not isinstance(pipeline.get("Name"), str) or not pipeline["Name"].strip():
            raise _malformed(path, "an entry has no Name")
    return tuple(pipelines)


def declarations(path: Path) -> list[tuple[Pipeline, ...]]:
    """What the datasets that a file lies in declare of their preparation; those that say nothing
    are left out.

    The nearest description above it counts; of a link to a file in another dataset that one's, too.
    Raises MetaVoxelError as `generated_by`.
    """
    as_given = Path(os.path.abspath(path))  # noqa: PTH100 - no link of it followed
    places = dict.fromkeys([_dataset_of(as_given), _dataset_of(path.resolve())])
    told = [generated_by(folder) for folder in places if folder is not None]
    return [pipelines for pipelines in told if pipelines]


def _flat(described: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline as fMRIPrep 1 wrote it: PipelineDescription.Name is a key."""
    keys = {key.removeprefix(f"{_BEFORE}."): x for key, x in described.items()}
    return {key: x for key, x in keys.items() if key not in described}


def _dataset_of(path: Path) -> Path | None:
    """The nearest folder above a file with a description."""
    return next((f for f in path.parents if os.path.lexists(f / DESCRIPTION)), None)


def _malformed(path: Path, why: str) -> MetaVoxelError:
    return MetaVoxelError(
        f'{path}, key GeneratedBy: {why}. Write [{{"Name": "what made it", ...}}], as BIDS has it.'
    )
