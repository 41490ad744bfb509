"""What in a folder is ours: a marker lists what we wrote, and only what is listed is ever removed.

The rule of every command that writes a folder: it must be absent or empty, or ours by its marker,
written by the same command. `holding` is how a command takes a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.files.writing import (
    BusyError,
    atomic_write,
    cannot_write,
    check_not_inside,
    locked,
    real_path,
    recover,
    remove_leftovers,
    target_of,
)
from metavoxel.settings import Strict
from metavoxel.version import __version__

MARKER = ".metavoxel.json"
LOCK = ".metavoxel.lock"  # stands in a folder while a command writes it
_LISTING = ".metavoxel.listing.lock"  # and this one while it lists
_OWN = frozenset({MARKER, LOCK, _LISTING})


class Marker(Strict):
    """`.metavoxel.json`: which command wrote the folder, and every file of it that is ours."""

    command: str = Field(description="the command that writes here, as ask")
    version: str = Field(default=__version__, description="of metavoxel, when the folder was begun")
    files: tuple[str, ...] = Field(default=(), description="paths from here; a folder ends with /")

    @field_validator("files")
    @classmethod
    def _inside(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for name in files:
            path = PurePosixPath(name)
            if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
                raise ValueError(f'"{name}" is no path inside the folder')
        return files


@dataclass(frozen=True)
class OwnedFolder:
    """A folder that a command writes. Others' files in it are never overwritten or removed."""

    folder: Path
    command: str

    @classmethod
    def open(cls, folder: Path, command: str) -> OwnedFolder:
        """Begin a folder, or go on in one of the same command. Raises MetaVoxelError otherwise."""
        owned = cls(Path(folder), command)
        owned._begin()
        if not owned.check():
            owned._write(())
        return owned

    def check(self) -> bool:
        """Whether the folder is ours already; nothing is written.

        Raises MetaVoxelError unless it is, or is absent or empty.
        """
        try:
            if not os.path.lexists(real_path(self.folder)):
                return False
            if not self.folder.is_dir():
                raise MetaVoxelError(f"{self.folder} is a file. Choose a folder.")
            names = sorted(os.listdir(self.folder))  # noqa: PTH208 - names alone
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise MetaVoxelError(
                f"{self.folder} cannot be read ({reason}). Choose another folder."
            ) from None
        if MARKER in names:
            marker = read_model(self.folder / MARKER, Marker)
            if marker.command != self.command:
                raise MetaVoxelError(
                    f"{self.folder} holds what metavoxel {marker.command} wrote. Choose another "
                    "folder, or an empty one."
                )
            return True
        held = next((name for name in names if not _of_marker(name)), None)
        if held is not None:
            raise MetaVoxelError(
                f"{self.folder} is not empty: it holds {held}, which metavoxel {self.command} did "
                "not write. Choose another folder, or an empty one."
            )
        return False

    def listed(self) -> frozenset[str]:
        """What the marker lists."""
        return frozenset(read_model(self.folder / MARKER, Marker).files)

    def add(self, *names: str) -> None:
        """List files (or folders, that end with /) before they are written.

        Raises MetaVoxelError if one is there that is not ours.
        """
        with self._listing():
            # Who shared the folder, and listed nothing, has taken the marker away.
            listed = self.listed() if (self.folder / MARKER).exists() else frozenset()
            self._check_free(names, listed)
            new = [name for name in names if not _covered(name, listed)]
            if new:
                self._write({*listed, *new})

    def _listing(self) -> contextlib.AbstractContextManager[None]:
        """One process at a time reads and changes what is listed."""
        return locked(self.folder / _LISTING, "", wait=True)

    def check_free(self, *names: str) -> None:
        """Raise MetaVoxelError if a file of others stands where one of ours is to be written."""
        self._check_free(names, self.listed())

    def _check_free(self, names: Iterable[str], listed: Collection[str]) -> None:
        for name in names:
            if not _covered(name, listed):
                self._check_free_of(name, listed)

    def _check_free_of(self, name: str, listed: Collection[str]) -> None:
        parts = PurePosixPath(name).parts
        for end in range(1, len(parts) + 1):
            here = self.folder.joinpath(*parts[:end])
            last = end == len(parts)
            if os.path.lexists(here) and (last or here.is_symlink() or not here.is_dir()):
                if last and name.endswith("/") and _is_parent(name, listed):
                    continue  # a folder of which files were listed before
                raise MetaVoxelError(
                    f"{here}: metavoxel {self.command} did not write this, and does not overwrite "
                    "it. Move it away, or choose another folder."
                )

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Write a file of the folder, whole or not at all; errors as `add` and `atomic_write`."""
        self.add(name)
        with atomic_write(self.folder / name) as temporary:
            yield temporary

    def strangers(self) -> list[str]:
        """What is below the folder and not listed, as paths from here; a folder ends with /."""
        listed = self.listed()
        parents = _parents(listed)
        found: list[str] = []
        for place, folders, files in os.walk(self.folder):
            here = Path(place).relative_to(self.folder)
            for name in folders.copy():
                path = (here / name).as_posix()
                if (self.folder / path).is_symlink():
                    files.append(name)
                elif f"{path}/" in parents or _covered(path, listed):
                    continue
                elif not any((self.folder / path).iterdir()):
                    found.append(f"{path}/")
            paths = ((here / name).as_posix() for name in files)
            found += [p for p in paths if not self._is_ours(p, listed)]
        return sorted(found)

    def check_replaceable(self) -> None:
        """Raise MetaVoxelError if the folder cannot be replaced as a whole: it holds something that
        is not listed, or another folder cannot take its place."""
        check_not_inside(self.folder)
        place = real_path(self.folder)
        if place.is_mount() or not os.access(place.parent, os.W_OK | os.X_OK):
            raise MetaVoxelError(
                f"{self.folder} cannot be replaced by another folder (it is mounted, or the folder "
                f"that it lies in may not be written). Choose one inside it: {self.folder}/new."
            )
        found = self.strangers()
        if found:
            raise MetaVoxelError(
                f"{self.folder / found[0]}: metavoxel {self.command} did not write this, and would "
                f"replace all of {self.folder}. Move it away, or choose another folder."
            )

    def keep_only(self, names: Collection[str]) -> None:
        """Remove what is listed but not named, and the folders that this leaves empty.

        Raises MetaVoxelError.
        """
        listed = self.listed()
        parents = _parents(listed)
        try:
            for place, folders, files in os.walk(self.folder, topdown=False):
                here = Path(place).relative_to(self.folder)
                links = [n for n in folders if (self.folder / here / n).is_symlink()]
                for name in (*files, *links):
                    path = (here / name).as_posix()
                    if _covered(path, listed) and not _covered(path, names):
                        (self.folder / path).unlink(missing_ok=True)
                inside = here.as_posix()
                if f"{inside}/" in parents or _covered(inside, listed):
                    with contextlib.suppress(OSError):  # it is not empty
                        Path(place).rmdir()
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._write(listed & {*names})

    def clear(self) -> None:
        """Remove what is listed, and the folders that this leaves empty. Raises MetaVoxelError."""
        self.keep_only(())

    def remove_leftovers(self) -> None:
        """Remove what a killed process was writing here. Nobody may be writing now."""
        listed = self.listed() if self.check() else frozenset()

        def ours(target: Path) -> bool:
            name = target.relative_to(self.folder).as_posix()
            return name == MARKER or _covered(name, listed)

        try:
            remove_leftovers(self.folder, ours)
            with contextlib.suppress(FileNotFoundError):
                (self.folder / _LISTING).unlink()
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _is_ours(self, path: str, listed: Collection[str]) -> bool:
        if path in _OWN or _covered(path, listed):
            return True
        target = target_of(Path(path))
        return target is not None and _covered(target.as_posix(), {*listed, MARKER})

    def _begin(self) -> None:
        """Make the folder where it is not there, or where an earlier process left it."""
        try:
            recover(self.folder)
            real_path(self.folder).mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            told = error if isinstance(error, OSError) else OSError(str(error))
            raise cannot_write(self.folder, told) from None

    def _write(self, files: Iterable[str]) -> None:
        with atomic_write(self.folder / MARKER) as temporary:
            temporary.write_text(marker_text(self.command, files))


@contextlib.contextmanager
def holding(folder: Path, command: str, shared: bool = False) -> Iterator[OwnedFolder]:
    """Hold the folder that a command writes, from before its work to its end.

    It is begun where it is not there; if nothing is written to it, nothing is left. Raises
    MetaVoxelError unless it is empty, absent, or of the same command; BusyError if another command
    writes it, or, if `shared`, one that does not share it.
    """
    owned = OwnedFolder(Path(folder), command)
    owned.check()
    new = not os.path.lexists(real_path(owned.folder))
    owned._begin()
    lock = owned.folder / LOCK
    busy = f"{owned.folder}: another metavoxel {command} is writing here. Wait for it."
    try:
        if shared:  # whoever comes first is alone for a moment, and tidies up
            with contextlib.suppress(BusyError), locked(lock, busy):
                owned.remove_leftovers()
        with locked(lock, busy, shared, wait=shared):
            if not shared:
                owned.remove_leftovers()
            with _marked(owned):
                yield owned
    finally:
        if new:
            with contextlib.suppress(OSError):  # something was written
                real_path(owned.folder).rmdir()


@contextlib.contextmanager
def _marked(owned: OwnedFolder) -> Iterator[None]:
    """With its marker; without it again where nothing was written."""
    with owned._listing():  # others may share the folder, and begin it, too
        if not owned.check():
            owned._write(())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, MetaVoxelError), owned._listing():
            if not owned.listed():
                (owned.folder / MARKER).unlink()


def marker_text(command: str, files: Iterable[str]) -> str:
    """The marker of a folder that a command writes at once, to stand in it."""
    marker = Marker(command=command, files=tuple(sorted(files)))
    return json.dumps(marker.model_dump(mode="json"), indent=1) + "\n"


def files_below(folder: Path) -> list[str]:
    """Every file below a folder that was just written, to be listed: paths from there."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in found)


def _of_marker(name: str) -> bool:
    """Whether a name at the top of a folder is one that begins the folder, or a rest of that."""
    target = target_of(Path(name))
    return name in _OWN or (target is not None and target.name in _OWN)


def _covered(name: str, listed: Collection[str]) -> bool:
    """Whether a path is listed, or lies below a folder that is."""
    return name in listed or any(f"{p.as_posix()}/" in listed for p in _folders_of(name))


def _folders_of(name: str) -> list[PurePosixPath]:
    """A path itself, as a folder, and every folder that it lies in."""
    path = PurePosixPath(name)
    return [path, *(p for p in path.parents if p.name)]


def _parents(listed: Iterable[str]) -> frozenset[str]:
    """The folders that listed files lie in."""
    return frozenset(f"{p.as_posix()}/" for name in listed for p in _folders_of(name)[1:])


def _is_parent(name: str, listed: Iterable[str]) -> bool:
    return name in _parents(listed)
