"""The notation of the textbooks: "age, sex | image=scan.nii.gz, weight=70"."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image, Scalar, Schema

_HINT = 'Write what is asked, a bar, and what is known, as in "age, sex | image=scan.nii.gz".'
_LONGEST = 20_000  # characters of a question: several paths, of at most 4,096 each, and their names
# A name, perhaps a value, and the comma, the bar or the end that follows. A value may be quoted, so
# that a file name can hold commas and bars.
_ITEM = re.compile(
    r"""([^=,|]*) (?: = \s*+ (?: "([^"]*)"\s* | '([^']*)'\s* | ((?!["'])[^,|]*) ) )? ([,|]|\Z)""",
    re.VERBOSE,
)
_CURLY = "“”„‟‘’‚‛«»"

_Item = tuple[str, str | None]  # a name, and its value if it has one


@dataclass(frozen=True)
class Query:
    """What is asked and what is known; what is not named is marginalised.

    Values in `given` are text as the user wrote it, or Python values.
    """

    asked: tuple[str, ...]
    given: Mapping[str, object] = field(default_factory=dict)

    def check(self, schema: Schema) -> Query:
        """The same query with scalar values parsed. Raises MetaVoxelError on what cannot be."""
        if not self.asked:
            raise MetaVoxelError(f"Nothing is asked. {_HINT}")
        for v in (*self.asked, *self.given):
            schema[v]  # raises with the list of names
        both = [v for v in self.asked if v in self.given]
        if both:
            raise MetaVoxelError(f"{both[0]} is both asked and given. Remove it from one side.")
        repeated = [v for v in self.asked if self.asked.count(v) > 1]
        if repeated:
            raise MetaVoxelError(f"{repeated[0]} is asked twice. Ask for it once.")
        return Query(self.asked, {v: _parsed(v, schema[v], x) for v, x in self.given.items()})


@dataclass(frozen=True)
class Question:
    """A kind of question: the variables that are asked, and those that are known, whatever their
    values, as in "age | image, sex"."""

    asked: tuple[str, ...]
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{', '.join(self.asked)} | {', '.join(self.given)}".rstrip()

    def check(self, schema: Schema) -> Question:
        """The same. Raises MetaVoxelError on what cannot be asked under the schema."""
        Query(self.asked).check(schema)
        for v in self.given:
            schema[v]  # raises with the list of names
        both = [v for v in self.given if v in self.asked or self.given.count(v) > 1]
        if both:
            raise MetaVoxelError(f'In "{self}", {both[0]} stands twice. Name it once.')
        return self


def parse_question(text: str) -> Question:
    """Read "a, b | c, d", names without values. Raises MetaVoxelError if it cannot be read."""
    left, *rest = _sides(text)
    right = rest[0] if rest else []
    if len(rest) > 1 or any(value is not None or not name for name, value in right):
        raise MetaVoxelError(
            f'"{text}" is not a kind of question. Write names alone, as in "age | image, sex".'
        )
    return Question(_asked(left, text), tuple(name for name, _ in right))


def parse_query(text: str) -> Query:
    """Read "a, b | c=1, d=x". Raises MetaVoxelError with the part that cannot be read."""
    left, *rest = _sides(text)
    if len(rest) > 1:
        raise MetaVoxelError(
            f'The question "{text}" has more than one bar. {_HINT} A file name with a bar in it '
            "needs quotes."
        )
    return Query(_asked(left, text), _given(rest[0], text) if rest else {})


def parse_values(text: str) -> dict[str, str]:
    """Read "c=1, d=x", the right side of a question alone. Raises MetaVoxelError."""
    sides = _sides(text)
    if len(sides) > 1:
        raise MetaVoxelError(
            f'In "{text}" a bar stands. Write values alone, as in "age=70, sex=F"; a file name '
            "with a bar in it needs quotes."
        )
    return _given(sides[0], text)


def file_path(value: str | Path) -> Path:
    """The file that a question names; ~ is the user's home."""
    return Path(os.path.expanduser(value))  # noqa: PTH111 - Path.expanduser raises RuntimeError


def _sides(text: str) -> list[list[_Item]]:
    """The items of every side of a bar; a side that is blank has none."""
    _check_readable(text)
    sides: list[list[_Item]] = [[]]
    position, mark = 0, ","
    while mark:
        match = _ITEM.match(text, position)
        if match is None:
            raise MetaVoxelError(
                f'In the question "{text}", the quotes in {text[position:].strip()} do not enclose '
                'a value. Write a value whole in quotes, as in image="a, b.nii.gz".'
            )
        name, double, single, bare, mark = match.groups()
        if bare and bare.lstrip().startswith(tuple(_CURLY)):
            raise MetaVoxelError(
                f'In the question "{text}", {bare.strip()[0]} is a quotation mark of typesetting. '
                "Write a straight one."
            )
        quoted = double if double is not None else single
        value = quoted if quoted is not None or bare is None else bare.strip()
        sides[-1].append((name.strip(), value))
        if mark == "|":
            sides.append([])
        position = match.end()
    return [[] if side == [("", None)] else side for side in sides]


def _check_readable(text: object) -> None:
    if not isinstance(text, str):
        raise MetaVoxelError(f"A question is text, not {type(text).__name__}. {_HINT}")
    if len(text) > _LONGEST:
        raise MetaVoxelError(
            f"The question has {len(text):,} characters; at most {_LONGEST:,} are read. {_HINT}"
        )
    odd = [c for c in text if unicodedata.category(c) == "Cc" and c not in "\t\n\r"]
    if odd:
        raise MetaVoxelError(
            f"The question holds a control character (U+{ord(odd[0]):04X}). Write it again without."
        )


def _asked(side: Sequence[_Item], text: str) -> tuple[str, ...]:
    if not side or not all(name for name, _ in side):
        raise MetaVoxelError(f'The question "{text}" names nothing to ask for. {_HINT}')
    if any(value is not None for _, value in side):
        raise MetaVoxelError(f'In "{text}" a value stands left of the bar. {_HINT}')
    return tuple(name for name, _ in side)


def _given(side: Sequence[_Item], text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for i, (name, value) in enumerate(side):
        if not name and value is None and i == len(side) - 1:
            break  # a comma at the end
        if not name or not value:
            part = name if value is None else f"{name}={value}"
            raise MetaVoxelError(f'In the question "{text}", "{part}" is not name=value. {_HINT}')
        if name in given:
            raise MetaVoxelError(f"{name} is given twice. Give it once.")
        given[name] = value
    return given


def _parsed(name: str, kind: Image | Scalar, value: object) -> object:
    if isinstance(kind, Image):
        return file_path(value) if isinstance(value, str | Path) else value
    try:
        return kind.parse(value)  # type: ignore[arg-type]  # its TypeError is the answer
    except (TypeError, ValueError) as error:
        raise MetaVoxelError(f"{name}: {error}.") from None
