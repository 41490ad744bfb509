"""The whole head of a prepared scan lies where its brain lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ants
import numpy as np
import pytest

from folders import write_nifti
from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.group import read_group
from metavoxel.preprocess.head import read_head
from metavoxel.preprocess.template import template_brain, template_grid
from prepared import write_derivative

GRID = template_grid(4)


def write_transform(path: Path, shift: tuple[float, float, float]) -> None:
    """Where each point of the template lies in the scan: moved by `shift` (RAS, mm)."""
    lps = (-shift[0], -shift[1], shift[2])
    made = ants.create_ants_transform("AffineTransform", matrix=np.eye(3), translation=lps)
    ants.write_transform(made, str(path))


def test_the_head_is_placed_by_the_transform_that_was_saved(tmp_path: Path) -> None:
    out = write_derivative(tmp_path / "out", 1)
    scan = read_group(out)[0]
    shift = (8.0, -12.0, 4.0)  # whole voxels, so that nothing is interpolated
    affine = GRID.affine.copy()
    affine[:3, 3] += shift
    raw = tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    write_nifti(raw, 700 * template_brain(4), affine)
    assert scan.brain is not None
    write_transform(next(scan.brain.parent.glob("*_xfm.*")), shift)
    head = read_head(out, scan, GRID)
    assert np.corrcoef(head.ravel(), template_brain(4).ravel())[0, 1] > 0.999
    assert head.min() >= 0 and head.max() == 1


def test_a_transform_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    out = write_derivative(tmp_path / "out", 1)  # whose transforms are empty files
    write_nifti(tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", template_brain(4))
    with pytest.raises(MetaVoxelError, match=r"xfm.*: damaged, or not a transform"):
        read_head(out, read_group(out)[0], GRID)


def test_without_the_raw_scan_it_is_said(tmp_path: Path) -> None:
    out = write_derivative(tmp_path / "out", 1)
    scan = read_group(out)[0]
    with pytest.raises(MetaVoxelError, match=r"sub-01_T1w.nii.gz: the raw scan is not there"):
        read_head(out, scan, GRID)
    with pytest.raises(MetaVoxelError, match="where its raw scan lies is not written down"):
        read_head(out, replace(scan, source=""), GRID)
