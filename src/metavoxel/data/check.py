"""A schema beside a dataset: what of its tables the schema cannot take, and what is to be said."""

from __future__ import annotations

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


def bad_cells(root: Path, schema: Schema) -> list[str]:
    """A sentence for every cell of a dataset's tables that the schema cannot take, row by row."""
    tables = tables_of(Path(root))
    tables.check_columns(schema)
    return [cell.sentence for _, cell in told(tables, schema).bad]


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
