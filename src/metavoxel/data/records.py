"""One subject at one visit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """What is known of a subject at a session. A missing value is a missing key.

    `values` holds numbers for continuous variables, labels for categorical ones and file paths for
    images.
    """

    subject: str
    session: str | None = None
    values: Mapping[str, float | str | Path] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.subject if self.session is None else f"{self.subject}_{self.session}"
