"""The best possible answers, where the cohort is simulated and its posterior is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metavoxel.data.tables import read_table
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.schema import Schema

EXACT = "the exact posterior"


def exact_answers(
    bids: Path, schema: Schema, name: str, subjects: tuple[str, ...]
) -> SystemAnswers | None:
    """p(variable | image) of each subject, from what the image shows (derivatives/truth).

    A number is answered by its median, which nobody can be nearer to on average. None if the truth
    has no such variable.
    """
    table = read_table(bids / "derivatives" / "truth" / "participants.tsv")
    cells = {row.cells["participant_id"]: row.cells for row in table.rows}

    def column(title: str) -> np.ndarray:
        return np.array([float(cells[subject][title]) for subject in subjects])

    if f"{name}_q50" in table.columns:
        return SystemAnswers({name: column(f"{name}_q50")}, spreads={name: column(f"{name}_std")})
    kind = schema.categorical.get(name)
    if kind is None or any(f"p_{label}" not in table.columns for label in kind.labels):
        return None
    p = np.stack([column(f"p_{label}") for label in kind.labels], axis=1)
    return SystemAnswers({name: p.argmax(1).astype(float)}, probabilities={name: p})
