"""How images follow scalars, fitted to the latents of a training set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metavoxel.encoding.image import ImageEncoder
from metavoxel.linear_gaussian.given_scalars import (
    PRODUCT,
    State,
    feature_directions,
)
from metavoxel.model import MetaVoxel
from metavoxel.posterior.law import ScalarLaw
from metavoxel.training.examples import Examples
from metavoxel.training.spread import fit_spread
from metavoxel.training.statistics import MOST_SCANS, shared_factors

FEWEST = 10  # subjects at least, that a mean image is one of
_PENALTIES = (4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, math.inf)  # records more, without an effect
_PRUDENCE = 1.4  # of generalised cross-validation: Kim and Gu (2004)
_COMPONENTS = 64  # of the latents, each with the penalties that suit it
_ROWS = 64  # read from disk, or drawn for, at once
_DRAWS = 8  # of scalars that are missing


@dataclass(frozen=True, eq=False)
class Regression:
    """Slopes B (q, p) of z on centred features, and of each response the effective parameters."""

    slopes: Tensor
    parameters: Tensor
    leverage: Tensor  # of each subject in its own fitted mean, at most over the responses, (n,)


@torch.no_grad()
def follow_scalars(model: MetaVoxel, training: Examples) -> None:
    """Store how the images of a model follow the scalars of its training records."""
    law = model.law
    if law is None:
        return
    for v, (latents, *_) in training.images.items():
        encoder, rows = model.autoencoders[v], training.observed[v].nonzero()[:, 0]
        assert isinstance(encoder, ImageEncoder)
        if encoder.given is None:
            continue
        scalars = {u: training.scalars[u][rows] for u in law.names}
        tables = completed(law, scalars, {u: training.observed[u][rows] for u in law.names})
        z0 = latents if len(rows) == len(latents) else latents[rows]  # on disk, if that is all
        fit_given_scalars(encoder, tables, z0)


@torch.no_grad()
def completed(
    law: ScalarLaw, scalars: State, observed: Mapping[str, Tensor]
) -> list[dict[str, Tensor]]:
    """Tables of embedded scalars (n, k) by name, in which those that are not observed (n,) are
    drawn given those that are; a single table where nothing is missing."""
    there = torch.stack([observed[v] for v in law.names], 1)
    count = 1 if bool(there.all()) else _DRAWS
    tables = [{v: scalars[v].clone() for v in law.names} for _ in range(count)]
    generator, device = torch.Generator().manual_seed(0), law.prior.offset.device
    patterns, of = there.unique(dim=0, return_inverse=True)
    for i, pattern in enumerate(patterns.tolist()):
        known = [v for v, is_known in zip(law.names, pattern, strict=True) if is_known]
        for rows in (of == i).nonzero()[:, 0].split(_ROWS) if not all(pattern) else ():
            given = {v: scalars[v][rows].to(device) for v in known}
            drawn = law.posterior(None, given, len(rows), generator).draw(count, generator)
            for v in law.names:
                for j, table in enumerate(tables if v not in known else ()):
                    table[v][rows] = drawn[v][:, j].to(table[v])
    return tables


@torch.no_grad()
def fit_given_scalars(encoder: ImageEncoder, tables: Sequence[State], latents: Tensor) -> None:
    """Store how the latents of an encoder follow scalars, and what varies together beside that.

    `tables` hold the embedded scalars (n, k) by name, complete: several draws of those that are
    missing. z is (n, c, *latent grid), perhaps on disk.

    The mean is a ridge regression on `ScalarFeatures`. Scores, curves and products have a penalty
    each, chosen by generalised cross-validation for every principal component of z, among those by
    which no subject makes up more than a tenth of the mean at its own scalars. A label that fewer
    than ten subjects have says nothing: of one subject, its effect would be that subject's scan.
    """
    given = encoder.given
    assert given is not None
    groups = given.features.groups
    given.labels.copy_(common_labels(given.features.labels, tables))
    device = given.mean.device
    drawn = torch.stack([given.of({v: x.to(device) for v, x in z0.items()}) for z0 in tables]).cpu()
    given.mean.copy_(drawn.mean((0, 1)))
    around = drawn - drawn.mean((0, 1))
    phi, around = around.mean(0), around.flatten(0, 1)
    given.covariance.copy_(around.T @ around / max(len(around), 1))
    fit = smooth_regression(phi, latents, groups)
    directions, images = feature_directions(fit.slopes, given.covariance.cpu())
    given.directions.copy_(directions)
    factors, scores = _residual(phi, fit.slopes, latents, len(encoder.latent_factors))
    main = torch.where(groups == PRODUCT, 0, phi)
    factors = fit_spread(given, main, scores, factors)
    shape, device = latents.shape[1:], encoder.latent_mean.device
    images, factors = (x.float().view(-1, *shape).to(device) for x in (images, factors))
    encoder.set_effects(images, factors)


def common_labels(labels: Mapping[str, int], tables: Sequence[State]) -> Tensor:
    """The matrix (D, D) by which the one-hot rows of labels become those of common ones.

    A label is common if ten subjects have it in every table, missing ones that were drawn left out.
    The others' rows become the common labels' frequencies.
    """
    blocks = [torch.zeros(0, 0, dtype=torch.float64)]
    for v in labels:
        rows = torch.stack([table[v].double().cpu() for table in tables])
        count = rows.amin(0).sum(0)
        common = (count >= FEWEST).to(count)
        frequencies = common * rows.mean((0, 1))
        frequencies = frequencies / frequencies.sum().clamp_min(1e-9)
        blocks.append(common.diag() + frequencies[:, None] * (1 - common))
    return torch.block_diag(*blocks)


@torch.no_grad()
def smooth_regression(phi: Tensor, latents: Tensor, groups: Tensor) -> Regression:
    """The penalised regression of z (n, ...) on centred features phi (n, q) of these groups."""
    n, q = phi.shape
    axes = _principal_axes(latents)
    scores, products, total = torch.zeros(n, len(axes)).double(), 0.0, 0.0
    for rows in torch.arange(n).split(_ROWS):
        z = latents[rows].flatten(1).float()
        own = z @ axes.T
        scores[rows] = own.double()
        products = products + phi[rows].T.float() @ z
        total += float(z.double().square().sum())
    products = torch.as_tensor(products).double()
    along = phi.T @ scores
    rest = products - along @ axes.double()
    squares = torch.cat([scores.square().sum(0), total - scores.square().sum()[None]])
    normal, scale = phi.T @ phi, phi.square().mean(0)
    best = torch.full((len(axes) + 1,), math.inf).double()
    slopes, parameters = torch.zeros(q, len(axes)).double(), torch.zeros(len(axes) + 1).double()
    of_rest, leverage = torch.zeros(q, q).double(), torch.zeros(n).double()
    for inverse in _candidates(normal, scale, groups):
        own = ((phi @ inverse) * phi).sum(1)
        if n == 0 or float(own.max()) + 1 / n > 1 / FEWEST:
            continue
        used = float((inverse * normal).sum())
        found = inverse @ along
        fitted = 2 * (found * along).sum(0) - (found * (normal @ found)).sum(0)
        twice = 2 * inverse - inverse @ normal @ inverse
        fitted = torch.cat([fitted, ((twice @ rest) * rest).sum()[None]])
        left = 1 - (1 + _PRUDENCE * used) / n
        score = (squares - fitted) / left**2 if left > 0 else best
        better = score < best
        best = torch.where(better, score, best)
        slopes = torch.where(better[:-1], found, slopes)
        parameters = torch.where(better, used, parameters)
        leverage = torch.maximum(leverage, own) if bool(better.any()) else leverage
        if bool(better[-1]):
            of_rest = inverse
    return Regression(slopes @ axes.double() + of_rest @ rest, parameters, leverage)


def _candidates(normal: Tensor, scale: Tensor, groups: Tensor) -> Iterator[Tensor]:
    """(Phi'Phi + P)^-1 for every choice of penalties; an infinite one leaves its features out."""
    for linear, curved, product in itertools.product(_PENALTIES, repeat=3):
        if min(curved, product) < linear:
            continue  # what bends is shrunk at least as much
        each = torch.tensor([linear, curved, product]).double()[groups]
        used = each.isfinite() & (scale > 0)
        inverse = torch.zeros_like(normal)
        if bool(used.any()):
            at = used.nonzero()[:, 0]
            ridge = (each * scale)[at].diag()
            inverse[at[:, None], at] = torch.linalg.inv(normal[at][:, at] + ridge)
        yield inverse


def _principal_axes(latents: Tensor) -> Tensor:
    """Unit vectors (k, p) along which z (n, ...) varies most."""
    some = latents[:: -(-len(latents) // MOST_SCANS)].flatten(1).float()
    some = some - some.mean(0)
    products = (some @ some.T).double()
    k = min(_COMPONENTS, len(some) - 1)
    variance, vectors = torch.linalg.eigh(products)
    vectors = vectors[:, len(some) - k :].flip(1)
    real = variance.flip(0)[:k] > 1e-9 * variance.sum()
    axes = vectors[:, real].T.float() @ some
    return axes / axes.norm(dim=1, keepdim=True)


def _residual(phi: Tensor, slopes: Tensor, latents: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (k, p) of what the mean leaves of z, and the scores (n, k) of subjects on them."""
    some = slice(None, None, -(-len(latents) // MOST_SCANS))
    left = latents[some].flatten(1).float() - (phi[some] @ slopes).float()
    left = left - left.mean(0)
    factors = shared_factors(left, rank)
    along = factors / factors.square().sum(1, keepdim=True)
    parts = torch.arange(len(phi)).split(_ROWS)
    scores = torch.cat([latents[rows].flatten(1).float() @ along.T for rows in parts]).double()
    scores = scores - phi @ (slopes @ along.T.double())
    return factors, scores - scores.mean(0)
