"""How images follow scalars: a smooth mean and a spread of subjects that depends on the scalars."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from metavoxel.linear_gaussian.images import Moments

LINEAR, CURVED, PRODUCT = range(3)  # groups of features
_KNOT_LEVELS = (0.05, 0.275, 0.5, 0.725, 0.95)  # quantiles of a number: Harrell (2015), table 2.3
_MOST_FEATURES = 400  # beyond so many, none are products: the normal equations take q^3 operations
_MOST_DIRECTIONS = 32  # of the mean, kept as images
MOST_SPREADS = 8  # directions along which the spread of subjects depends on scalars
_LEAST = 1e-9  # share of the largest variance below which a direction of the features is rounding
_MOST_LOG = 3.0  # of a variance over the cohort's: a factor of 20 either way

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class ScalarFeatures:
    """Smooth functions of embedded scalars, phi(s) (n, q), that images are regressed on.

    Of a number, embedded as a normal score, the score itself and three curves: a natural cubic
    spline with five knots; of labels, their one-hot rows; of two scalars, products of scores and
    one-hot rows. `labels` maps labels' names to how many there are.
    """

    numbers: tuple[str, ...]
    labels: Mapping[str, int]

    @cached_property
    def groups(self) -> Tensor:
        """Of every feature, (q,): LINEAR, CURVED or PRODUCT."""
        sizes = (sum(self._widths), len(self._curves), len(self._products))
        return torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))

    def of(self, z0: State) -> Tensor:
        """phi of embedded scalars (n, k) by name: (n, q), float64."""
        names = (*self.numbers, *self.labels)
        x = torch.cat([z0[v].double() for v in names], 1)
        curves = [_curves(z0[v].double()) for v in self.numbers]
        first, second = self._products.to(x.device).unbind(1)
        return torch.cat([x, *curves, x[:, first] * x[:, second]], 1)

    def known(self, known: Mapping[str, Tensor]) -> Tensor:
        """Which features are known where scalars are `known` (n,): (n, q) bool."""
        each = torch.stack([known[v] for v in (*self.numbers, *self.labels)], 1)
        each = each[:, self._owners.to(each.device)]
        first, second = self._products.to(each.device).unbind(1)
        products = each[:, first] & each[:, second]
        return torch.cat([each, each[:, self._curves.to(each.device)], products], 1)

    @property
    def _widths(self) -> list[int]:
        return [*(1 for _ in self.numbers), *self.labels.values()]

    @cached_property
    def _owners(self) -> Tensor:
        """The scalar that every element of the embedded scalars belongs to."""
        return torch.repeat_interleave(torch.arange(len(self._widths)), torch.tensor(self._widths))

    @cached_property
    def _curves(self) -> Tensor:
        """The number that every curve is of."""
        return torch.arange(len(self.numbers)).repeat_interleave(len(_KNOT_LEVELS) - 2)

    @cached_property
    def _products(self) -> Tensor:
        """Pairs of elements of different scalars, (m, 2)."""
        pairs = [
            pair
            for pair in itertools.combinations(range(len(self._owners)), 2)
            if self._owners[pair[0]] != self._owners[pair[1]]
        ]
        few = len(pairs) + len(self._owners) + len(self._curves) <= _MOST_FEATURES
        return torch.tensor(pairs if few else [], dtype=torch.long).view(-1, 2)


class GivenScalars(nn.Module):
    """z = sum_r u_r(s) G_r + sum_j c_j F_j + e: the mean of latents z, and the spread of subjects
    about it along some directions F_j, given scalars s.

    u(s) = A (phi(s) - mean), of mean 0 and covariance I over the cohort, so that G are factors as F
    are. c ~ N(0, V(s)), V(s) = W L(s)^-1 D(s) L(s)^-T W' with log D and the unit lower triangle L
    linear in phi (the modified Cholesky decomposition of Pourahmadi, 1999), and E[V] = I over the
    cohort. Scalars that are not known: u has the mean and covariance that a Gaussian over features
    gives it, and V is I. G and F are the encoder's first factors (`ImageEncoder.gaussian`).
    """

    labels: Tensor
    mean: Tensor
    covariance: Tensor
    directions: Tensor
    level: Tensor
    log_variance: Tensor
    couplings: Tensor
    whitening: Tensor

    def __init__(self, features: ScalarFeatures, rank: int) -> None:
        super().__init__()
        self.features, q, r = features, len(features.groups), min(rank, MOST_SPREADS)
        D = sum(features.labels.values())
        for name, shape in (
            ("labels", (D, D)),
            ("mean", (q,)),
            ("covariance", (q, q)),
            ("directions", (min(q, _MOST_DIRECTIONS), q)),
            ("level", (r,)),
            ("log_variance", (r, q)),
            ("couplings", (r, r, q)),
            ("whitening", (r, r)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.labels += _identity(self.labels, D)
        self.whitening += _identity(self.whitening, r)

    def of(self, z0: State) -> Tensor:
        """Features (n, q) of embedded scalars, in which a rare label says nothing: its row is what
        the others are on average (`labels`)."""
        names, widths = [*self.features.labels], [*self.features.labels.values()]
        if not names:
            return self.features.of(z0)
        rows = torch.cat([z0[v].double() for v in names], 1) @ self.labels.T
        return self.features.of({**z0, **dict(zip(names, rows.split(widths, 1), strict=True))})

    @torch.no_grad()
    def forward(self, z0: State, known: Mapping[str, Tensor]) -> Moments:
        """What is known of z's first factors. z0[name] (B, k) may hold anything finite where
        known[name] (B,) is false."""
        there = self.features.known(known)
        phi = torch.where(there, self.of(z0) - self.mean, 0)
        R, r = len(self.directions), len(self.whitening)
        V = phi.new_zeros(len(phi), R + r, R + r)
        V[:, R:, R:] = torch.where(there.all(1)[:, None, None], self.spread(phi), _identity(V, r))
        patterns, of = there.unique(dim=0, return_inverse=True)
        for i, seen in enumerate(patterns):
            if not bool(seen.all()):
                rows = (of == i).nonzero()[:, 0]
                expected, left = self._unseen(phi[rows], seen)
                phi[rows] = expected
                V[rows, :R, :R] = self.directions @ left @ self.directions.T
        u = phi @ self.directions.T
        return Moments(torch.cat([u, u.new_zeros(len(u), r)], 1), V)

    def spread(self, phi: Tensor) -> Tensor:
        """V of centred features (n, q): (n, r, r)."""
        r = len(self.whitening)
        log_variance = (phi @ self.log_variance.T).clamp(-_MOST_LOG, _MOST_LOG)
        lower = _identity(phi, r) - torch.einsum("jkq,nq->njk", self.couplings, phi)
        root = torch.linalg.solve_triangular(lower, _identity(phi, r), upper=False, left=False)
        root = self.whitening @ root * ((self.level + log_variance) / 2).exp()[:, None]
        return root @ root.mT

    def _unseen(self, phi: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Centred features (n, q) as those that are seen (q,) let expect them, and the covariance
        that this leaves."""
        at = seen.nonzero()[:, 0]
        between = self.covariance[:, at]
        # One-hot rows sum to 1, and products of them to a score: the covariance is singular.
        gain = between @ torch.linalg.pinv(between[at], rtol=_LEAST, hermitian=True)
        return phi[:, at] @ gain.T, self.covariance - gain @ between.T


