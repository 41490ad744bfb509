"""A schema beside a dataset: what of its tables the schema cannot take, and what is to be said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metavoxel.data.bids import read_whole, tables_of
from metavoxel.data.visits import told
from metavoxel.errors import MetaVoxelError
from metavoxel.files.yaml import read_yaml
from metavoxel.model_files import read_model_schema
from metavoxel.schema import Schema, parse_schema


def schema_in(path: Path) -> Schema:
    """The schema of a file that is one, of a run configuration, or of a model folder.

    Raises MetaVoxelError.
    """
    if path.is_dir():
        return read_model_schema(path)
    data = read_yaml(path)
    if not isinstance(data, dict) or "variables" in data:
        return parse_schema(data, str(path))
    if data.get("schema") is None:
        raise MetaVoxelError(
            f"{path}: there is no schema in it. Give one that metavoxel schema wrote."
        )
    return parse_schema(data["schema"], f"{path}, schema")


@dataclass(frozen=True)
class Unfit:
    """What of a dataset's tables a schema cannot take: a sentence for each `absent` column, and for
    each cell that is `bad`, row by row."""

    absent: list[str]
    bad: list[str]

    def __str__(self) -> str:
        parts = {"absent column": len(self.absent), "bad cell": len(self.bad)}
        return ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in parts.items() if n)


def unfit(root: Path, schema: Schema) -> Unfit:
    """Everything of a dataset's tables that the schema cannot take. Raises MetaVoxelError."""
    tables = tables_of(Path(root))
    absent = tables.absent(schema)
    if absent:
        tables.check_here()
    return Unfit(absent, [cell.sentence for _, cell in told(tables, schema).bad])


def bearable(found: Unfit, schema: Schema) -> tuple[Unfit, list[str]]:
    """The same for a model's schema: columns may be absent, unless all are; and a note for each."""
    if len(found.absent) == len(schema.scalars):
        return found, []
    return Unfit([], found.bad), [f"{note} evaluate leaves it out." for note in found.absent]


def notes_on(root: Path, schema: Schema) -> list[str]:
    """What reading the dataset under the schema would say, errors too."""
    try:
        cohort, bad = read_whole(root, schema)
    except MetaVoxelError as error:
        return [str(error)]
    if not bad:
        return [*cohort.warnings]
    what = "1 cell" if len(bad) == 1 else f"{len(bad)} cells"
    return [
        *cohort.warnings,
        f"{what} cannot be read, such as {bad[0].rstrip('.')}. See all: metavoxel schema --check.",
    ]
