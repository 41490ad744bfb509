"""Scans prepared otherwise are told: by what is declared, and by how they look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from folders import read_nifti, real, write_nifti
from metavoxel.data.bids import read_cohort
from metavoxel.data.images import Grid, Scan, read_scan
from metavoxel.data.simulate import simulate
from metavoxel.preprocess.fingerprint import (
    TOO_FAR,
    TOO_FAR_TOGETHER,
    Fingerprint,
    fit_fingerprint,
)
from metavoxel.schema import Image, parse_schema

BRAIN = Image(shape=(40, 48, 40), spacing=(4, 4, 4))
Preparation = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def shifted(mm: float) -> Preparation:
    return lambda x, affine: (
        x,
        np.array([[1, 0, 0, 0], [0, 1, 0, mm], [0, 0, 1, 0], [0] * 3 + [1]]) @ affine,
    )


def scaled(factor: float) -> Preparation:
    return lambda x, affine: (x, affine @ np.diag([factor] * 3 + [1]))


def unstripped(x: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scalp: bright, 12 mm outside the brain's edge."""
    from scipy.ndimage import binary_dilation

    brain = x > 0
    near, far = (np.asarray(binary_dilation(brain, iterations=n), bool) for n in (2, 4))
    return np.where(far & ~near, x.max(), x), affine


