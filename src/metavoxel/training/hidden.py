"""Values hidden from the training on purpose: what does missing metadata cost?"""

from __future__ import annotations

from dataclasses import replace

from metavoxel.data.bids import Cohort
from metavoxel.data.records import Record
from metavoxel.training.seeds import uniform


def hide(cohort: Cohort, share: float, seed: int) -> Cohort:
    """The cohort without this share of its scalar values; images stay.

    Whether a value is hidden depends on (seed, record, variable) alone, so what a smaller share
    hides a larger one hides too. A record of which nothing is left is dropped.
    """

    def seen(record: Record) -> Record:
        values = {
            v: x
            for v, x in record.values.items()
            if v not in cohort.schema.scalars or uniform(seed, record.id, v) >= share
        }
        return replace(record, values=values)

    records = tuple(r for r in map(seen, cohort.records) if r.values)
    return replace(cohort, records=records) if share > 0 else cohort
