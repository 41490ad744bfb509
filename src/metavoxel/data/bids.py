"""A small BIDS reader: a folder and a schema become records.

Only what joint modelling needs of BIDS: participants, sessions, suffixes, entities, derivatives. A
row without a scan and a scan without a row are both records, with what they have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from metavoxel.data.description import DESCRIPTION, read_description
from metavoxel.data.names import near_pair
from metavoxel.data.quality import QC_TABLE, failed_scans
from metavoxel.data.records import Record
from metavoxel.data.remarks import remarks
from metavoxel.data.scans import Scans, choose, find_scans
from metavoxel.data.tables import BadCell, stands
from metavoxel.data.visits import Line, Tables, Told, Values, Visit, no_table, read_tables, told
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Categorical, Schema


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


def read_cohort(root: Path, schema: Schema) -> Cohort:
    """Read a BIDS dataset, or a derivative of one. Raises MetaVoxelError naming the place.

    A scan that qc.tsv says to have failed is as if it were not there.
    """
    cohort, bad = _read(Path(root), schema)
    for _, cell in bad:
        raise MetaVoxelError(cell.sentence)
    return cohort


def read_within(root: Path, schema: Schema) -> tuple[Cohort, frozenset[str], list[str]]:
    """The same without the records that hold a value which the schema does not have.

    With the subjects of all records, and a note if any is left out.
    """
    cohort, bad = _read(Path(root), schema)
    for _, cell in bad:
        if not cell.beyond:
            raise MetaVoxelError(cell.sentence)
    subjects = frozenset(cohort.subjects)
    if not bad:
        return cohort, subjects, []
    lines = {line.visit for line, _ in bad}
    kept = [r for r in cohort.records if not {(r.subject, r.session), (r.subject, None)} & lines]
    gone = len(cohort.records) - len(kept)
    note = (
        f"{gone} records are left out, since the model's schema does not have their values (such "
        f"as {bad[0][1].sentence.rstrip('.').split('. ')[0]})"
    )
    return replace(cohort, records=tuple(kept)), subjects, [note]


def read_whole(root: Path, schema: Schema) -> tuple[Cohort, list[str]]:
    """The cohort, and a sentence for every cell that the schema cannot take, in order."""
    cohort, bad = _read(Path(root), schema)
    return cohort, [cell.sentence for _, cell in bad]


def tables_of(root: Path) -> Tables:
    """The tables of a dataset, or of the one that a derivative came from."""
    participants = _participants_file(root)
    if participants is None:
        return read_tables(root / "participants.tsv", tuple(_datasets(root)))
    return read_tables(participants, (root, participants.parent))


def _read(root: Path, schema: Schema) -> tuple[Cohort, Sequence[tuple[Line, BadCell]]]:
    """The cohort without the cells that the schema cannot take, and those."""
    tables = tables_of(root)
    tables.check_columns(schema)
    said = told(tables, schema)
    found = find_scans(root)
    _check_visits(tables, found)
    scans, warnings = _without_failed(found, schema, root)
    warnings += scans.unreachable({image.suffix for image in schema.images.values()})
    visits: dict[Visit, dict[str, Path]] = {}
    for v, image in schema.images.items():
        chosen, notes = choose(scans, image, v, root)
        warnings += notes
        for scan in chosen:
            visits.setdefault((scan.subject, scan.session), {})[v] = scan.path
    listed = dict.fromkeys(line.subject for line in tables.lines)
    if stands(tables.path):
        warnings += _unmatched(tables.path, listed, visits)
    unseen = [visit for visit in said.visits if said.visits[visit] and visit not in visits]
    if unseen:
        such = _such(_ids(unseen), _ids(visits))
        warnings.append(f"{len(unseen)} visits of the tables have no scan ({such}).")
    visits |= {visit: {} for visit in unseen}
    visited = {subject for subject, _ in visits}
    visits |= {(subject, None): {} for subject in listed if subject not in visited}
    warnings += remarks(tables, schema, said, visits)
    records = [
        Record(*visit, {**_scalars(said, visit), **images}) for visit, images in visits.items()
    ]
    ordered = sorted(records, key=lambda r: (r.subject, r.session or ""))
    return Cohort(root, schema, tuple(ordered), tuple(warnings)), said.bad


def _scalars(said: Told, visit: Visit) -> Values:
    """A visit's own values, and those of the subject that no table gives for the visit."""
    spoken = said.spoken.get(visit, frozenset())
    person = said.persons.get(visit[0], {})
    return {**{v: x for v, x in person.items() if v not in spoken}, **said.visits.get(visit, {})}


