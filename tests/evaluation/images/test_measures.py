"""Image measures against closed forms, libraries and cases worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.metrics.fid import FIDMetric

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.images.measures import (
    Similarity,
    cubic,
    frechet,
    frechet_distance,
    gaussian,
    kid,
    median_distance,
    mmd,
    precision_recall,
)
from metavoxel.evaluation.images.scores import averaged, score_images
from metavoxel.evaluation.images.similarity import ms_ssim, pair_ms_ssim, scales


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def with_moments(rng: np.random.Generator, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Rows (200, d) whose sample mean and covariance are exactly these."""
    x = rng.normal(size=(200, len(mean)))
    x -= x.mean(0)
    whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_two_gaussians_is_the_closed_form(rng: np.random.Generator):
    x = with_moments(rng, np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    y = with_moments(rng, np.array([1.0, 0, 2]), np.diag([4.0, 4.0, 1.0]))
    # Commuting covariances: |mean difference|^2 + sum of (sd_x - sd_y)^2.
    assert frechet(x, y) == pytest.approx(5 + 1 + 0 + 4)


def test_frechet_distance_is_monais(rng: np.random.Generator):
    x, y = rng.normal(size=(90, 6)), rng.normal(size=(70, 6)) @ rng.normal(size=(6, 6))
    expected = FIDMetric()(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert frechet(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_singular_covariances_is_that_of_what_they_span(
    rng: np.random.Generator,
):
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0][:3]  # 3 numbers as 40, distances kept
    x, y = rng.normal(size=(30, 3)), 2 * rng.normal(size=(50, 3))
    assert frechet(x @ turn, y @ turn) == pytest.approx(frechet(x, y))
    assert frechet(x @ turn, x @ turn) == pytest.approx(0, abs=1e-9)


def test_fid_is_the_mean_over_the_planes_and_falls_with_the_number_of_images(
    rng: np.random.Generator,
):
    def found(n: int) -> float:
        sets = [{p: rng.normal(size=(n, 2, 8)) for p in ("axial", "coronal")} for _ in range(2)]
        score, planes = frechet_distance(*sets)
        assert score.value == pytest.approx(np.mean(list(planes.values())))
        assert score.low <= score.value <= score.high
        return score.value

    assert found(200) < found(20) / 3


def test_the_intervals_of_fid_hold_the_truth(rng: np.random.Generator):
    """Two normals, apart by 1 in each of two numbers: so few that the bias is small."""
    held = 0
    for _ in range(20):
        score, _ = frechet_distance(
            {"slice": rng.normal(size=(150, 1, 2))}, {"slice": 1 + rng.normal(size=(150, 1, 2))}
        )
        held += score.low <= 2 <= score.high
    assert held >= 16


@pytest.mark.parametrize("kernel", [cubic, gaussian(0.7)])
def test_discrepancy_is_the_sum_over_pairs_of_different_images(kernel, rng: np.random.Generator):
    x, y = rng.normal(size=(3, 2, 4)), rng.normal(size=(4, 2, 4))

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([kernel(a[i : i + 1], b[j : j + 1]).item()
                              for a, b in pairs for i in range(2) for j in range(2)]))  # fmt: skip

    def apart(z: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]

    expected = mean(apart(x)) + mean(apart(y)) - 2 * mean([(a, b) for a in x for b in y])
    assert Similarity.of(x, y, kernel).value == pytest.approx(expected)


def test_kernels_by_hand():
    x, y = np.array([[1.0, 1.0]]), np.array([[1.0, 3.0]])
    assert cubic(x, y).item() == pytest.approx((4 / 2 + 1) ** 3)
    assert gaussian(2.0)(x, y).item() == pytest.approx(np.exp(-4 / 8))
    assert median_distance(np.array([[[0.0]], [[1.0]], [[5.0]]])) == 4  # of 1, 4 and 5


def test_an_image_drawn_twice_is_not_compared_with_itself(rng: np.random.Generator):
    x, y = rng.normal(size=(5, 1, 3)), rng.normal(size=(6, 1, 3))
    found = Similarity.of(x, y, cubic)
    counted = found.discrepancy(np.array([[2.0, 1, 1, 0, 1]]), np.ones((1, 6)))
    pairs = np.ones((5, 5)) - np.eye(5)
    weight = np.outer([2, 1, 1, 0, 1], [2, 1, 1, 0, 1]) * pairs
    within = (weight * cubic(x[:, 0], x[:, 0])).sum() / weight.sum()
    real = cubic(y[:, 0], y[:, 0])
    across = np.array([2, 1, 1, 0, 1]) @ cubic(x[:, 0], y[:, 0]).mean(1) / 5
    expected = within + (real.sum() - np.trace(real)) / 30 - 2 * across
    assert counted.item() == pytest.approx(expected)


@pytest.mark.parametrize("measure", [kid, mmd])
def test_equal_distributions_are_at_0_on_average(measure, rng: np.random.Generator):
    """Within four standard errors, although the slices of an image are alike."""

    def images(n: int) -> np.ndarray:
        return rng.normal(size=(n, 1, 4)) + 0.3 * rng.normal(size=(n, 3, 4))

    values = np.array(
        [measure({"axial": images(8)}, {"axial": images(12)}, 0)[0].value for _ in range(100)]
    )
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))


