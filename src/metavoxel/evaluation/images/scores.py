"""Every image measure of a generated set beside a real one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from metavoxel.evaluation.images.extractors import Extractor, as_extractor
from metavoxel.evaluation.images.measures import (
    Features,
    frechet_distance,
    kid,
    mmd,
    precision_recall,
)
from metavoxel.evaluation.images.reference import Reference, make_reference
from metavoxel.evaluation.images.similarity import ms_ssim
from metavoxel.evaluation.images.slices import checked, described
from metavoxel.evaluation.scores import Score


def score_images(
    generated: np.ndarray,
    real: np.ndarray,
    extractor: Extractor | str = "gist",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure generated images (n, C, *grid) against real ones (m, C, *grid), all in [0, 1].

    Plain JSON: scores with 95 % intervals over the images, the planes' values, n, m and the
    extractor. `floor` holds the same distances between two random halves of the real set: what
    sampling alone gives at m / 2 each. Raises MetaVoxelError for images that cannot be compared.
    """
    chosen = as_extractor(extractor)
    checked(generated, "generated", real.shape[1:])
    return score_against(generated, make_reference(real, chosen, seed), chosen, seed)


def score_against(
    generated: np.ndarray, reference: Reference, extractor: Extractor, seed: int = 0
) -> dict[str, Any]:
    """As `score_images`, against a reference made with this extractor."""
    generated = checked(generated, "generated", reference.grid)
    features = described(generated, reference.chosen, extractor)
    return {
        "extractor": reference.extractor,
        "version": reference.version,
        "n": len(generated),
        "m": reference.m,
        "real_sha256": reference.digest,
        "planes": list(reference.features),
        "slices": {p: x.tolist() for p, x in reference.chosen.items()},
        **distances(features, reference.features, seed),
        "ms_ssim": ms_ssim(generated, seed).to_json(),
        "ms_ssim_real": reference.ms_ssim.to_json(),
        "floor": floor(reference.features, seed),
    }


def distances(generated: Features, real: Features, seed: int) -> dict[str, Any]:
    """What is measured on features alone."""
    found = {
        "frechet": frechet_distance(generated, real),
        "mmd": mmd(generated, real, seed),
        "kid": kid(generated, real, seed),
    }
    precision, recall = precision_recall(generated, real, seed)
    return {
        **{name: score.to_json() for name, (score, _) in found.items()},
        "precision": precision.to_json(),
        "recall": recall.to_json(),
        "per_plane": {name: planes for name, (_, planes) in found.items()},
    }


def floor(real: Features, seed: int) -> dict[str, Any] | None:
    """The distances between two random halves of the real images; None of fewer than 8."""
    m = len(next(iter(real.values())))
    if m < 8:
        return None
    order = np.random.default_rng(seed).permutation(m)
    one, other = order[: m // 2], order[m // 2 :]
    return distances(
        {p: f[one] for p, f in real.items()}, {p: f[other] for p, f in real.items()}, seed
    )


def averaged(found: Sequence[Mapping[str, Any]], folds: Sequence[Hashable]) -> dict[str, Any]:
    """The mean of what `score_images` said of several sets, each against its own real images.

    `folds` names the real images of each. Intervals are as if sets with the same real images were
    off together, and others on their own. `n` and `m` count all images, `runs` the sets.
    """
    first = found[0]
    out: dict[str, Any] = {k: first[k] for k in ("extractor", "version")}
    out |= {k: sum(each[k] for each in found) for k in ("n", "m")} | {"runs": len(found)}
    for name, score in first.items():
        if isinstance(score, dict) and "value" in score:
            scores = [Score.from_json(each[name]) for each in found]
            out[name] = _mean_score(scores, folds).to_json() | {"each": [x.value for x in scores]}
    return out


def _mean_score(scores: Sequence[Score], folds: Sequence[Hashable]) -> Score:
    value = float(np.mean([score.value for score in scores]))

    def half(sides: Sequence[float]) -> float:
        of_fold = [sum(x for x, f in zip(sides, folds, strict=True) if f == k) for k in {*folds}]
        return float(np.linalg.norm(of_fold)) / len(scores)

    low, high = half([x.value - x.low for x in scores]), half([x.high - x.value for x in scores])
    return Score(value, value - low, value + high, sum(score.n for score in scores))
