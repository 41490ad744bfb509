"""What a record holds: the variables, their kinds, ranges and labels.

A schema is the shared vocabulary of every room of the house. It knows no tensors and imports
nothing heavy, so that `metavoxel info` starts at once. A kind of variable is a class that is
registered here: an image, a number or labels, by its base class (see docs/extending.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from metavoxel.errors import MetaVoxelError
from metavoxel.files.yaml import read_yaml
from metavoxel.settings import Strict, explain
from metavoxel.words import is_missing, key, number

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class NotInSchemaError(ValueError):
    """A value that can be read, and that the schema does not have: out of range, or no label."""


def _as_text(label: object) -> str:
    """A label as text: YAML reads `no`, `0` and `off` as other types."""
    return {True: "yes", False: "no"}[label] if isinstance(label, bool) else str(label)


def _all_as_text(value: Any) -> Any:
    return tuple(map(_as_text, value)) if isinstance(value, (list, tuple)) else value


def _same(text: str, labels: Iterator[str]) -> str | None:
    """The label that a text is a spelling of, if it is one's alone."""
    fitting = [label for label in labels if key(label) == key(text)]
    return text if text in fitting else fitting[0] if len(fitting) == 1 else None


KINDS: dict[str, type[Image | Scalar]] = {}
Kind = TypeVar("Kind", bound="type[Image | Scalar]")


def register_kind(kind: Kind) -> Kind:
    """Let schemas have variables of this kind, by the default of its field `kind`. A decorator."""
    KINDS[kind.model_fields["kind"].default] = kind
    return kind


@register_kind
class Image(Strict):
    """A 2D or 3D image on a fixed grid, with any number of channels."""

    kind: Literal["image"] = "image"
    suffix: str = Field(
        default="T1w", description="BIDS suffix of the files, as in sub-01_T1w.nii.gz"
    )
    entities: dict[str, str | None] = Field(
        default_factory=dict,
        description="BIDS entities that the file must carry, such as {space: MNI152, desc: brain}; "
        "one that it must not carry is null, as in {ce: null}",
    )
    shape: tuple[int, ...] = Field(description="grid in voxels, two or three axes")
    spacing: tuple[float, ...] = Field(description="voxel size in millimetres, one per axis")
    centre: tuple[float, ...] | None = Field(
        default=None,
        description="world coordinates (mm) of the grid's centre, for images in a template space; "
        "the centre of each image's field of view if left out",
    )
    channels: int = Field(default=1, ge=1, description="channels of the file")

    @field_validator("entities", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: x if x is None else _as_text(x) for k, x in value.items()}

    @model_validator(mode="after")
    def _axes_agree(self) -> Image:
        if len(self.shape) not in (2, 3):
            raise ValueError(f"shape has {len(self.shape)} axes; an image has 2 or 3")
        if len(self.spacing) != len(self.shape):
            raise ValueError("spacing and shape must have one entry per axis")
        if self.centre is not None and len(self.centre) != len(self.shape):
            raise ValueError("centre and shape must have one entry per axis")
        if min(self.shape) < 1 or min(self.spacing) <= 0:
            raise ValueError("shape and spacing must be positive")
        return self

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)


class Scalar(Strict):
    """What numbers and labels share: where they stand in a table, and which cells are missing."""

    kind: str
    column: str | None = Field(
        default=None,
        min_length=1,
        description="name of the column in the tables; that of the variable if left out",
    )
    missing: tuple[str, ...] = Field(
        default=(),
        description="cells that stand for a missing value, such as -999, beside n/a and its like",
    )

    @field_validator("missing", mode="before")
    @classmethod
    def _missing_as_text(cls, value: Any) -> Any:
        return _all_as_text(value)

    @property
    def words(self) -> tuple[str, ...]:
        """Text that is never missing, whatever it looks like."""
        return ()

    @model_validator(mode="after")
    def _missing_apart(self) -> Scalar:
        both = {key(word) for word in self.words} & {key(cell) for cell in self.missing}
        if both:
            raise ValueError(f'"{both.pop()}" cannot be missing and a label; remove it from one')
        return self

    def is_missing(self, cell: str) -> bool:
        """Whether a cell stands for a missing value. What the schema says goes before the word."""
        if any(key(cell) == key(said) for said in self.missing):
            return True
        return is_missing(cell) and _same(cell, iter(self.words)) is None

    def parse(self, text: str | float) -> float | str:
        """The value written as `text`. Raises ValueError with a sentence fragment."""
        raise NotImplementedError

    def _check_there(self, text: object) -> None:
        if isinstance(text, str) and self.is_missing(text):
            raise ValueError(f'"{text}" stands for a missing value. Leave the variable out')


