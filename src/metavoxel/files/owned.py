"""What in a folder is ours: a marker lists what we wrote, and only what is listed is ever removed.

The rule of every command that writes a folder: it must be empty, or ours by its marker.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.files.writing import atomic_write, cannot_write
from metavoxel.settings import Strict
from metavoxel.version import __version__

MARKER = ".metavoxel.json"


class Marker(Strict):
    """`.metavoxel.json`: which command wrote the folder, and every file of it that is ours."""

    command: str = Field(description="the command that writes here, as ask")
    version: str = Field(default=__version__, description="of metavoxel, when the folder was begun")
    files: tuple[str, ...] = Field(default=(), description="paths from here; a folder ends with /")


@dataclass(frozen=True)
class OwnedFolder:
    """A folder that a command writes. Others' files in it are never overwritten or removed."""

    folder: Path
    command: str

    @classmethod
    def open(cls, folder: Path, command: str) -> OwnedFolder:
        """Begin a folder, or go on in one of the same command. Raises MetaVoxelError otherwise."""
        owned = cls(Path(folder), command)
        if not owned.check():
            owned._write(Marker(command=command))
        return owned

    def check(self) -> bool:
        """Whether the folder is ours already; nothing is written.

        Raises MetaVoxelError unless it is, or is absent or empty.
        """
        if not self.folder.exists():
            return False
        if not self.folder.is_dir():
            raise MetaVoxelError(f"{self.folder} is a file. Choose a folder.")
        if (self.folder / MARKER).exists():
            marker = read_model(self.folder / MARKER, Marker)
            if marker.command != self.command:
                raise MetaVoxelError(
                    f"{self.folder} holds what metavoxel {marker.command} wrote. Choose another "
                    "folder, or an empty one."
                )
            return True
        try:
            held = next((p.name for p in self.folder.iterdir()), None)
        except OSError as error:
            raise MetaVoxelError(f"{self.folder} cannot be read ({error.strerror}).") from None
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
        listed = self.listed()
        new = [name for name in names if not _covered(name, listed)]
        for name in new:
            if (self.folder / name).exists() or (self.folder / name).is_symlink():
                raise MetaVoxelError(
                    f"{self.folder / name}: metavoxel did not write this file, and does not "
                    "overwrite it. Move it away, or choose another folder."
                )
        if new:
            self._write(Marker(command=self.command, files=tuple(sorted({*listed, *new}))))

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Write a file of the folder, whole or not at all; errors as `add` and `atomic_write`."""
        self.add(name)
        with atomic_write(self.folder / name) as temporary:
            yield temporary

    def strangers(self) -> list[str]:
        """The files below the folder that are not listed, as paths from here."""
        listed = self.listed()
        below = (p for p in self.folder.rglob("*") if p.is_symlink() or not p.is_dir())
        names = (p.relative_to(self.folder).as_posix() for p in below)
        return sorted(n for n in names if n != MARKER and not _covered(n, listed))

    def clear(self) -> None:
        """Remove what is listed, and the folders that this leaves empty. Raises MetaVoxelError."""
        listed = self.listed()
        try:
            for path in sorted(self.folder.rglob("*"), reverse=True):  # what is inside comes first
                name = path.relative_to(self.folder).as_posix()
                if path.is_dir() and not path.is_symlink():
                    if _covered(f"{name}/", _folders(listed)):
                        with contextlib.suppress(OSError):  # it is not empty
                            path.rmdir()
                elif _covered(name, listed):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._write(Marker(command=self.command))

    def _write(self, marker: Marker) -> None:
        with atomic_write(self.folder / MARKER) as temporary:
            temporary.write_text(marker_text(marker.command, marker.files))


def marker_text(command: str, files: Iterable[str]) -> str:
    """The marker of a folder that a command writes at once, to stand in it."""
    marker = Marker(command=command, files=tuple(sorted(files)))
    return json.dumps(marker.model_dump(mode="json"), indent=1) + "\n"


def _covered(name: str, listed: Iterable[str]) -> bool:
    """Whether a path is listed, or lies below a folder that is."""
    return name in listed or any(k.endswith("/") and name.startswith(k) for k in listed)


def _folders(listed: Iterable[str]) -> frozenset[str]:
    """Listed folders, and those that listed files lie in."""
    parents = {f"{p.as_posix()}/" for name in listed for p in Path(name).parents if p.name}
    return frozenset({*parents, *(name for name in listed if name.endswith("/"))})
