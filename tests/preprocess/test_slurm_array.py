"""The job script that the documentation gives for SLURM, run as SLURM would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raw_cohort import Cohort
from raw_scans import brain_of, run, voxels

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "preprocessing.md"


def task(place: Path, script: str, number: int) -> subprocess.Popen[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": str(number)}
    return subprocess.Popen(
        ["bash", "-c", script], cwd=place, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.whole
def test_tasks_of_the_array_may_overlap_and_be_requeued(cohort: Cohort, tmp_path: Path) -> None:
    """Two begin an empty derivative at once; what they make is what one run makes."""
    (script,) = re.findall(r"```bash\n(.*?#SBATCH.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "BIDS").mkdir()
    for subject in ("sub-01", "sub-02"):
        (tmp_path / "BIDS" / subject).symlink_to(cohort.bids / subject)
    (tmp_path / "BIDS" / "participants.tsv").write_text("participant_id\nsub-02\nsub-01\n")
    both = [task(tmp_path, script, number) for number in (1, 2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for record in ("sub-01_ses-2", "sub-01_ses-10", "sub-02"):
        brain, alone = (voxels(brain_of(out, record)) for out in (tmp_path / "OUT", cohort.out))
        np.testing.assert_array_equal(brain, alone)
    again = task(tmp_path, script, 2)
    assert again.communicate()[1] == "2 done before.\n"
    assert run(tmp_path, "preprocess", "BIDS", "OUT", "group")[0] == 0
