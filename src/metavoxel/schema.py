"""What a record holds: the variables, their kinds, ranges and labels.

A schema is the shared vocabulary of every room of the house. It knows no tensors and imports
nothing heavy, so that `metavoxel info` starts at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from metavoxel.errors import MetaVoxelError
from metavoxel.files.yaml import read_yaml
from metavoxel.settings import Strict, explain

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _as_text(label: object) -> str:
    """A label as text: YAML reads `no`, `0` and `off` as other types."""
    return {True: "yes", False: "no"}[label] if isinstance(label, bool) else str(label)


class Image(Strict):
    """A 2D or 3D image on a fixed grid, with any number of channels."""

    kind: Literal["image"] = "image"
    suffix: str = Field(
        default="T1w", description="BIDS suffix of the files, as in sub-01_T1w.nii.gz"
    )
    entities: dict[str, str] = Field(
        default_factory=dict,
        description="BIDS entities that the file must carry, such as {space: MNI152, desc: brain}",
    )
    shape: tuple[int, ...] = Field(description="grid in voxels, two or three axes")
    spacing: tuple[float, ...] = Field(description="voxel size in millimetres, one per axis")
    centre: tuple[float, ...] | None = Field(
        default=None,
        description="world coordinates (mm) of the grid's centre, for images in a template space; "
        "the centre of each image's field of view if left out",
    )
    channels: int = Field(default=1, ge=1, description="channels of the file")

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


class Continuous(Strict):
    """A real number with a range and a unit."""

    kind: Literal["continuous"] = "continuous"
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
    def _codes_in_range(self) -> Continuous:
        for label, x in (self.codes or {}).items():
            if self.range is not None and not self.range[0] <= x <= self.range[1]:
                raise ValueError(f"the code {label}: {x:g} is outside the range {list(self.range)}")
        return self

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (
            math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] < value[1]
        ):
            raise ValueError(f"range {list(value)} must be [low, high] with low < high")
        return value

    def parse(self, text: str | float) -> float:
        """The number in `text`, or that its code stands for.

        Raises ValueError with a sentence fragment if there is none.
        """
        codes = self.codes or {}
        try:
            value = codes[str(text)] if str(text) in codes else float(text)
        except (TypeError, ValueError):
            unit = f" in {self.unit}" if self.unit else ""
            labels = f" or one of {', '.join(codes)}" if codes else ""
            raise ValueError(
                f'"{text}" is not a number{labels}. Write a number{unit}{labels}, or n/a if it is '
                "unknown"
            ) from None
        if not math.isfinite(value):
            raise ValueError(f"{text} is not a finite number. Write n/a if it is unknown")
        if self.range is not None and not self.range[0] <= value <= self.range[1]:
            raise ValueError(
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
        return min(self.codes, key=lambda label: abs(self.codes[label] - value))  # type: ignore[index]


class Categorical(Strict):
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
        return tuple(map(_as_text, value)) if isinstance(value, (list, tuple)) else value

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < 2:
            raise ValueError("a categorical needs at least two labels")
        if len(set(value)) != len(value):
            raise ValueError("labels must differ")
        return value

    def parse(self, text: str | float) -> str:
        """The label written as `text`. Raises ValueError with a sentence fragment if unknown."""
        label = str(text)
        if label not in self.labels:
            raise ValueError(
                f'"{label}" is not one of {", ".join(self.labels)}. Correct it, or add it to the '
                "schema's labels before training"
            )
        return label


Variable = Annotated[Image | Continuous | Categorical, Field(discriminator="kind")]


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
    def continuous(self) -> dict[str, Continuous]:
        return {n: v for n, v in self.variables.items() if isinstance(v, Continuous)}

    @property
    def categorical(self) -> dict[str, Categorical]:
        return {n: v for n, v in self.variables.items() if isinstance(v, Categorical)}

    @property
    def scalars(self) -> dict[str, Continuous | Categorical]:
        return {n: v for n, v in self.variables.items() if not isinstance(v, Image)}

    def __getitem__(self, name: str) -> Image | Continuous | Categorical:
        if name not in self.variables:
            raise MetaVoxelError(
                f'There is no variable "{name}"; the schema has {", ".join(self.variables)}.'
            )
        return self.variables[name]

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def to_yaml(self) -> str:
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_defaults=False),
            sort_keys=False,
            default_flow_style=None,
        )


def parse_schema(data: Any, where: str) -> Schema:
    """Build a schema from parsed YAML; `where` names the file in errors."""
    try:
        return Schema.model_validate(data)
    except ValidationError as error:
        raise explain(error, where) from None


def read_schema(path: Path | str) -> Schema:
    """Read a schema from a YAML (or JSON) file. Raises MetaVoxelError."""
    return parse_schema(read_yaml(path), str(path))