def _unmatched(path: Path, listed: Collection[str], visits: Mapping[Visit, object]) -> list[str]:
    """What is to be said of rows without a scan, and of scans without a row."""
    scanned = {subject for subject, _ in visits}
    if scanned and listed and not scanned & {*listed}:
        raise MetaVoxelError(
            f"{path}: none of its {len(listed)} participants has a scan, and none of the "
            f"{len(scanned)} scanned subjects (such as {min(scanned)}) has a row. "
            f"{_agree(listed, scanned)}"
        )
    alone = [s for s in listed if s not in scanned]
    unlisted = sorted(scanned - {*listed})
    notes = []
    if alone:
        notes.append(f"{len(alone)} participants have no scan ({_such(alone, unlisted)}).")
    if unlisted:
        notes.append(f"{len(unlisted)} scanned subjects have no row (such as {unlisted[0]}).")
    return notes


def _check_visits(tables: Tables, scans: Scans) -> None:
    """Refuse tables that name visits, if no line is of a scanned one. Raises MetaVoxelError.

    A scan without a session is of the subject's line, where there is one.
    """
    named = _ids(line.visit for line in tables.lines if line.session is not None)
    scanned = _ids((f.subject, f.session) for f in (*scans.files, *scans.dead))
    lines = _ids(line.visit for line in tables.lines)
    if named and scanned and not {*lines} & {*scanned}:
        mend = _agree(named, scanned)
        if not any(f.session for f in scans.files):
            mend = "Those name no session (ses-): add it to them, or take it out of the tables."
        raise MetaVoxelError(
            f"{tables.path.parent}: its tables name {len(named)} visits (such as {named[0]}), and "
            f"none is among the {len(scanned)} scanned ones (such as {scanned[0]}). {mend}"
        )


def _ids(visits: Iterable[Visit]) -> list[str]:
    return list(dict.fromkeys(Record(*visit).id for visit in visits))


def _such(names: Sequence[str], others: Iterable[str]) -> str:
    """A name that is not among the others, with the other that it may stand for."""
    pair = near_pair(names, others)
    return f"such as {names[0]}" if pair is None else f"such as {pair[0]}; is {pair[1]} meant?"


def _agree(names: Iterable[str], others: Iterable[str]) -> str:
    pair = near_pair(names, others)
    return f"Make the names agree{'' if pair is None else f', such as {pair[0]} and {pair[1]}'}."


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
        if isinstance(kind, Categorical) and len(set(values)) < 2:
            raise MetaVoxelError(
                f'{cohort.root}: column "{v}" is "{values[0]}" in every training record; one class '
                "alone cannot be learnt. Remove it from the schema."
            )


def participants_file(root: Path) -> Path:
    """participants.tsv of the dataset, or of the dataset that a derivative came from.

    That one lies above it, or is a link of its dataset_description.json.
    """
    path = _participants_file(root)
    if path is None:
        raise MetaVoxelError(no_table(root / "participants.tsv"))
    return path


def _participants_file(root: Path) -> Path | None:
    if not root.is_dir():
        raise MetaVoxelError(f"{root}: there is no such folder. Give a BIDS dataset.")
    paths = (folder / "participants.tsv" for folder in _datasets(root))
    return next((path for path in paths if stands(path)), None)


def _datasets(root: Path) -> Iterator[Path]:
    """The dataset, those above it, and those on this machine that its DatasetLinks name."""
    yield from (root, *root.resolve().parents[:2])
    links = (read_description(root) or {}).get("DatasetLinks", {})
    if not isinstance(links, Mapping) or not all(isinstance(x, str) for x in links.values()):
        raise MetaVoxelError(
            f"{root / DESCRIPTION}, key DatasetLinks: it is no object with an address for each "
            "name. Correct it."
        )
    for link in links.values():
        if link.startswith("file://"):
            yield Path(url2pathname(urlsplit(link).path))


def _without_failed(scans: Scans, schema: Schema, root: Path) -> tuple[Scans, list[str]]:
    """The files that did not fail quality control, and a warning that counts those that did."""
    failed = failed_scans(root)
    kept = [f for f in scans.files if f.raw_name not in failed]
    suffixes = {image.suffix for image in schema.images.values()}
    gone = sorted({f.raw_name for f in scans.files if f.suffix in suffixes} & failed)
    if not gone:
        return scans, []
    if not any(f.suffix in suffixes for f in kept):
        raise MetaVoxelError(
            f"{root / QC_TABLE}: all {len(gone)} scans failed quality control. Look at them again "
            "with metavoxel qc, or remove the file."
        )
    note = f"{len(gone)} scans failed quality control and are left out (such as {gone[0]})."
    return replace(scans, files=tuple(kept)), [note]
