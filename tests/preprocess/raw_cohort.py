"""A small raw cohort, moved copies of the template's brain and scans that are none; and what a run
makes of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folders import noise, write_nifti
from raw_scans import moved, write_brain, write_sphere


@dataclass(frozen=True)
class Cohort:
    """A BIDS folder, its derivative, and how the run that made it ended."""

    bids: Path
    out: Path
    status: int
    said: str

    def copy(self, place: Path) -> Cohort:
        """The same in another place, to spoil."""
        shutil.copytree(self.bids, place / "bids")
        shutil.copytree(self.out, place / "out")
        return Cohort(place / "bids", place / "out", self.status, self.said)


def raw(bids: Path, subject: str, session: str = "") -> Path:
    visit = [subject, *([session] if session else [])]
    return bids.joinpath(*visit, "anat", f"{'_'.join(visit)}_T1w.nii.gz")


def write_raw_cohort(bids: Path) -> Path:
    """Two people, one with a follow-up; and five scans of which none is a brain."""
    write_brain(raw(bids, "sub-01", "ses-2"), moved((6, -4, 8), (5, -8, 3)))
    write_brain(raw(bids, "sub-01", "ses-10"), moved((-5, 3, -6), (-4, 6, 9)), seed=1)
    write_brain(raw(bids, "sub-02"), moved((2, 5, -3), (9, 0, -5)), seed=2)
    cut = write_brain(raw(bids, "sub-11"), np.eye(4))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    write_nifti(raw(bids, "sub-12"), noise(8, 8, 8, 3))
    write_sphere(raw(bids, "sub-13"))
    write_nifti(raw(bids, "sub-14"), np.zeros((8, 8, 8), np.float32))
    raw(bids, "sub-15").parent.mkdir(parents=True)
    raw(bids, "sub-15").write_bytes(b"")
    return bids
