"""What a page sends, taken strictly: nothing unknown, nothing twice, plain numbers alone."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import parse_json
from metavoxel.files.text import decoded
from metavoxel.files.wall import one_line

_WHOLE = re.compile(r"[0-9]{1,9}")
_VOXEL = re.compile(r"-?[0-9]{1,6},-?[0-9]{1,6},-?[0-9]{1,6}")


class Judgement(BaseModel):
    """What the page sends. `expected` is given by undo only: the time of the line it undoes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    scan: str = Field(max_length=500)
    decision: Literal["pass", "fail", "unsure", "n/a"]
    note: str = Field(default="", max_length=2000)
    rater: str = Field(default="", max_length=100)
    expected: str | None = Field(default=None, max_length=100)
    seen: int = Field(default=0, ge=0, lt=10**9)


def judgement(body: bytes) -> Judgement:
    """A decision from a request's body. Raises MetaVoxelError naming what is wrong."""
    try:
        data = parse_json(decoded(body))
    except (ValueError, RecursionError) as error:
        raise MetaVoxelError(f"This is no JSON that is taken here ({one_line(error)}).") from None
    try:
        return Judgement.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the decision"
        raise MetaVoxelError(f"{one_line(place)}: {one_line(first['msg'])}.") from None


def parameters(request: Request, *names: str) -> dict[str, str]:
    """The parameters of an address, each once at most and of these names alone.

    Raises MetaVoxelError.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names:
            known = f"; it may have {', '.join(names)}" if names else ""
            raise MetaVoxelError(f'"{one_line(name)}" is no parameter of this address{known}.')
        if name in given:
            raise MetaVoxelError(f'"{name}" stands twice in the address.')
        given[name] = value
    return given


def whole_number(name: str, text: str) -> int:
    """A number of lines. Raises MetaVoxelError."""
    if not _WHOLE.fullmatch(text):
        raise MetaVoxelError(f'{name}: "{one_line(text)}" is no whole number from 0 on.')
    return int(text)


def yes_or_no(name: str, text: str) -> bool:
    """true or false. Raises MetaVoxelError."""
    if text not in ("true", "false"):
        raise MetaVoxelError(f'{name}: "{one_line(text)}" is neither true nor false.')
    return text == "true"


def voxel(text: str) -> list[int]:
    """A voxel as "48,56,48"; outside the image is its edge, later. Raises MetaVoxelError."""
    if not _VOXEL.fullmatch(text):
        raise MetaVoxelError(f'"{one_line(text)}" is no voxel. Give three whole numbers, 48,56,48.')
    return [int(part) for part in text.split(",")]
