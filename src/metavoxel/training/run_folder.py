"""The folder of a run: its settings, its split, and what it may be resumed with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from metavoxel.data.bids import Cohort
from metavoxel.data.splits import Split, read_split, write_split
from metavoxel.errors import MetaVoxelError
from metavoxel.files.text import read_text
from metavoxel.files.wall import damaged
from metavoxel.files.writing import atomic_write, check_not_inside, locked, remove_leftovers
from metavoxel.training.checkpoint import ANEW
from metavoxel.training.config import RunConfig


@dataclass(frozen=True)
class Folders:
    """Where a run keeps its state: beside the model folder, so that the model appears whole."""

    model: Path

    @classmethod
    def of(cls, out: Path) -> Folders:
        """Those of `--out`. A link is followed: what is beside its target is beside the model."""
        named = out.name not in ("", "..") and not out.is_symlink()
        return cls(out if named else Path(os.path.realpath(out)))

    @property
    def run(self) -> Path:
        return self.model.with_name(self.model.name + ".training")

    @property
    def settings(self) -> Path:
        return self.run / "run.yaml"

    @property
    def split(self) -> Path:
        return self.run / "split.json"

    @property
    def data(self) -> Path:
        return self.run / "data.sha256"

    @property
    def cache(self) -> Path:
        return self.run / "cache"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the run's lock. Raises BusyError if another process trains here."""
        busy = f"{self.run}: another process is training here. Wait for it, or stop it first."
        with locked(self.lock, busy):
            yield


def check_run(folders: Folders, config: RunConfig, autoencoder: Path | None, resume: bool) -> None:
    """Refuse to overwrite a run or a model; a run is only ever continued under its own settings."""
    if folders.lock.is_file():
        with folders.alone():  # before anything is advised of a run that may be alive
            pass
    if folders.model.exists():
        check_not_inside(folders.model)
    if folders.model.exists() and not _is_empty(folders.model):
        raise MetaVoxelError(f"{folders.model} exists. Choose another --out, or remove it.")
    _check_ours(folders)
    if not resume and folders.settings.exists():
        raise MetaVoxelError(
            f"{folders.run} holds an unfinished run. Continue it with --resume, or remove it."
        )
    if resume and not folders.settings.exists():
        raise MetaVoxelError(f"{folders.run}: there is no run to resume. Leave out --resume.")
    if resume and read_text(folders.settings) != _as_yaml(config, autoencoder):
        raise MetaVoxelError(
            f"{folders.settings} differs from what is given. Resume with the same configuration "
            "and --autoencoder, or start a new run."
        )


def _check_ours(folders: Folders) -> None:
    """Refuse a run's folder that holds something else: it is ours if it has the run's settings."""
    if folders.settings.exists() or not folders.run.exists():
        return
    if not folders.run.is_dir():
        raise MetaVoxelError(f"{folders.run} is a file. Choose another --out.")
    begun = {path.name for path in (folders.lock, folders.split, folders.data)}
    for path in sorted(folders.run.iterdir()):
        if path.name not in begun and not path.name.startswith(".metavoxel-"):
            raise MetaVoxelError(
                f"{folders.run} holds {path.name}, and no run. Choose another --out, or move it."
            )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def open_run(
    folders: Folders, config: RunConfig, autoencoder: Path | None, cohort: Cohort, split: Split
) -> None:
    """Create the run's folder or clean it of what a killed process left half-written.

    The settings are written last: where they stand, there is a run to resume.
    """
    remove_leftovers(folders.run)
    write_split(split, folders.split)
    with atomic_write(folders.data) as temporary:
        temporary.write_text(_data_digest(cohort))
    with atomic_write(folders.settings) as temporary:
        temporary.write_text(_as_yaml(config, autoencoder))


def _as_yaml(config: RunConfig, autoencoder: Path | None) -> str:
    settings = config.model_dump(mode="json", by_alias=True)
    if autoencoder is not None:
        settings["autoencoder"] = str(autoencoder)
    return yaml.safe_dump(settings, sort_keys=False)


def _data_digest(cohort: Cohort) -> str:
    """A digest of every value of every record. A scan may be mended: what it gave is read again."""
    digest = hashlib.sha256()
    for record in cohort.records:
        for v, x in sorted(record.values.items()):
            digest.update(f"{record.id} {v} {x.name if isinstance(x, Path) else x}\n".encode())
    return digest.hexdigest()


def split_of_run(folders: Folders, config: RunConfig, cohort: Cohort) -> Split:
    """The run's split, or a new one. Subjects who left or joined the cohort since are an error."""
    if not folders.settings.exists():
        return config.training.split.make(cohort)
    split = read_split(folders.split)
    changed = {*split.train, *split.validation, *split.test} ^ {*cohort.subjects}
    if changed:
        raise MetaVoxelError(
            f"{cohort.root}: the cohort has changed since this run began ({min(changed)} joined or "
            "left). Restore it, or start a new run."
        )
    kept = read_text(folders.data)
    if len(kept) != len(_data_digest(cohort)):
        raise damaged(folders.data, "a SHA-256", f"it has {len(kept)} characters", ANEW)
    if kept != _data_digest(cohort):
        raise MetaVoxelError(
            f"{cohort.root}: values have changed since this run began. Restore them, or start a "
            "new run."
        )
    return split


def overlap(autoencoder: Path | None, split: Split) -> list[str]:
    """A warning if the autoencoder that is taken over has seen subjects of this run's test set."""
    path = autoencoder / "split.json" if autoencoder is not None else None
    if path is None or not path.is_file():
        return []
    given = read_split(path)
    both = {*given.train, *given.validation} & {*split.test}
    if not both:
        return []
    return [
        f"{path}: the autoencoder was trained on {len(both)} of this run's {len(split.test)} test "
        f"subjects (such as {min(both)}), if these are the same subjects. Scores on the test set "
        "would be too good; train an autoencoder on this split."
    ]
