"""How the spread of subjects about their mean image depends on scalars, fitted to latents."""

from __future__ import annotations

import torch
from torch import Tensor

from metavoxel.linear_gaussian.given_scalars import GivenScalars

_PENALTIES = (4.0, 16.0, 64.0, 256.0, 1024.0)  # records more, whose spread is the same for all
_PRUDENCE = 1.4  # of generalised cross-validation: Kim and Gu (2004)
_SEARCHED = 64.0  # the penalty with which directions are looked for
_MOST_RECORDS = 4096  # that directions are looked for in
_PERMUTATIONS = 20
_FOLDS = 5
_NEWTON_STEPS = 30
_MOST_RATIO = 20.0  # of a square to its expectation, in a Newton step
_MOST_LOG = 5.0  # of a fitted variance, while it is looked for


@torch.no_grad()
def fit_spread(given: GivenScalars, phi: Tensor, scores: Tensor, factors: Tensor) -> Tensor:
    """Store how the spread of scores (n, k) on factors (k, p) follows centred features (n, q).

    Returns the factors, turned so that those along which it is stored come first. With few subjects
    there are none.
    """
    for buffer in (given.log_variance, given.level, given.couplings):
        buffer.zero_()
    r = len(given.whitening)
    given.whitening.copy_(torch.eye(r))
    std = scores.square().mean(0).sqrt()
    c = scores / torch.where(std > 0, std, 1)
    axes, count = unequal_directions(phi, c, r)
    c = c @ axes[:, :count]
    for j in range(count):
        products = (phi[:, :, None] * c[:, None, :j]).flatten(1)
        slopes = _ridge(products, c[:, j])
        given.couplings[j, :j] = slopes.view(phi.shape[1], j).T.to(given.mean)
        level, slopes = log_variance(phi, (c[:, j] - products @ slopes).square())
        given.level[j], given.log_variance[j] = float(level), slopes.to(given.mean)
    turned = axes.T.to(factors) @ factors
    # The factors take the mean of V over the cohort, which leaves I to V.
    root = torch.linalg.cholesky(given.spread(phi.to(given.mean)).mean(0)) if len(phi) else None
    if count and root is not None:
        given.whitening.copy_(torch.linalg.inv(root))
        turned[:count] = root[:count, :count].T.to(turned) @ turned[:count]
    return turned


def unequal_directions(phi: Tensor, c: Tensor, most: int) -> tuple[Tensor, int]:
    """Axes (k, k) of c (n, k), of covariance I, by how much the spread along them follows centred
    features phi (n, q), and along how many of them, `most` at most, it does beyond chance.

    Beyond chance is more than along any axis when the features are dealt out to subjects anew, each
    time of twenty: parallel analysis (Horn, 1965).
    """
    n, k = c.shape
    if k == 0 or n == 0:
        return torch.eye(k).to(c), 0
    some = slice(None, None, -(-n // _MOST_RECORDS))
    phi, c = phi[some], c[some]
    products = (c[:, :, None] * c[:, None]).flatten(1)
    products = products - products.mean(0)
    normal, scale = phi.T @ phi, phi.square().mean(0)
    inverse = torch.linalg.inv(normal + (_SEARCHED * scale + (scale == 0)).diag())

    def strengths(features: Tensor) -> tuple[Tensor, Tensor]:
        slopes = (inverse @ (features.T @ products)).view(-1, k, k)
        weighed = torch.einsum("fg,gij->fij", normal / len(phi), slopes)
        return torch.linalg.eigh(torch.einsum("fij,fjm->im", weighed, slopes))

    generator = torch.Generator().manual_seed(0)
    by_chance = 0.0
    for _ in range(_PERMUTATIONS):
        dealt = phi[torch.randperm(len(phi), generator=generator)]
        by_chance = max(by_chance, float(strengths(dealt)[0].max()))
    strength, axes = strengths(phi)
    return axes.flip(1), min(int((strength > by_chance).sum()), most)


def log_variance(phi: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of the expectation of squares (n,) of a normal: a level (), and slopes (q,) on
    centred features (n, q).

    By penalised likelihood; the penalty by five-fold cross-validation, an infinite one among them.
    """
    fold = torch.arange(len(phi)) % _FOLDS
    constant = torch.zeros(phi.shape[1]).to(phi)
    best, chosen = float("inf"), None
    for penalty in (None, *_PENALTIES):
        misfit = 0.0
        for f in range(_FOLDS):
            inside, out = fold != f, fold == f
            level, slopes = _log_linear(phi[inside], squares[inside], penalty)
            expected = level + phi[out] @ slopes
            misfit += float((expected + squares[out] * (-expected).exp()).sum())
        if misfit < best:
            best, chosen = misfit, penalty
    level, slopes = _log_linear(phi, squares, chosen)
    return level, constant + slopes


def _log_linear(phi: Tensor, squares: Tensor, penalty: float | None) -> tuple[Tensor, Tensor]:
    """Level and slopes under a penalty; None is an infinite one. Fisher's information does not
    depend on them, so that every step has the same matrix (Aitkin, 1987)."""
    level = squares.mean().clamp_min(1e-12).log()
    slopes = phi.new_zeros(phi.shape[1])
    if penalty is None:
        return level, slopes
    scale = phi.square().mean(0)
    ridge = (penalty * scale / 2 + (scale == 0)).diag()
    root = torch.linalg.cholesky(phi.T @ phi / 2 + ridge)
    for _ in range(_NEWTON_STEPS):
        expected = level + (phi @ slopes).clamp(-_MOST_LOG, _MOST_LOG)
        ratio = (squares * (-expected).exp()).clamp(max=_MOST_RATIO)
        level = level + ratio.mean().log()
        gradient = phi.T @ (ratio - 1) / 2 - ridge @ slopes
        slopes = slopes + torch.cholesky_solve(gradient[:, None], root)[:, 0]
    return level, slopes


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Slopes (m,) of y (n,) on x (n, m); the penalty, perhaps infinite, by generalised
    cross-validation."""
    n, m = x.shape
    best, slopes = float(y.square().sum()), x.new_zeros(m)
    if m == 0:
        return slopes
    scale = x.square().mean(0).sqrt()
    used = torch.where(scale > 0, 1 / scale, 0)
    variance, axes = torch.linalg.eigh(used[:, None] * (x.T @ x) * used)
    along = axes.T @ (used * (x.T @ y))
    for penalty in _PENALTIES:
        share = variance.clamp_min(0) / (variance.clamp_min(0) + penalty)
        found = along / (variance.clamp_min(0) + penalty)
        misfit = float(y.square().sum() - 2 * found @ along + (found.square() * variance).sum())
        left = 1 - _PRUDENCE * float(share.sum()) / n
        if left > 0 and misfit / left**2 < best:
            best, slopes = misfit / left**2, used * (axes @ found)
    return slopes