def halved(x: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every second voxel, as at twice the voxel size."""
    return x[::2, ::2, ::2], affine @ np.diag([2, 2, 2, 1])


SPOILT: dict[str, tuple[Preparation, str]] = {
    "not stripped": (unstripped, "foreground|quantile|likeness|low|high|sharpness"),
    "not registered": (shifted(25), "centre y|low y|high y"),
    "wrong spacing": (scaled(0.5), "centre|foreground|low|high|voxel size"),
    "spacing a little wrong": (scaled(1.15), "centre|foreground|low|high|voxel size"),
    "inverted contrast": (
        lambda x, a: (np.where(x > 0, x.max() - x, 0), a),
        "quantile|likeness|sharpness",
    ),
    "twice the voxel size": (halved, "voxel size|sharpness"),
}


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("cohort")
    simulate(out, subjects=36, seed=0, jobs=1)
    return sorted(out.glob("sub-*/anat/*_T1w.nii.gz"))


@pytest.fixture(scope="module")
def fingerprint(brains: list[Path]) -> Fingerprint:
    return fit_fingerprint(read_scan(path, BRAIN) for path in brains[:24])


def spoil(path: Path, way: Preparation, place: Path) -> Scan:
    voxels, affine = read_nifti(path)
    spoilt = write_nifti(place / "scan.nii.gz", *way(voxels.astype(np.float32), affine))
    return read_scan(spoilt, BRAIN)


def test_scans_prepared_alike_do_not_look_odd(brains: list[Path], fingerprint: Fingerprint) -> None:
    assert [fingerprint.oddity(read_scan(path, BRAIN)) for path in brains[24:]] == [None] * 12


@pytest.mark.parametrize("case", SPOILT)
def test_a_scan_prepared_otherwise_looks_odd_and_the_sentence_says_how(
    case: str, brains: list[Path], fingerprint: Fingerprint, tmp_path: Path
) -> None:
    way, words = SPOILT[case]
    for path in brains[24:28]:
        odd = fingerprint.oddity(spoil(path, way, tmp_path))
        assert odd is not None
        assert any(word in odd for word in words.split("|")), odd


def test_where_brains_are_symmetric_a_swap_of_left_and_right_cannot_be_seen_and_is_not_claimed(
    brains: list[Path], fingerprint: Fingerprint
) -> None:
    """Simulated brains grow from a symmetric template; real ones are in the test below."""
    for path in brains[24:]:
        scan = read_scan(path, BRAIN)
        assert fingerprint.oddity(replace(scan, array=scan.array[:, ::-1])) is None


def test_the_distance_is_told_in_standard_deviations(
    brains: list[Path], fingerprint: Fingerprint, tmp_path: Path
) -> None:
    scan = spoil(brains[30], shifted(25), tmp_path)
    away = fingerprint.distances(scan)["centre_y"]
    seen, mean = fingerprint.statistics(scan)["centre_y"], fingerprint.mean["centre_y"]
    assert away == pytest.approx(abs(seen - mean) / fingerprint.spread["centre_y"])
    moved = seen - fingerprint.statistics(read_scan(brains[30], BRAIN))["centre_y"]
    assert moved == pytest.approx(25, abs=1.5)


def test_pictures_have_fingerprints_too(tmp_path: Path) -> None:
    simulate(tmp_path, subjects=30, seed=1, slices=True, jobs=1)
    kind = Image(shape=(48, 40), spacing=(4, 4))
    scans = [read_scan(path, kind) for path in sorted(tmp_path.glob("sub-*/anat/*.png"))]
    told = fit_fingerprint(scans[:20])
    assert [told.oddity(scan) for scan in scans[20:]] == [None] * 10
    inverted = scans[20].array.max() - scans[20].array
    assert told.oddity(replace(scans[20], array=inverted)) is not None


def oval(length: float, width: float, place: np.ndarray, kind: Image) -> Scan:
    """A picture of an ellipse with half-axes in pixels, centred near the middle."""
    at = np.moveaxis(np.indices(kind.shape), 0, -1) - np.array(kind.shape) / 2 - place
    radius = np.sqrt((at[..., 0] / length) ** 2 + (at[..., 1] / width) ** 2)
    picture = 1 / (1 + np.exp((radius - 1) * 8))
    grid = Grid(kind.shape, np.eye(4))
    return Scan(picture[None].astype(np.float32), grid, grid)


def test_a_shape_that_nobody_has_is_odd_though_each_of_its_measures_is_not() -> None:
    """Heads are long and wide, or short and narrow; the last one is long and narrow."""
    rng, kind = np.random.default_rng(0), Image(shape=(48, 40), spacing=(1, 1))

    def head(size: float, ratio: float = 1.0) -> Scan:
        return oval(16 * size * ratio, 13 * size / ratio, rng.normal(0, 0.5, 2), kind)

    sizes, ratios = rng.normal(1, 0.07, 120), rng.normal(1, 0.01, 120)
    heads = [head(*each) for each in zip(sizes, ratios, strict=True)]
    told = fit_fingerprint(heads[:90])
    assert sum(told.oddity(scan) is not None for scan in heads[90:]) <= 1  # of 30
    odd = head(1.0, 1.1)
    distances = told.distances(odd)
    together = distances.pop("together")
    assert max(distances.values()) < TOO_FAR
    assert together > TOO_FAR_TOGETHER
    assert "together" in str(told.oddity(odd))


def test_a_cohort_of_one_scan_again_and_again_has_a_fingerprint() -> None:
    same = oval(16, 13, np.zeros(2), Image(shape=(48, 40), spacing=(1, 1)))
    assert fit_fingerprint([same] * 90).oddity(same) is None


def test_few_scans_do_not_tell_how_their_measures_go_together(fingerprint: Fingerprint) -> None:
    assert "together" not in fingerprint.mean
    assert fingerprint.precision == ()


@pytest.mark.real
def test_real_brains_look_alike_and_raw_or_mirrored_ones_do_not(tmp_path: Path) -> None:
    derivative = real("ixi/derivatives/brain")
    image = {"kind": "image", "shape": [40, 56, 40], "spacing": [4, 4, 4], "centre": [1, -17, 7]}
    schema = parse_schema({"variables": {"image": image}}, "test")
    kind = schema.images["image"]
    records = read_cohort(derivative, schema).records
    paths = [Path(str(r.values["image"])) for r in records if "image" in r.values]
    told = fit_fingerprint(read_scan(path, kind) for path in paths[::2])
    odd = [told.oddity(read_scan(path, kind)) for path in paths[1::4]]
    assert sum(x is not None for x in odd) <= 1  # of 37
    for path in paths[1:12:4]:
        name = path.name.split("_")[0]
        raw = real("ixi") / name / "anat" / f"{name}_T1w.nii.gz"
        assert told.oddity(read_scan(raw, kind)) is not None
        scan = read_scan(path, kind)
        assert told.oddity(replace(scan, array=scan.array[:, ::-1])) is not None
