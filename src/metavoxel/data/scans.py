"""The image files of a dataset, wherever links lead; which of them is which variable."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from metavoxel.data.visits import Visit
from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import is_dead_link
from metavoxel.schema import Image

EXTENSIONS = (".nii.gz", ".nii", ".png")
DERIVED = ("space", "desc", "res", "label")  # entities that raw files never carry
_DEEPEST = 4  # folders below a dataset: sub, ses, the kind of data, and one to spare
_POINTERS = (b"/annex/objects/", b"version https://git-lfs")  # a file whose content is elsewhere
_POINTER_BYTES = 1024


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
        entities = [f"{k}-{x}" for k, x in self.entities.items() if k not in DERIVED]
        return "_".join([*visit, *entities, self.suffix])

    @property
    def derived(self) -> bool:
        return any(e in self.entities for e in DERIVED)

    def fits(self, entities: Mapping[str, str | None]) -> bool:
        """Whether it carries all these entities, and none of those that are None."""
        return all(self.entities.get(k) == x for k, x in entities.items())


@dataclass(frozen=True)
class Scans:
    """The image files of a dataset, in order of path.

    `dead` are links to files that are not here, `blocked` folders that cannot be entered.
    """

    files: tuple[ScanFile, ...]
    dead: tuple[ScanFile, ...] = ()
    blocked: tuple[Path, ...] = ()

    def unreachable(self, suffixes: Collection[str] | None = None) -> list[str]:
        """A sentence for what could not be reached: scans (of these suffixes), and folders."""
        return [*self.dead_links(suffixes), *self.blocked_folders()]

    def dead_links(self, suffixes: Collection[str] | None = None) -> list[str]:
        """A sentence for the scans (of these suffixes) that are not here, if there are any."""
        dead = [f for f in self.dead if suffixes is None or f.suffix in suffixes]
        here = [f for f in self.files if suffixes is None or f.suffix in suffixes]
        if not dead:
            return []
        return [
            f"{len(dead)} of {len(dead) + len(here)} scans are links to files that are not here "
            f"(such as {dead[0].path}). Fetch them: datalad get."
        ]

    def blocked_folders(self) -> list[str]:
        """A sentence for the folders that could not be entered, if there are any."""
        if not self.blocked:
            return []
        what = "1 folder" if len(self.blocked) == 1 else f"{len(self.blocked)} folders"
        return [
            f"{what} cannot be entered (such as {self.blocked[0]}): a link to nothing, or not "
            "allowed. The scans in there are left out."
        ]


def scan_files(root: Path) -> Iterable[ScanFile]:
    """Every image file under the subjects' folders of a dataset, in order of path."""
    return find_scans(root).files


def find_scans(root: Path) -> Scans:
    """The same, and what could not be reached. Links to folders are followed, each folder once."""
    files: list[ScanFile] = []
    dead: list[ScanFile] = []
    blocked: list[Path] = []
    above = {str(folder) for folder in (root.resolve(), *root.resolve().parents)}
    found: set[tuple[str, str]] = set()  # names and files, that several ways may lead to
    for subject in sorted(root.glob("sub-*")):
        for path in sorted(_below(subject, blocked, above)):
            scan = _scan(path)
            if scan is None or (path.name, os.path.realpath(path)) in found:
                continue
            found.add((path.name, os.path.realpath(path)))
            (dead if _is_elsewhere(path) else files).append(scan)
    by_path = sorted(files, key=lambda f: f.path)
    return Scans(tuple(by_path), tuple(dead), tuple(blocked))


def _below(folder: Path, blocked: list[Path], above: Collection[str]) -> Iterator[Path]:
    """Every file and dead link below a subject's folder; folders that cannot be entered.

    No folder is entered twice, nor one that the dataset lies in.
    """
    entered = set(above)
    waiting = [(folder, 1)]
    while waiting:
        here, depth = waiting.pop()
        if not os.path.isdir(here):  # noqa: PTH112 - it never raises
            if is_dead_link(here) and "." not in here.name:
                blocked.append(here)
            elif here != folder:
                yield here
            continue
        real = os.path.realpath(here)
        if real in entered or depth > _DEEPEST:
            continue
        entered.add(real)
        try:
            waiting += [(p, depth + 1) for p in here.iterdir() if not p.name.startswith(".")]
        except OSError:
            blocked.append(here)


