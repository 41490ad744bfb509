"""A distribution for networks that state a number alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.systems import SystemAnswers


def with_validation_spread(
    said: SystemAnswers, held_out: SystemAnswers, validation: Table
) -> SystemAnswers:
    """Answers with a Gaussian around every number, its variance the mean squared residual of the
    answers `held_out` to the same question about the records of `validation`.

    The epoch was chosen on these records, so it is a little too small. A number whose truth none of
    them has is left as it is.
    """
    spreads = {}
    for v in said.points.keys() - said.probabilities.keys():
        squared = np.square(held_out.points[v] - validation.scalars[v])
        squared = squared[~np.isnan(squared)]
        if len(squared):
            spreads[v] = np.full(len(said), np.sqrt(squared.mean()))
    return replace(said, spreads=spreads)
