"""A small BIDS reader: a folder and a schema become records.

Only what joint modelling needs of BIDS: participants, sessions, suffixes, entities, derivatives. A
row without a scan and a scan without a row are both records, with what they have.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from metavoxel.data.quality import QC_TABLE, failed_scans
from metavoxel.data.records import Record
from metavoxel.data.tables import MISSING, Row, Table, at_least, parse_cell, read_table
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image, Schema

Visit = tuple[str, str | None]  # subject and session
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

    @property
    def raw_name(self) -> str:
        """The name of the raw scan that this one is, or was made from: sub-01_ses-a_run-1_T1w."""
        visit = [self.subject, *([self.session] if self.session else [])]
        entities = [f"{k}-{x}" for k, x in self.entities.items() if k not in _DERIVED]
        return "_".join([*visit, *entities, self.suffix])


def read_cohort(root: Path, schema: Schema) -> Cohort:
    """Read a BIDS dataset, or a derivative of one. Raises MetaVoxelError naming the place.

    A scan that qc.tsv says to have failed is as if it were not there.
    """
    root = Path(root)
    table = read_table(participants_file(root))
    rows, warnings = _rows(table, schema)
    files, left_out = _without_failed(list(scan_files(root)), schema, root)
    warnings += left_out
    visits: dict[Visit, dict[str, float | str | Path]] = {}
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
    told, notes = _sessions((root, table.path.parent), {*rows, *scanned}, schema)
    warnings += notes
    unseen = [visit for visit in told if told[visit] and visit not in visits]
    if unseen:
        first = Record(*unseen[0], {}).id
        warnings.append(f"{len(unseen)} visits of sessions.tsv have no scan (such as {first}).")
    visits |= {visit: {} for visit in unseen}
    visited = {subject for subject, _ in visits}
    visits |= {(subject, None): {} for subject in rows if subject not in visited}
    records = [
        Record(visit[0], visit[1], {**rows.get(visit[0], {}), **told.get(visit, {}), **values})
        for visit, values in visits.items()
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
                f'{cohort.root}: "{v}" has no value in any training record. Fill it in, or remove '
                "it from the schema."
            )
        if kind.kind == "categorical" and len(set(values)) < 2:
            raise MetaVoxelError(
                f'{cohort.root}: column "{v}" is "{values[0]}" in every training record; one class '
                "alone cannot be learnt. Remove it from the schema."
            )


def participants_file(root: Path) -> Path:
    """participants.tsv of the dataset, or of the dataset that a derivative came from.

    That one lies above it, or is a link of its dataset_description.json.
    """
    if not root.is_dir():
        raise MetaVoxelError(f"{root}: there is no such folder. Give a BIDS dataset.")
    for folder in (root, *root.resolve().parents[:2], *_linked(root)):
        if (folder / "participants.tsv").is_file():
            return folder / "participants.tsv"
    raise MetaVoxelError(
        f"{root}: there is no participants.tsv, here or in the dataset it came from. Write one "
        "with a participant_id column and a column per variable."
    )


def _linked(root: Path) -> list[Path]:
    """The datasets on this machine that a derivative's DatasetLinks name."""
    try:
        described = json.loads((root / "dataset_description.json").read_text())
        links = [str(link) for link in described["DatasetLinks"].values()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []
    local = [urlsplit(link) for link in links if link.startswith("file://")]
    return [Path(url2pathname(link.path)) for link in local]


def scan_files(root: Path) -> Iterable[ScanFile]:
    """Every image file under the subjects' folders of a dataset, in order of path."""
    for path in sorted(root.glob("sub-*/**/sub-*")):
        extension = next((e for e in EXTENSIONS if path.name.endswith(e)), None)
        if extension is None or not path.is_file():
            continue
        *parts, suffix = path.name.removesuffix(extension).split("_")
        entities = dict(part.split("-", 1) for part in parts if "-" in part)
        if "sub" not in entities or "-" in suffix:
            continue  # not a BIDS name
        subject, session = entities.pop("sub"), entities.pop("ses", None)
        yield ScanFile(path, f"sub-{subject}", session and f"ses-{session}", entities, suffix)


def _without_failed(
    files: list[ScanFile], schema: Schema, root: Path
) -> tuple[list[ScanFile], list[str]]:
    """The files that did not fail quality control, and a warning that counts those that did."""
    failed = failed_scans(root)
    kept = [f for f in files if f.raw_name not in failed]
    suffixes = {image.suffix for image in schema.images.values()}
    gone = sorted({f.raw_name for f in files if f.suffix in suffixes} & failed)
    if not gone:
        return kept, []
    if not any(f.suffix in suffixes for f in kept):
        raise MetaVoxelError(
            f"{root / QC_TABLE}: all {len(gone)} scans failed quality control. Look at them again "
            "with metavoxel qc, or remove the file."
        )
    return kept, [f"{len(gone)} scans failed quality control and are left out (such as {gone[0]})."]


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
        raise _no_image(files, image, name, root)
    by_visit: dict[Visit, list[ScanFile]] = {}
    for f in matching:
        by_visit.setdefault((f.subject, f.session), []).append(f)
    chosen, repeated = [], 0
    for candidates in by_visit.values():
        others = [f for f in candidates[1:] if not _same_but_run(f, candidates[0])]
        if others:
            raise _ambiguous(candidates[0], others[0], name)
        repeated += len(candidates) > 1
        chosen.append(min(candidates, key=_run))
    notes = [f"{repeated} visits have several runs of {name}; the lowest is used."]
    return chosen, notes if repeated else []


def _run(file: ScanFile) -> tuple[int, str]:
    run = file.entities.get("run", "0")
    return (int(run) if run.isdecimal() else 0, run)


def _same_but_run(a: ScanFile, b: ScanFile) -> bool:
    """Whether two files differ in their run, and in nothing else."""
    runs = a.entities.get("run"), b.entities.get("run")
    return runs[0] != runs[1] and {**a.entities, "run": ""} == {**b.entities, "run": ""}


def _no_image(files: list[ScanFile], image: Image, name: str, root: Path) -> MetaVoxelError:
    wanted = "".join(f" and {k}-{x}" for k, x in image.entities.items())
    found = {(f.suffix, *(f"{k}-{x}" for k, x in f.entities.items() if k != "run")) for f in files}
    listed = ["_".join([*rest, suffix]) for suffix, *rest in sorted(found)[:6]]
    return MetaVoxelError(
        f"{root}: no image has the suffix {image.suffix}{wanted}, which the schema wants for "
        f'"{name}". The images found are: {", ".join(listed) or "none"}. Correct the suffix or the '
        "entities in the schema."
    )


def _ambiguous(a: ScanFile, b: ScanFile, name: str) -> MetaVoxelError:
    keys = sorted({*a.entities, *b.entities} - {"run"})
    choices = [
        f"{k}: {' or '.join(x for x in (a.entities.get(k), b.entities.get(k)) if x)}"
        for k in keys
        if a.entities.get(k) != b.entities.get(k)
    ]
    mend = (
        f"Choose in the schema with entities: {{{', '.join(choices)}}}."
        if choices
        else "Keep one of them."
    )
    return MetaVoxelError(
        f'{a.path.parent}: {a.path.name} and {b.path.name} both fit "{name}". {mend}'
    )


def _rows(
    table: Table, schema: Schema
) -> tuple[dict[str, dict[str, float | str | Path]], list[str]]:
    """Values by subject, and warnings."""
    elsewhere = _session_columns(table.path.parent)
    for v in schema.scalars:
        if v not in table.columns and v not in elsewhere:
            raise MetaVoxelError(
                f'{table.path}: there is no column "{v}"; the columns are '
                f"{', '.join(table.columns)}. Correct the schema or the table."
            )
    rows: dict[str, dict[str, float | str | Path]] = {}
    numbers: dict[str, int] = {}
    for row in table.rows:
        subject = row.cells["participant_id"]
        subject = subject if subject.startswith("sub-") else f"sub-{subject}"
        if subject in rows:
            raise MetaVoxelError(
                f'{table.path}, row {row.number}, column "participant_id": "{subject}" stands in '
                f"row {numbers[subject]} already, with or without sub-. Keep one row."
            )
        numbers[subject] = row.number
        rows[subject] = _values(table, row, schema)
    return rows, _cut_off(table.path.name, table.rows, schema)


def _values(table: Table, row: Row, schema: Schema) -> dict[str, float | str | Path]:
    """What a row says; a cell or column that is not there is missing."""
    return {
        v: parse_cell(table, row, v, kind)
        for v, kind in schema.scalars.items()
        if row.cells.get(v, "") not in MISSING
    }


def _cut_off(name: str, rows: Sequence[Row], schema: Schema) -> list[str]:
    """A warning for every column with values such as 89+."""
    counts = {v: sum(at_least(r.cells.get(v, ""))[1] for r in rows) for v in schema.continuous}
    return [
        f'{name}: {n} values of "{v}" are written with a + (such as 89+) and read as '
        "the number itself."
        for v, n in counts.items()
        if n
    ]


def _session_columns(dataset: Path) -> set[str]:
    """The columns that stand in any sub-XX_sessions.tsv."""
    paths = dataset.glob("sub-*/sub-*_sessions.tsv")
    return {column for path in paths for column in read_table(path, "session_id").columns}


def _sessions(
    places: Sequence[Path], subjects: Collection[str], schema: Schema
) -> tuple[dict[Visit, dict[str, float | str | Path]], list[str]]:
    """What sub-XX_sessions.tsv says of each visit, which overrides the participant's row; warnings.

    `places` are the datasets to look in: the derivative first, then the one with the participants.
    """
    told: dict[Visit, dict[str, float | str | Path]] = {}
    read: list[Row] = []
    for subject in sorted(subjects):
        paths = [place / subject / f"{subject}_sessions.tsv" for place in places]
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            continue
        table = read_table(path, key="session_id")
        for row in table.rows:
            label = row.cells["session_id"]
            visit = (subject, label if label.startswith("ses-") else f"ses-{label}")
            told[visit] = _values(table, row, schema)
        read += table.rows
    return told, _cut_off("sessions.tsv", read, schema)
