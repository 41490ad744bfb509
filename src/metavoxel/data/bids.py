"""A small BIDS reader: a folder and a schema become records.

Only what joint modelling needs of BIDS: participants, sessions, suffixes, entities, derivatives. A
row without a scan and a scan without a row are both records, with what they have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from metavoxel.data.records import Record
from metavoxel.data.tables import MISSING, Table, at_least, parse_cell, read_table
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image, Schema

EXTENSIONS = (".nii.gz", ".nii", ".png")
_DERIVED = ("space", "desc", "res", "label")  # entities that raw files never carry


@dataclass(frozen=True)
class Cohort:
    """The records of a BIDS folder under a schema, in order of subject and session."""

    root: Path
    schema: Schema
    records: tuple[Record, ...]
    warnings: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(sorted({r.subject for r in self.records}))

    def only(self, subjects: Collection[str]) -> Cohort:
        """The same cohort with only the records of these subjects."""
        wanted = set(subjects)
        return replace(self, records=tuple(r for r in self.records if r.subject in wanted))


@dataclass(frozen=True)
class ScanFile:
    """A file name taken apart: entities without `sub` and `ses`, and the suffix."""

    path: Path
    subject: str
    session: str | None
    entities: dict[str, str]
    suffix: str


def read_cohort(root: Path, schema: Schema) -> Cohort:
    """Read a BIDS dataset, or a derivative of one. Raises MetaVoxelError naming the place."""
    root = Path(root)
    files = list(scan_files(root))
    table = read_table(participants_file(root))
    rows, warnings = _rows(table, schema)
    visits: dict[tuple[str, str | None], dict[str, float | str | Path]] = {}
    for v, image in schema.images.items():
        chosen, notes = _choose(files, image, v, root)
        warnings += notes
        for scan in chosen:
            visits.setdefault((scan.subject, scan.session), {})[v] = scan.path
    scanned = {subject for subject, _ in visits}
    if scanned and rows and not scanned & set(rows):
        raise MetaVoxelError(
            f"{table.path}: none of its {len(rows)} participants has a scan, and none of the "
            f"{len(scanned)} scanned subjects (such as {min(scanned)}) has a row. Make the names "
            "agree."
        )
    alone = [s for s in rows if s not in scanned]
    unlisted = sorted(scanned - set(rows))
    if alone:
        warnings.append(f"{len(alone)} participants have no scan (such as {alone[0]}).")
    if unlisted:
        warnings.append(f"{len(unlisted)} scanned subjects have no row (such as {unlisted[0]}).")
    for subject in alone:
        visits[(subject, None)] = {}
    records = [
        Record(
            subject,
            session,
            {**rows.get(subject, {}), **_session(root, schema, subject, session), **values},
        )
        for (subject, session), values in visits.items()
    ]
    ordered = sorted(records, key=lambda r: (r.subject, r.session or ""))
    return Cohort(root, schema, tuple(ordered), tuple(warnings))


def check_trainable(cohort: Cohort) -> None:
    """Refuse a cohort from which some variable cannot be learnt. Raises MetaVoxelError."""
    if not cohort.records:
        raise MetaVoxelError(f"{cohort.root}: there is nobody to train on.")
    for v, kind in cohort.schema.variables.items():
        values = [r.values[v] for r in cohort.records if v in r.values]
        if not values:
            raise MetaVoxelError(
                f'{cohort.root}: column "{v}" has no value in any training record. Fill it in, or '
                "remove it from the schema."
            )
        if kind.kind == "categorical" and len(set(values)) < 2:
            raise MetaVoxelError(
                f'{cohort.root}: column "{v}" is "{values[0]}" in every training record; one class '
                "alone cannot be learnt. Remove it from the schema."
            )


def participants_file(root: Path) -> Path:
    """participants.tsv of the dataset, or of the dataset that a derivative came from."""
    if not root.is_dir():
        raise MetaVoxelError(f"{root}: there is no such folder. Give a BIDS dataset.")
    for folder in (root, *root.resolve().parents[:2]):
        if (folder / "participants.tsv").is_file():
            return folder / "participants.tsv"
    raise MetaVoxelError(
        f"{root}: there is no participants.tsv, here or in the dataset above. Write one with a "
        "participant_id column and a column per variable."
    )


def scan_files(root: Path) -> Iterable[ScanFile]:
    """Every image file under the subjects' folders of a dataset, in order of path."""
    for path in sorted(root.glob("sub-*/**/sub-*")):
        extension = next((e for e in EXTENSIONS if path.name.endswith(e)), None)
        if extension is None or not path.is_file():
            continue
        *parts, suffix = path.name.removesuffix(extension).split("_")
        entities = dict(part.split("-", 1) for part in parts if "-" in part)
        subject, session = entities.pop("sub"), entities.pop("ses", None)
        yield ScanFile(path, f"sub-{subject}", session and f"ses-{session}", entities, suffix)