def _identity(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _curves(x: Tensor) -> Tensor:
    """The curved part of a natural cubic spline of scores x (n, 1): (n, 3), orthonormal to one
    another, to x and to 1 where x ~ N(0, 1)."""
    knots, weights = _spline()
    return _spline_terms(x, knots.to(x.device)) @ weights.to(x.device)


def _spline_terms(x: Tensor, knots: Tensor) -> Tensor:
    """1, x, and the truncated cubes that become linear beyond the knots: (n, knots)."""
    cubes = (x - knots).clamp_min(0) ** 3
    slopes = (cubes[:, :-1] - cubes[:, -1:]) / (knots[-1] - knots[:-1])
    return torch.cat([torch.ones_like(x), x, slopes[:, :-1] - slopes[:, -1:]], 1)


@lru_cache(maxsize=1)
def _spline() -> tuple[Tensor, Tensor]:
    """The knots, and the weights of the terms that make curves (knots, knots - 2)."""
    knots = torch.special.ndtri(torch.tensor(_KNOT_LEVELS, dtype=torch.float64))
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    mass = (-x.square() / 2).exp()
    terms = _spline_terms(x, knots)
    products = terms.T @ (mass / mass.sum() * terms)
    # Gram and Schmidt's orthogonalisation: every term less what those before it say of it.
    return knots, torch.linalg.inv(torch.linalg.cholesky(products)).T[:, 2:]


def feature_directions(slopes: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Images that follow u = A (phi - mean), of covariance I, in place of slopes B (q, p) on phi.

    A (R, q) and G (R, p), G'G = B' covariance B, by falling length; those that are rounding are 0.
    """
    variance, axes = torch.linalg.eigh(covariance)
    real = variance > _LEAST * variance.max().clamp_min(_LEAST)
    roots = torch.where(real, variance, 0).sqrt()
    scaled = (roots[:, None] * axes.T) @ slopes
    length, rotation = torch.linalg.eigh(scaled @ scaled.T)
    rotation = rotation.flip(1)[:, : min(len(slopes), _MOST_DIRECTIONS)]
    inverse = torch.where(real, 1 / roots.clamp_min(_LEAST), 0)
    there = length.flip(0)[: rotation.shape[1]] > _LEAST * length.max().clamp_min(_LEAST)
    rotation = rotation * there
    return rotation.T @ (inverse[:, None] * axes.T), rotation.T @ scaled
