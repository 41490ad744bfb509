"""Joint diffusion modelling of medical images and clinical data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metavoxel.errors import MetaVoxelError
from metavoxel.version import __version__

if TYPE_CHECKING:
    from metavoxel.api import Model, load

__all__ = ["MetaVoxelError", "Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the model's face when it is first asked for: `metavoxel info` must not load torch."""
    if name in ("Model", "load"):
        from metavoxel import api

        return getattr(api, name)
    raise AttributeError(f"module 'metavoxel' has no attribute '{name}'")
