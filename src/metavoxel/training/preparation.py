"""How the training scans were prepared: what their dataset declares, and how they look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from metavoxel.data.bids import Cohort
from metavoxel.data.description import Pipeline, declarations
from metavoxel.data.images import Scan, as_scan
from metavoxel.preprocess.fingerprint import fit_fingerprint
from metavoxel.preprocess.preparation import Preparation

_SCANS = 1000  # at most: more would not change a mean and a standard deviation
_FEWEST = 10  # with fewer there is no spread to speak of


def fit_preparation(cohort: Cohort, volumes: Mapping[str, Tensor]) -> Preparation:
    """The preparation of a training cohort; volumes (N, C, *grid) uint8 by variable."""
    prints = {}
    for v in cohort.schema.images:
        rows = [i for i, record in enumerate(cohort.records) if v in record.values]
        if len(rows) >= _FEWEST:
            chosen = rows[:: -(-len(rows) // _SCANS)]
            prints[v] = fit_fingerprint(_scans(cohort, v, volumes[v], chosen))
    return Preparation(declared(cohort), prints)


def declared(cohort: Cohort) -> Sequence[Pipeline]:
    """The pipelines that a cohort's dataset declares. Raises MetaVoxelError, as `declarations`."""
    return next(iter(declarations(cohort.root / "any")), ())


def _scans(cohort: Cohort, name: str, volumes: Tensor, rows: list[int]) -> Iterator[Scan]:
    kind = cohort.schema.images[name]
    for row in rows:
        path = Path(str(cohort.records[row].values[name]))
        yield as_scan(volumes[row].numpy().astype(np.float32) / 255, path, kind)
