"""The measures of what an image looks like, on images made to have or to lack each property."""

from __future__ import annotations

import numpy as np
import pytest

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.images.appearance import Places, appearance

GRID = (32, 32)
DISC = np.hypot(*np.meshgrid(*(np.arange(32) - 15.5,) * 2)) < 12
TISSUE = np.where(np.arange(32)[:, None] < 16, 0.4, 0.7) * DISC


def subjects(n: int, seed: int = 0) -> np.ndarray:
    """Discs (n, 1, 32, 32), dark above and bright below, with a little noise inside."""
    noise = np.random.default_rng(seed).normal(0, 0.02, (n, 1, *GRID))
    return TISSUE + noise * DISC


def test_specks_outside_raise_the_intensity_outside_alone():
    places, images = Places.of(subjects(50)), subjects(8, seed=1)
    before = places.measured(images)
    specks = np.zeros(GRID)
    specks[0, :16] = 0.5
    after = places.measured(images + specks)
    assert before["outside"].max() == 0
    assert after["outside"] == pytest.approx(0.5 * 16 / places.outside.sum())
    for name in before.keys() - {"outside"}:
        np.testing.assert_allclose(after[name], before[name])


def test_the_margin_lies_between_what_is_shown_and_the_outside():
    images = subjects(20)
    near, far = Places.of(images, margin=0), Places.of(images, margin=4)
    assert (near.outside == ~DISC).all()
    assert far.outside.sum() < near.outside.sum()
    assert (near.outside | ~far.outside).all()


def test_contrast_is_the_distance_of_the_tissues_in_their_standard_deviation():
    measured = Places.of(subjects(50)).contrast(subjects(200, seed=1))
    assert measured.mean() == pytest.approx(0.3 / 0.02, rel=0.02)


def test_patches_lower_contrast():
    """Unlike a threshold found in each image, which patches of both tissues satisfy."""
    patches = np.kron(np.random.default_rng(2).normal(0, 0.1, (8, 1, 8, 8)), np.ones((4, 4)))
    places, images = Places.of(subjects(50)), subjects(8, seed=1)
    assert (places.contrast(images + patches * DISC) < 0.5 * places.contrast(images)).all()


@pytest.mark.parametrize(
    ("period", "octave"),
    [(32, "above_16"), (32 / 3, "8_to_16"), (32 / 6, "4_to_8"), (32 / 12, "below_4")],
)
def test_a_wave_is_found_in_the_octave_of_its_period(period, octave):
    places = Places.of(np.full((4, 1, *GRID), 0.5))
    wave = 0.1 * np.sin(2 * np.pi * np.arange(32) / period)
    found = places.texture(0.5 + np.broadcast_to(wave, (1, 1, *GRID)))
    texture = {name: float(x[0]) for name, x in found.items()}
    total = sum(texture.values())
    assert total == pytest.approx(0.005, rel=0.1)  # half of its squared height
    assert texture[f"texture_{octave}"] > 0.8 * total


def test_every_group_is_measured_with_an_interval():
    groups = {"held out": subjects(12, seed=1), "generated": subjects(12, seed=2)}
    scores = appearance(subjects(50), groups)
    low, high = scores["held out"]["contrast"].low, scores["held out"]["contrast"].high
    assert low < scores["held out"]["contrast"].value < high
    assert scores["generated"].keys() == scores["held out"].keys()


def test_images_without_a_common_place_are_refused():
    apart = np.zeros((2, 1, *GRID))
    apart[0, :, :8], apart[1, :, 24:] = 1, 1
    with pytest.raises(MetaVoxelError, match="nothing at the same place"):
        Places.of(apart)
