"""What shapes the voxels of a prepared scan: every setting, and the tools with their versions."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from metavoxel.settings import Strict, explain

_BRIGHTEST = 99.5  # percentile, as in metavoxel.data.images


class Recipe(Strict):
    """The paper's preparation (section 4), and where it may differ."""

    template: Literal["MNI152NLin2009aSym"] = Field(
        default="MNI152NLin2009aSym", description="space that scans are registered to"
    )
    resolution: float = Field(default=2.0, ge=0.5, le=8, description="voxel size in millimetres")
    bias_correction: Literal["n4", "none"] = Field(
        default="n4", description="correction of slow changes of brightness"
    )
    skull_strip: Literal["deepbet", "hd-bet", "synthstrip", "mask", "none"] = Field(
        default="deepbet",
        description="what finds the brain; mask: a given mask; none: scans are stripped already",
    )
    registration: Literal["rigid"] = Field(
        default="rigid", description="kind of the transform to the template"
    )
    registration_finest: Literal[2] = Field(
        default=2, description="voxel size in millimetres at the last level of the registration"
    )
    brightest: float = Field(
        default=_BRIGHTEST, gt=50, le=100, description="percentile of the brain that becomes 1"
    )

    def declaration(self) -> dict[str, Any]:
        """The recipe as it is declared beside a scan: settings, and versions of the tools."""
        return {"settings": self.model_dump(mode="json"), "tools": self._tools()}

    def digest(self) -> str:
        """A short name for the declaration: equal digests mean equal preparation."""
        text = json.dumps(self.declaration(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _tools(self) -> dict[str, str]:
        from metavoxel.preprocess.strip import STRIPPERS
        from metavoxel.preprocess.tools import tool_version

        return {
            "antspyx": tool_version("antspyx", "Preparing scans needs ANTsPy."),
            "nilearn": tool_version("nilearn", "The template is part of nilearn."),
            **STRIPPERS[self.skull_strip]().tools(),
        }


def read_recipe(**settings: Any) -> Recipe:
    """A recipe of the settings that a user gave. Raises MetaVoxelError naming the wrong one."""
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise explain(error, "the recipe") from None
