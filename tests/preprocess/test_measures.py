"""What is measured on a prepared scan, on brains of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from metavoxel.preprocess.measures import measures, outlier_scores, tissue_contrast
from metavoxel.preprocess.template import template_brain, template_grid, template_mask

GRID = template_grid(4)
BRAIN, MASK = template_brain(4), template_mask(4)


def test_the_template_is_like_itself():
    seen = measures(BRAIN, MASK, GRID)
    assert seen["brain_volume"] == pytest.approx(MASK.sum() * 64 / 1000)
    assert seen["template_overlap"] == pytest.approx(1)
    assert seen["template_correlation"] == pytest.approx(1)
    assert seen["symmetry"] > 0.99  # it was made symmetric
    assert seen["edge_fraction"] < 0.001


def test_a_brain_without_half_of_it_is_neither_symmetric_nor_like_the_template():
    half = np.where(np.arange(MASK.shape[0])[:, None, None] < MASK.shape[0] // 2, MASK, False)
    seen = measures(BRAIN * half, half, GRID)
    both = (half & MASK).sum()
    assert seen["template_overlap"] == pytest.approx(2 * both / (half.sum() + MASK.sum()))
    assert seen["symmetry"] < 0.5


def test_a_mask_on_the_edge_of_the_field_of_view_is_counted():
    mask = np.zeros_like(MASK)
    mask[:2] = True  # two planes, of which one is the edge; of the other only its rim
    ny, nz = mask.shape[1:]
    on_edge = ny * nz + 2 * ny + 2 * (nz - 2)
    brain = np.random.default_rng(0).random(mask.shape)
    assert measures(brain, mask, GRID)["edge_fraction"] == pytest.approx(on_edge / mask.sum())


@pytest.mark.parametrize("spread", [0.02, 0.05])
def test_contrast_is_the_distance_of_the_two_brighter_tissues(spread: float):
    rng = np.random.default_rng(0)
    tissues = [rng.normal(mean, spread, n) for mean, n in ((0.2, 4000), (0.6, 9000), (0.9, 7000))]
    voxels = rng.permutation(np.concatenate(tissues))
    assert tissue_contrast(voxels) == pytest.approx(0.3 / spread, rel=0.05)


def test_outlier_scores_by_hand():
    """Volumes 1, 2, 3, 4, 13: median 3, deviations 2, 1, 0, 1, 10, of which the median is 1."""
    table = [{"volume": v, "edge": 0.0} for v in (1.0, 2.0, 3.0, 4.0, 13.0)]
    scores = [score for score, _ in outlier_scores(table)]
    assert scores == pytest.approx([x / 1.4826 for x in (2, 1, 0, 1, 10)])


def test_the_one_scan_on_the_edge_stands_out_although_the_cohort_has_no_spread():
    table = [{"volume": 1.0 + i % 3, "edge": 0.0} for i in range(50)]
    table[7]["edge"] = 0.1
    score, oddest = outlier_scores(table)[7]
    assert oddest == "edge"
    assert score == pytest.approx(0.1 / np.std([0.1] + [0] * 49))


def test_where_all_are_alike_nobody_is_odd():
    assert [score for score, _ in outlier_scores([{"volume": 1.0}] * 4)] == [0] * 4
    assert outlier_scores([]) == []