def test_precision_and_recall_of_equal_disjoint_and_narrow_sets(rng: np.random.Generator):
    real = {"axial": rng.normal(size=(40, 2, 3))}
    far = {"axial": 50 + rng.normal(size=(40, 2, 3))}
    copies = {"axial": np.repeat(real["axial"][:1], 40, axis=0)}

    def values(generated: dict[str, np.ndarray]) -> list[float]:
        return [score.value for score in precision_recall(generated, real, 0)]

    assert values(real) == [1, 1]
    assert values(far) == [0, 0]
    precision, recall = values(copies)
    assert precision == 1
    assert recall == pytest.approx(1 / 40)  # the one that was copied


def test_precision_and_recall_by_hand():
    """On a line: radii of four points are distances to the third, that is the farthest, other."""
    real = {"slice": np.array([0.0, 1, 2, 3]).reshape(4, 1, 1)}  # covers -3 to 6
    generated = {"slice": np.array([5.0, 6.5, 7, 8]).reshape(4, 1, 1)}  # covers 2 to 11
    precision, recall = precision_recall(generated, real, 0)
    assert precision.value == 0.25
    assert recall.value == 0.5


def test_ms_ssim_of_equal_images_is_1_and_of_different_ones_less(rng: np.random.Generator):
    same = np.repeat(rng.random((1, 1, 24, 24, 24), dtype=np.float32), 5, axis=0)
    assert ms_ssim(same, 0).value == pytest.approx(1)
    different = rng.random((5, 1, 24, 24, 24), dtype=np.float32)
    score = ms_ssim(different, 0)
    assert score.value < 0.5
    assert score.low <= score.value <= score.high


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 56, 40), 4), ((96, 80), 5), ((24, 24, 24), 3), ((160, 192, 160), 5)],
)
def test_ms_ssim_has_as_many_scales_as_monai_takes(shape: tuple[int, ...], expected: int):
    assert scales(shape) == expected
    if np.prod(shape) < 1e6:
        flat = np.zeros((1, 1, *shape), dtype=np.float32)
        assert pair_ms_ssim(flat, flat) == pytest.approx(1)


@pytest.mark.parametrize(
    ("generated", "real", "words"),
    [
        (np.zeros((5, 1, 8, 8)), np.zeros((5, 1, 8, 9)), "one grid"),
        (np.zeros((2, 1, 8, 8)), np.ones((5, 1, 8, 8)), "at least 4"),
        (np.zeros((5, 8, 8)), np.ones((5, 8, 8)), "axes"),
        (np.full((5, 1, 8, 8), 255.0), np.ones((5, 1, 8, 8)), r"Scale them to \[0, 1\]"),
        (np.full((5, 1, 8, 8), np.nan), np.ones((5, 1, 8, 8)), r"Scale them to \[0, 1\]"),
        (np.zeros((5, 1, 8, 8)), np.zeros((5, 1, 8, 8)), "show nothing"),
    ],
)
def test_images_that_cannot_be_compared_are_refused(
    generated: np.ndarray, real: np.ndarray, words: str
):
    with pytest.raises(MetaVoxelError, match=words):
        score_images(generated, real)


@pytest.mark.parametrize("grid", [(24, 24), (24, 24, 24)])
def test_scores_are_plain_json_with_n_and_the_extractor(grid, rng: np.random.Generator):
    real, generated = (rng.random((n, 2, *grid), dtype=np.float32) for n in (8, 6))
    scores = json.loads(json.dumps(score_images(generated, real, seed=1), allow_nan=False))
    assert (scores["n"], scores["m"], scores["extractor"]) == (6, 8, "gist")
    assert scores["version"]
    assert len(scores["planes"]) == (1 if len(grid) == 2 else 3)
    for measure in ("frechet", "mmd", "kid", "ms_ssim", "ms_ssim_real", "precision", "recall"):
        assert set(scores[measure]) == {"value", "low", "high", "n"}
    assert set(scores["per_plane"]["kid"]) == set(scores["planes"])
    assert scores == json.loads(json.dumps(score_images(generated, real, seed=1)))


def test_the_mean_over_folds_is_as_sure_as_the_folds_are_independent() -> None:
    """Two seeds of one fold are off together: the interval is as wide as of one. Two folds are off
    on their own: it is narrower by the root of two."""

    def found(value: float, half: float) -> dict[str, object]:
        score = {"value": value, "low": value - half, "high": value + half, "n": 20}
        return {"extractor": "gist", "version": "1", "n": 20, "m": 30, "frechet": score}

    sets = [found(1.0, 0.2), found(2.0, 0.2)]
    one_fold, two_folds = (averaged(sets, folds)["frechet"] for folds in ([0, 0], [0, 1]))
    assert one_fold["value"] == two_folds["value"] == 1.5 and one_fold["each"] == [1, 2]
    assert one_fold["high"] - 1.5 == pytest.approx(0.2)
    assert two_folds["high"] - 1.5 == pytest.approx(0.2 / 2**0.5)
    assert averaged(sets, [0, 1])["m"] == 60


def test_few_images_raise_the_frechet_distance(rng: np.random.Generator) -> None:
    """Of one distribution, it falls as 1/n: what a small test fold adds, it adds to every model."""

    def mean(n: int) -> float:
        return float(np.mean([frechet(*rng.normal(size=(2, n, 8))) for _ in range(40)]))

    assert mean(25) / mean(100) == pytest.approx(4, rel=0.25)
