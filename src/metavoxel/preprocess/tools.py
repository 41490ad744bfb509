"""The programs and packages that do the work: which version is here, or how to get them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from metavoxel.errors import MetaVoxelError


def tool_version(package: str, purpose: str) -> str:
    """The version of an installed package. Raises MetaVoxelError if it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        raise missing(purpose) from None


def missing(purpose: str) -> MetaVoxelError:
    """What to do where a part of the extra `prep` is absent; `purpose` says what it is for."""
    return MetaVoxelError(f"{purpose} Install it with: pip install 'metavoxel[prep]'")
