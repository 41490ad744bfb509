"""The notation of the textbooks: "age, sex | image=scan.nii.gz, weight=70"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Categorical, Continuous, Image, Schema

_HINT = 'Write what is asked, a bar, and what is known, as in "age, sex | image=scan.nii.gz".'
# A value may be quoted, so that a file name can hold commas.
_GIVEN = re.compile(r"""\s*([^=,|]*?)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^,]*?))\s*(?:,|$)""")


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
    left, _, right = text.partition("|")
    given = tuple(name.strip() for name in right.split(",")) if right.strip() else ()
    if "|" in right or "=" in right or not all(given):
        raise MetaVoxelError(
            f'"{text}" is not a kind of question. Write names alone, as in "age | image, sex".'
        )
    return Question(parse_query(left).asked, given)


def parse_query(text: str) -> Query:
    """Read "a, b | c=1, d=x". Raises MetaVoxelError with the part that cannot be read."""
    left, _, right = text.partition("|")
    if "|" in right:
        raise MetaVoxelError(f'The question "{text}" has more than one bar. {_HINT}')
    asked = tuple(name.strip() for name in left.split(","))
    if not left.strip() or not all(asked):
        raise MetaVoxelError(f'The question "{text}" names nothing to ask for. {_HINT}')
    if "=" in left:
        raise MetaVoxelError(f'In "{left.strip()}" a value stands left of the bar. {_HINT}')
    if not right.strip():
        return Query(asked)
    return Query(asked, dict(_givens(right, text)))


def _givens(right: str, text: str) -> Iterable[tuple[str, str]]:
    position, seen = 0, set()
    while position < len(right):
        match = _GIVEN.match(right, position)
        value = match and (match[2] or match[3] or match[4])
        if match is None or not match[1] or not value:
            part = right[position:].strip()
            raise MetaVoxelError(f'In the question "{text}", "{part}" is not name=value. {_HINT}')
        if match[1] in seen:
            raise MetaVoxelError(f"{match[1]} is given twice. Give it once.")
        seen.add(match[1])
        yield match[1], value
        position = match.end()


def _parsed(name: str, kind: Image | Continuous | Categorical, value: object) -> object:
    if isinstance(kind, Image):
        return value
    try:
        return kind.parse(value)  # type: ignore[arg-type]
    except ValueError as error:
        raise MetaVoxelError(f"{name}: {error}.") from None
