"""The image measures rank known faults of a tiny simulated cohort."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from metavoxel.data.anatomy import grid, grow, middle
from metavoxel.data.causal import CausalModel
from metavoxel.evaluation.images.scores import score_images

PEOPLE = 16


@pytest.fixture(scope="module")
def brains() -> tuple[np.ndarray, np.ndarray]:
    """Axial slices of two sets of simulated people, (16, 1, 24, 24) each, at 8 mm."""
    affine, shape = grid(8.0)
    model, scans = CausalModel(), []
    for i in range(2 * PEOPLE):
        rng = np.random.default_rng(i)
        scans.append(grow(model.draw(rng).measurements, affine, shape, 8.0, rng))
    slices = np.stack(scans)[:, None, :, :, middle(affine)]
    images = np.clip(slices / 1.3, 0, 1).astype(np.float32)
    return images[:PEOPLE], images[PEOPLE:]


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(images, (0, 0, sigma, sigma))


def noisy(images: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, images.shape).astype(np.float32)
    return (images + noise).clip(0, 1)


@pytest.mark.parametrize(("fault", "sizes"), [(blurred, (0.5, 1.0)), (noisy, (0.05, 0.2))])
def test_a_larger_fault_is_farther_away(brains, fault, sizes):
    real, others = brains
    sets = [others, *(fault(others, size) for size in sizes)]
    found = [score_images(images, real) for images in sets]
    for measure in ("frechet", "mmd", "kid"):
        values = [f[measure]["value"] for f in found]
        assert values == sorted(values), measure


def test_copies_of_one_brain_have_no_recall_and_no_variety(brains):
    real, others = brains
    copies = score_images(np.repeat(others[:1], PEOPLE, axis=0), real)
    honest = score_images(others, real)
    assert copies["recall"]["value"] == 0
    assert honest["recall"]["value"] > 0.5
    assert copies["ms_ssim"]["value"] == pytest.approx(1)
    assert honest["ms_ssim"]["value"] < 0.99
