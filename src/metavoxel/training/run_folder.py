"""The folder of a run: its settings, its split, and what it may be resumed with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml

from metavoxel.data.bids import Cohort
from metavoxel.data.splits import Split, read_split, write_split
from metavoxel.errors import MetaVoxelError
from metavoxel.files.writing import atomic_write, remove_leftovers
from metavoxel.training.config import RunConfig


@dataclass(frozen=True)
class Folders:
    """Where a run keeps its state: beside the model folder, so that the model appears whole."""

    model: Path

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


def check_run(folders: Folders, config: RunConfig, autoencoder: Path | None, resume: bool) -> None:
    """Refuse to overwrite a run or a model; a run is only ever continued under its own settings."""
    if folders.model.exists():
        raise MetaVoxelError(f"{folders.model} exists. Choose another --out, or remove it.")
    if not resume and folders.settings.exists():
        raise MetaVoxelError(
            f"{folders.run} holds an unfinished run. Continue it with --resume, or remove it."
        )
    if resume and not folders.settings.exists():
        raise MetaVoxelError(f"{folders.run}: there is no run to resume. Leave out --resume.")
    if resume and folders.settings.read_text() != _as_yaml(config, autoencoder):
        raise MetaVoxelError(
            f"{folders.settings} differs from what is given. Resume with the same configuration "
            "and --autoencoder, or start a new run."
        )


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
    """The run's split, or a new one. People who left or joined the cohort since are an error."""
    if not folders.settings.exists():
        return config.training.split.make(cohort.subjects)
    split = read_split(folders.split)
    changed = {*split.train, *split.validation, *split.test} ^ {*cohort.subjects}
    if changed:
        raise MetaVoxelError(
            f"{cohort.root}: the cohort has changed since this run began ({min(changed)} joined or "
            "left). Restore it, or start a new run."
        )
    if folders.data.read_text() != _data_digest(cohort):
        raise MetaVoxelError(
            f"{cohort.root}: values have changed since this run began. Restore them, or start a "
            "new run."
        )
    return split


def overlap(autoencoder: Path | None, split: Split) -> list[str]:
    """A warning if the autoencoder that is taken over has seen people of this run's test set."""
    path = autoencoder / "split.json" if autoencoder is not None else None
    if path is None or not path.is_file():
        return []
    given = read_split(path)
    both = {*given.train, *given.validation} & {*split.test}
    if not both:
        return []
    return [
        f"{path}: the autoencoder was trained on {len(both)} of this run's {len(split.test)} test "
        f"subjects (such as {min(both)}), if these are the same people. Scores on the test set "
        "would be too good; train an autoencoder on this split."
    ]