def _scan(path: Path) -> ScanFile | None:
    """A file whose name is one of BIDS, for an image."""
    extension = next((e for e in EXTENSIONS if path.name.endswith(e)), None)
    if extension is None or not path.name.startswith("sub-"):
        return None
    *parts, suffix = path.name.removesuffix(extension).split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    if "sub" not in entities or "-" in suffix:
        return None
    subject, session = entities.pop("sub"), entities.pop("ses", None)
    return ScanFile(path, f"sub-{subject}", session and f"ses-{session}", entities, suffix)


def _is_elsewhere(path: Path) -> bool:
    """Whether a file's content is not here: a dead link, or a pointer of git-annex or LFS."""
    try:
        if path.stat().st_size > _POINTER_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(max(_POINTERS, key=len))).startswith(_POINTERS)
    except OSError:
        return not os.path.exists(path)  # noqa: PTH110 - it never raises


def choose(scans: Scans, image: Image, name: str, root: Path) -> tuple[list[ScanFile], list[str]]:
    """The file of each subject and session for one variable, and what is to be said.

    Raises MetaVoxelError if there is none, or more than one at a visit.
    """
    matching = [f for f in scans.files if f.suffix == image.suffix and f.fits(image.entities)]
    if not any(e in image.entities for e in DERIVED):  # a raw image is meant, where there is one
        matching = [f for f in matching if not f.derived] or matching
    if not matching:
        raise _no_image(scans, image, name, root)
    by_visit: dict[Visit, list[ScanFile]] = {}
    for f in matching:
        by_visit.setdefault((f.subject, f.session), []).append(f)
    chosen, repeated = [], 0
    for candidates in by_visit.values():
        others = [f for f in candidates[1:] if not _same_but_run(f, candidates[0])]
        if others:
            raise _ambiguous(candidates[0], others[0], name, image)
        repeated += len(candidates) > 1
        chosen.append(min(candidates, key=_run))
    notes = [f"{repeated} visits have several runs of {name}; the lowest is used."]
    return chosen, notes if repeated else []


def _run(file: ScanFile) -> tuple[int, str]:
    run = file.entities.get("run", "0")
    return (int(run) if run.isascii() and run.isdecimal() and len(run) < 10 else 0, run)


def _same_but_run(a: ScanFile, b: ScanFile) -> bool:
    """Whether two files differ in their run, and in nothing else."""
    runs = a.entities.get("run"), b.entities.get("run")
    return runs[0] != runs[1] and {**a.entities, "run": ""} == {**b.entities, "run": ""}


def _no_image(scans: Scans, image: Image, name: str, root: Path) -> MetaVoxelError:
    unreachable = scans.unreachable([image.suffix])
    if scans.dead and unreachable:
        return MetaVoxelError(f"{root}: {' '.join(unreachable)}")
    wanted = "".join(
        f" and {k}-{x}" if x is not None else f" and no {k}-" for k, x in image.entities.items()
    )
    found = {
        (f.suffix, *(f"{k}-{x}" for k, x in f.entities.items() if k != "run")) for f in scans.files
    }
    listed = ["_".join([*rest, suffix]) for suffix, *rest in sorted(found)[:6]]
    return MetaVoxelError(
        f"{root}: no image has the suffix {image.suffix}{wanted}, which the schema wants for "
        f'"{name}". The images found are: {", ".join(listed) or "none"}. Correct the suffix or the '
        "entities in the schema."
    )


def _ambiguous(a: ScanFile, b: ScanFile, name: str, image: Image) -> MetaVoxelError:
    keys = [k for k in dict.fromkeys([*a.entities, *b.entities]) if k != "run"]
    apart = [k for k in keys if a.entities.get(k) != b.entities.get(k)]

    def written(file: ScanFile) -> str:
        wanted = {**image.entities, **{k: file.entities.get(k) for k in apart}}
        text = yaml.safe_dump(wanted, default_flow_style=True, sort_keys=False, width=math.inf)
        return f"entities: {text.strip()}"

    mend = f"Choose in the schema with {written(a)}, or {written(b)}." if apart else "Keep one."
    return MetaVoxelError(
        f'{a.path.parent}: {a.path.name} and {b.path.name} both fit "{name}". {mend}'
    )
