"""Simulated brains: what was drawn for them can be measured in them."""

import numpy as np
import pytest

from metavoxel.data.anatomy import grid, grow
from metavoxel.data.causal import CausalModel

RESOLUTION = 4.0  # mm
AFFINE, SHAPE = grid(RESOLUTION)
VOXEL_ML = RESOLUTION**3 / 1000
TYPICAL = {
    "brain_volume": 1350.0,
    "ventricle_volume": 25.0,
    "cortical_thickness": 2.7,
    "hippocampus_volume": 7.5,
}


def brain(seed: int = 0, **changed: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return grow(TYPICAL | changed, AFFINE, SHAPE, RESOLUTION, rng)


def world() -> np.ndarray:
    """World coordinates (3, *SHAPE), mm."""
    index = np.indices(SHAPE, dtype=float)
    return index * RESOLUTION + AFFINE[:3, 3].reshape(3, 1, 1, 1)


def near(*centre: float, radius: float) -> np.ndarray:
    return np.linalg.norm(world() - np.reshape(centre, (3, 1, 1, 1)), axis=0) < radius


@pytest.mark.parametrize("volume", [1100.0, 1400.0, 1800.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_brain_volume_can_be_counted_in_the_scan(volume, seed):
    counted = (brain(seed, brain_volume=volume) > 0).sum() * VOXEL_ML
    assert counted == pytest.approx(volume, rel=0.01)


def test_the_ventricle_volume_can_be_counted_in_the_scan():
    """Dark voxels deep in the brain, over volumes and random deformations."""
    x, y, z = world()
    box = (abs(x) < 44) & (y > -64) & (y < 48) & (z > -10) & (z < 44)
    volumes = np.geomspace(8, 80, 12)
    dark = [((b < 0.45) & box & (b > 0)).sum() * VOXEL_ML for b in map_ventricles(volumes)]
    assert np.corrcoef(dark, volumes)[0, 1] > 0.98
    slope = np.polyfit(volumes, dark, 1)[0]
    assert 0.8 < slope < 1.3  # mL counted per mL drawn


def map_ventricles(volumes: np.ndarray) -> list[np.ndarray]:
    return [brain(i, ventricle_volume=v) for i, v in enumerate(volumes)]


def test_a_thinner_cortex_darkens_the_rim_and_leaves_the_depth():
    change = brain(cortical_thickness=2.2) - brain(cortical_thickness=2.9)
    deep = near(-24, -20, 28, radius=8) | near(24, -20, 28, radius=8)  # white matter
    assert abs(change[deep]).max() < 0.02
    assert change.min() < -0.1
    assert (change < -0.05).mean() / (brain() > 0).mean() > 0.15


def test_smaller_hippocampi_are_darker_there_and_nowhere_else():
    change = brain(hippocampus_volume=5.0) - brain(hippocampus_volume=8.0)
    left, right = near(-26, -20, -14, radius=7), near(26, -20, -14, radius=7)
    assert change[left].mean() < -0.1
    assert change[right].mean() < -0.1
    away = ~(near(-26, -20, -14, radius=36) | near(26, -20, -14, radius=36))
    assert abs(change[away]).max() < 0.02


def test_no_measurement_saturates():
    """Even past three standard deviations a change of the measurement changes the scan."""
    for name, (low, high) in {
        "cortical_thickness": (1.9, 3.2),
        "hippocampus_volume": (4.0, 10.5),
        "ventricle_volume": (5.0, 110.0),
    }.items():
        for value in (low, high):
            change = brain(0, **{name: value * 1.03}) - brain(0, **{name: value})
            assert abs(change).max() > 0.005, name


def test_intensities_are_those_of_a_skull_stripped_scan():
    scan = brain()
    assert scan.dtype == np.float32
    assert scan.min() == 0
    assert 0.8 < np.percentile(scan[scan > 0], 95) < 1.2
    white, fluid = near(-24, -20, 28, radius=8), near(0, 10, 10, radius=5)
    assert scan[white].mean() > 0.8 > 0.5 > scan[fluid].mean()


@pytest.mark.parametrize("resolution", [1.0, 2.0, 3.0, 4.0, 5.0, 8.0])
def test_every_grid_is_a_multiple_of_eight_and_holds_the_head(resolution):
    affine, shape = grid(resolution)
    assert all(n % 8 == 0 for n in shape)
    first = affine[:3, 3] - resolution / 2
    last = first + np.array(shape) * resolution
    assert (first <= [-80, -114, -76]).all()
    assert (last >= [80, 78, 84]).all()


def test_the_largest_head_of_four_hundred_does_not_touch_the_border():
    people = CausalModel().sample(400, np.random.default_rng(0))
    largest = max(people, key=lambda p: p.measurements["brain_volume"])
    for seed in range(3):
        inside = brain(seed, **largest.measurements) > 0
        for axis in range(3):
            assert not np.take(inside, [0, -1], axis).any()


def test_the_same_generator_grows_the_same_brain():
    assert np.array_equal(brain(5), brain(5))
    assert not np.array_equal(brain(5), brain(6))
