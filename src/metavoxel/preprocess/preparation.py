"""What a model knows of how its training scans were prepared, and the check of every other scan."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metavoxel.data.description import Pipeline, declarations
from metavoxel.data.images import Scan
from metavoxel.errors import MetaVoxelError, MetaVoxelWarning
from metavoxel.preprocess.declaration import mismatch, other_versions, recipe_of
from metavoxel.preprocess.fingerprint import Fingerprint
from metavoxel.preprocess.recipe import Recipe


@dataclass(frozen=True)
class Preparation:
    """The pipelines that the training dataset declared, and how its images look, by variable."""

    declared: Sequence[Pipeline] = ()
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preparation:
        """From preprocessing.json; a model without these entries checks nothing.

        Models of before kept the first pipeline alone, as an object.
        """
        prints = {v: Fingerprint(**x) for v, x in data.get("fingerprints", {}).items()}
        told = data.get("declared") or ()
        return cls((told,) if isinstance(told, Mapping) else tuple(told), prints)

    def to_json(self) -> dict[str, Any]:
        prints = {v: asdict(x) for v, x in self.fingerprints.items()}
        return {"declared": [dict(p) for p in self.declared], "fingerprints": prints}

    def check(self, name: str, path: Path, scan: Scan) -> None:
        """Refuse a scan that declares another preparation; warn of one that looks odd.

        Raises MetaVoxelError naming what differs, or the declaration that cannot be read. Warns
        (MetaVoxelWarning) where the tools are of other versions, and where the scan looks unlike
        the training scans, whatever is declared of it.
        """
        for told in declarations(path):
            difference = mismatch(told, self.declared) if self.declared else None
            if difference is not None:
                raise MetaVoxelError(
                    f"{path}: {difference}, as this model's training scans were. {self._advice()}"
                )
            for other in other_versions(told, self.declared) if self.declared else ():
                _warn(f"{path}: it was prepared with {other}, as this model's training scans were.")
        odd = self.fingerprints[name].oddity(scan) if name in self.fingerprints else None
        if odd is not None:
            _warn(
                f"{path}: it does not look like the training scans of {name}: {odd}. The answer "
                "may be wrong however sure it sounds. Check how the scan was prepared."
            )

    def recipe(self) -> Recipe:
        """The recipe to prepare a raw scan by. Raises MetaVoxelError if none was declared."""
        recipe = recipe_of(self.declared)
        if recipe is None:
            raise MetaVoxelError(
                "This model's training scans do not say how they were prepared, so that a raw scan "
                "cannot be prepared alike. Train on what metavoxel preprocess writes."
            )
        return recipe

    def _advice(self) -> str:
        recipe = recipe_of(self.declared)
        if recipe is None:
            return "Prepare it alike, or go on with --any-preparation."
        return "Ask with the raw scan and --preprocess, or go on with --any-preparation."


def _warn(text: str) -> None:
    warnings.warn(text, MetaVoxelWarning, stacklevel=4)