def _choose(
    files: list[ScanFile], image: Image, name: str, root: Path
) -> tuple[list[ScanFile], list[str]]:
    """The file of each subject and session for one variable."""
    wanted = image.entities.items()
    matching = [f for f in files if f.suffix == image.suffix and wanted <= f.entities.items()]
    if not image.entities:  # a raw image is meant, where there is one
        raw = [f for f in matching if not any(e in f.entities for e in _DERIVED)]
        matching = raw or matching
    if not matching:
        found = sorted({f.suffix for f in files}) or ["none"]
        entities = "".join(f" and {k}-{x}" for k, x in wanted)
        raise MetaVoxelError(
            f"{root}: no image has the suffix {image.suffix}{entities}, which the schema wants for "
            f'"{name}". The suffixes found are: {", ".join(found)}. Correct the schema.'
        )
    by_visit: dict[tuple[str, str | None], list[ScanFile]] = {}
    for f in matching:
        by_visit.setdefault((f.subject, f.session), []).append(f)
    chosen, repeated = [], 0
    for candidates in by_visit.values():
        runs = {f.entities.get("run", "") for f in candidates}
        if len(candidates) > len(runs):
            first, second = candidates[:2]
            raise MetaVoxelError(
                f'{first.path.parent}: {first.path.name} and {second.path.name} both fit "{name}". '
                "Name the entities that choose one in the schema, as in entities: {desc: brain}."
            )
        repeated += len(candidates) > 1
        chosen.append(min(candidates, key=lambda f: f.entities.get("run", "")))
    notes = (
        [f"{repeated} visits have several runs of {name}; the first is used."] if repeated else []
    )
    return chosen, notes


def _rows(
    table: Table, schema: Schema
) -> tuple[dict[str, dict[str, float | str | Path]], list[str]]:
    """Values by subject, and warnings."""
    for v in schema.scalars:
        if v not in table.columns:
            raise MetaVoxelError(
                f'{table.path}: there is no column "{v}"; the columns are '
                f"{', '.join(table.columns)}. Correct the schema or the table."
            )
    cut = {v: sum(at_least(x)[1] for _, x in table.known(v)) for v in schema.continuous}
    warnings = [
        f'{table.path.name}: {n} values of "{v}" are written with a + (such as 89+) and read as '
        "the number itself."
        for v, n in cut.items()
        if n
    ]
    rows: dict[str, dict[str, float | str | Path]] = {}
    for row in table.rows:
        subject = row.cells["participant_id"]
        subject = subject if subject.startswith("sub-") else f"sub-{subject}"
        if subject in rows:
            raise MetaVoxelError(
                f'{table.path}, row {row.number}, column "participant_id": "{subject}" stands '
                "twice, with and without sub-. Keep one row."
            )
        rows[subject] = {
            v: parse_cell(table, row, v, kind)
            for v, kind in schema.scalars.items()
            if row.cells[v] not in MISSING
        }
    return rows, warnings


def _session(
    root: Path, schema: Schema, subject: str, session: str | None
) -> dict[str, float | str | Path]:
    """What sub-XX_sessions.tsv says of one visit; it overrides the participant's row."""
    path = root / subject / f"{subject}_sessions.tsv"
    if session is None or not path.is_file():
        return {}
    table = read_table(path, key="session_id")
    for row in table.rows:
        label = row.cells["session_id"]
        if session == (label if label.startswith("ses-") else f"ses-{label}"):
            return {
                v: parse_cell(table, row, v, kind)
                for v, kind in schema.scalars.items()
                if v in table.columns and row.cells[v] not in MISSING
            }
    return {}