class Number(Scalar):
    """A scalar whose value is a number, embedded as one number.

    `embedding` is the class of the map between its values and normal scores, if it is another than
    `encoding.normal_scores.NormalScores`, and has the members of that.
    """

    embedding: ClassVar[Any] = None

    unit: str | None = Field(default=None, description="unit, as in participants.json (Units)")
    range: tuple[float, float] | None = Field(
        default=None,
        description="lowest and highest value; those of the codes, or of the training split, if "
        "left out",
    )
    codes: dict[str, Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        default=None,
        description="text that stands for a number, such as {F: 0, M: 1}, for labels that are to "
        "be modelled as a number",
    )

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (
            math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] < value[1]
        ):
            raise ValueError(f"range {list(value)} must be [low, high] with low < high")
        return value

    @model_validator(mode="before")
    @classmethod
    def _spanned(cls, data: Any) -> Any:
        codes = data.get("codes") if isinstance(data, dict) else None
        if not isinstance(codes, dict) or data.get("range") is not None:
            return data
        numbers = [x for x in codes.values() if isinstance(x, int | float) and math.isfinite(x)]
        if len(set(numbers)) < 2:  # which _apart will say
            return data
        return {**data, "range": (min(numbers), max(numbers))}

    @field_validator("codes", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return {_as_text(k): x for k, x in value.items()} if isinstance(value, dict) else value

    @field_validator("codes")
    @classmethod
    def _apart(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and (len(value) < 2 or len(set(value.values())) < len(value)):
            raise ValueError("codes need at least two labels, each with a number of its own")
        return value

    @model_validator(mode="after")
    def _codes_in_range(self) -> Number:
        for label, x in (self.codes or {}).items():
            if self.range is not None and not self.range[0] <= x <= self.range[1]:
                raise ValueError(f"the code {label}: {x:g} is outside the range {list(self.range)}")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.codes or {})

    def parse(self, text: str | float) -> float:
        """The number in `text`, or that its code stands for.

        Raises ValueError with a sentence fragment if there is none, NotInSchemaError if it is
        outside the range.
        """
        self._check_there(text)
        codes = self.codes or {}
        code = _same(_as_text(text), iter(codes))
        value = codes[code] if code is not None else _number(text)
        if value is None:
            unit = f" in {self.unit}" if self.unit else ""
            labels = f" or one of {', '.join(codes)}" if codes else ""
            raise ValueError(
                f'"{_shortened(text)}" is not a number{labels}. Write a number{unit}{labels}'
            )
        if not math.isfinite(value):
            raise ValueError(f"{text} is not a finite number. Leave it out if it is unknown")
        if self.range is not None and not self.range[0] <= value <= self.range[1]:
            raise NotInSchemaError(
                f"{value:g} is outside the range {self.range[0]:g} to {self.range[1]:g} of the "
                "schema. Correct the value, or widen the range before training"
            )
        return value

    def label(self, value: float) -> str:
        """The label whose code is nearest to the value; of two as near, the first.

        Raises MetaVoxelError if the variable has no codes.
        """
        if self.codes is None:
            raise MetaVoxelError("A continuous variable without codes has no labels. Add codes.")
        return min(self.codes, key=lambda label: abs(self.codes[label] - value))  # type: ignore[index]  # a lambda forgets the check


@register_kind
class Continuous(Number):
    """A real number with a range and a unit."""

    kind: Literal["continuous"] = "continuous"


@register_kind
class Categorical(Scalar):
    """One of K >= 2 labels, ordered or not."""

    kind: Literal["categorical"] = "categorical"
    labels: tuple[str, ...] = Field(description="the labels, in order")
    ordered: bool = Field(
        default=False,
        description="whether the order of the labels means something; kept with the model for its "
        "users, and used by none of the processes",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return _all_as_text(value)

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < 2:
            raise ValueError("a categorical needs at least two labels")
        if len(set(value)) != len(value):
            raise ValueError("labels must differ")
        return value

    @property
    def words(self) -> tuple[str, ...]:
        return self.labels

    def parse(self, text: str | float) -> str:
        """The label written as `text`, in any spelling that is no other label's.

        Raises ValueError with a sentence fragment; NotInSchemaError if there is no such label.
        """
        self._check_there(text)
        label = _same(_as_text(text), iter(self.labels))
        if label is None:
            raise NotInSchemaError(
                f'"{_shortened(text)}" is not one of {", ".join(self.labels)}. Correct it, or add '
                "it to the schema's labels before training"
            )
        return label


def _number(text: str | float) -> float | None:
    """Text by the grammar of tables; what is a number already as it is."""
    if isinstance(text, str):
        return number(text)
    try:
        return None if isinstance(text, bool) else float(text)
    except (TypeError, ValueError, OverflowError):
        return None


def _shortened(text: object, most: int = 60) -> str:
    """One line of a value, for a sentence."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[:most]}..."


def _of_its_kind(data: Any) -> Any:
    """A variable's class by its kind, so that kinds may be registered later."""
    if isinstance(data, Image | Scalar):
        return data
    if not isinstance(data, Mapping):
        raise ValueError("Input should be a valid dictionary")
    *others, last = (f"'{kind}'" for kind in KINDS)
    known = {"expected_tags": f"{', '.join(others)} or {last}"}
    if "kind" not in data:
        raise PydanticCustomError("union_tag_not_found", "the kind is missing", known)
    kind = KINDS.get(str(data["kind"]))
    if kind is None:
        raise PydanticCustomError("union_tag_invalid", "there is no such kind", known)
    return kind.model_validate(data)


Variable = Annotated[SerializeAsAny[Image | Scalar], BeforeValidator(_of_its_kind)]


class Schema(Strict):
    """The variables of a record, by name. Order is kept."""

    variables: dict[Name, Variable] = Field(description="every variable of a record, by name")

    @model_validator(mode="after")
    def _one_grid(self) -> Schema:
        if not self.variables:
            raise ValueError("a schema needs at least one variable")
        grids = {(v.shape, v.spacing) for v in self.images.values()}
        if len(grids) > 1:
            raise ValueError("all images of a schema must share one grid (shape and spacing)")
        return self

    @property
    def images(self) -> dict[str, Image]:
        return {n: v for n, v in self.variables.items() if isinstance(v, Image)}

    @property
    def numbers(self) -> dict[str, Number]:
        return {n: v for n, v in self.variables.items() if isinstance(v, Number)}

    @property
    def categorical(self) -> dict[str, Categorical]:
        return {n: v for n, v in self.variables.items() if isinstance(v, Categorical)}

    @property
    def scalars(self) -> dict[str, Scalar]:
        return {n: v for n, v in self.variables.items() if isinstance(v, Scalar)}

    def __getitem__(self, name: str) -> Image | Scalar:
        if name not in self.variables:
            same = [v for v in self.variables if v.casefold() == name.casefold()]
            mend = f" Write {same[0]}: only the case differs." if same else ""
            raise MetaVoxelError(
                f'There is no variable "{name}"; the schema has {", ".join(self.variables)}.{mend}'
            )
        return self.variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def to_yaml(self, reasons: Mapping[str, str] | None = None) -> str:
        """A line per variable, for a person to edit, with a reason behind it as a comment."""
        lines = ["variables:"]
        for name, variable in self.variables.items():
            told = {"kind", "suffix", *variable.model_dump(exclude_defaults=True)}
            said = variable.model_dump(mode="json", include=told)
            text = f"  {_one_line(name)}: {_one_line(_round({'kind': variable.kind, **said}))}"
            reason = " ".join((reasons or {}).get(name, "").split())
            comment = "".join(c if c.isprintable() else "?" for c in reason)
            lines.append(f"{text}  # {comment}" if comment else text)
        return "\n".join(lines) + "\n"


def _round(value: Any) -> Any:
    """The same with 40 for 40.0."""
    if isinstance(value, dict):
        return {k: _round(x) for k, x in value.items()}
    if isinstance(value, list):
        return [_round(x) for x in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _one_line(value: object) -> str:
    text = yaml.safe_dump(
        value, sort_keys=False, default_flow_style=True, width=math.inf, allow_unicode=True
    )
    return text.removesuffix("...\n").rstrip()


def parse_schema(data: Any, where: str) -> Schema:
    """Build a schema from parsed YAML; `where` names the file in errors."""
    try:
        return Schema.model_validate(data)
    except ValidationError as error:
        raise explain(error, where) from None


def read_schema(path: Path | str) -> Schema:
    """Read a schema from a YAML (or JSON) file. Raises MetaVoxelError."""
    return parse_schema(read_yaml(path), str(path))
