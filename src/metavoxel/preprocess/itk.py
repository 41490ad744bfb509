"""Bias correction and registration by ANTs, on arrays with affines. The same bits every time."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metavoxel.data.images import Grid
from metavoxel.errors import MetaVoxelError
from metavoxel.files.wall import reading
from metavoxel.preprocess.tools import missing

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts left and posterior, NIfTI right and anterior
_SEED = 1
# Every voxel counts. With ANTs' default, a fifth of them, the registrations of one brain to two
# samplings of the template differed by 0.6 to 0.7 degrees, with all by less than 0.4. Without the
# finest level a scan costs a third less, and brains lie a little less well on the template.
_DENSE = {
    "aff_metric": "mattes",
    "aff_sampling": 32,
    "aff_random_sampling_rate": 1.0,
    "aff_iterations": (1000, 500, 200, 10),
    "aff_shrink_factors": (6, 4, 2, 1),
    "aff_smoothing_sigmas": (3, 2, 1, 0),
}


def corrected(head: np.ndarray, grid: Grid) -> np.ndarray:
    """Remove slow changes of brightness: N4 (Tustison et al. 2010) as ANTs sets it by default."""
    with _same_bits() as ants:
        return ants.n4_bias_field_correction(as_ants(ants, head, grid)).numpy()


def rigid(moving: np.ndarray, grid: Grid, fixed: np.ndarray, space: Grid) -> np.ndarray:
    """Where each point of the fixed image lies in the moving one: (4, 4), millimetres, RAS.

    Rotation and translation that maximise mutual information. The optimiser's steps depend on the
    digits of the grids' origins: move the scan to the template first, wherever its header puts it.
    """
    with _same_bits() as ants:
        result = ants.registration(
            fixed=as_ants(ants, fixed, space),
            moving=as_ants(ants, moving, grid),
            type_of_transform="Rigid",
            **_DENSE,
        )
        written = [Path(p) for p in {*result["fwdtransforms"], *result["invtransforms"]}]
        try:
            found = _matrix(ants.read_transform(result["fwdtransforms"][0], precision="double"))
        finally:
            for path in written:
                path.unlink(missing_ok=True)
    return _LPS @ found @ _LPS


def write_rigid(transform: np.ndarray, path: Path) -> None:
    """Write what `rigid` gave as ITK's text, which antsApplyTransforms reads."""
    matrix = _LPS @ transform @ _LPS
    parameters = " ".join(f"{x:.17g}" for x in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {parameters}\nFixedParameters: 0 0 0\n"
    )


def read_rigid(path: Path) -> np.ndarray:
    """What `write_rigid` wrote: where each point of the fixed image lies in the moving one.

    Raises MetaVoxelError.
    """
    with (
        reading(path, "a transform as ITK writes it", "Prepare the scan again."),
        _same_bits() as a,
    ):
        return _LPS @ _matrix(a.read_transform(str(path), precision="double")) @ _LPS


def _matrix(transform: Any) -> np.ndarray:
    """ITK's x -> A (x - c) + c + t as a matrix (4, 4)."""
    parameters, centre = np.asarray(transform.parameters), np.asarray(transform.fixed_parameters)
    out = np.eye(4)
    out[:3, :3] = parameters[:9].reshape(3, 3)
    out[:3, 3] = parameters[9:] + centre - out[:3, :3] @ centre
    return out


def as_ants(ants: Any, voxels: np.ndarray, grid: Grid) -> Any:
    """A volume as an image of the module `ants`. Raises MetaVoxelError if its axes are bent."""
    affine = _LPS @ grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return ants.from_numpy(
        voxels.astype(np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=_rotation(affine[:3, :3] / spacing),
    )


def _rotation(direction: np.ndarray) -> np.ndarray:
    """The rotation next to a direction matrix, which rounding in a header has bent a little."""
    left, _, right = np.linalg.svd(direction)
    nearest = left @ right
    if np.abs(nearest - direction).max() > 0.01:
        raise MetaVoxelError("The affine shears the scan. Resample it to a grid with right angles.")
    return nearest


@contextlib.contextmanager
def _same_bits() -> Iterator[Any]:
    """ANTs with one thread and one seed; the caller's random numbers are left as they were."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read at ITK's first use
    try:
        import ants
        from ants import config
    except ImportError:
        raise missing("Preparing scans needs ANTsPy.") from None
    states = np.random.get_state(), random.getstate()
    config.set_ants_deterministic(True, _SEED)
    try:
        yield ants
    finally:
        config.set_ants_deterministic(False, None)  # type: ignore[arg-type]  # as ANTsPy says to undo it
        np.random.set_state(states[0])
        random.setstate(states[1])
