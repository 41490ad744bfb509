"""Every image measure of a generated set beside a real one."""

from __future__ import annotations

from typing import Any

import numpy as np

from metavoxel.evaluation.images.extractors import Extractor, as_extractor
from metavoxel.evaluation.images.measures import Features, fid, kid, mmd, precision_recall
from metavoxel.evaluation.images.reference import Reference, make_reference
from metavoxel.evaluation.images.similarity import ms_ssim
from metavoxel.evaluation.images.slices import checked, described


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
        "fid": fid(generated, real),
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
