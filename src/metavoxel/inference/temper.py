"""Tempers, fitted on people that the model was not trained on: the spreads that it should state.

With n residuals in units of the stated spread, the likelihood of the factor s^2 on the variance is
known: it is that of a scaled inverse chi-square with n degrees of freedom. Twelve people leave s^2
open by 40 %, so one model's scalars are taken together (empirical Bayes, as James and Stein, 1961;
Morris, 1983): log s^2 of a scalar is drawn from N(mu, tau^2), what is common to the model and how
far its scalars differ. All is integrated on grids: mu and tau are no better known than the people
allow, and what is stated of a continuous variable is the posterior mean of s^2, the variance of the
predictive distribution (of a categorical one, that of 1 / s^2, to which its logits are in ratio).

Two things make the factors a little too sure. The residuals of one person are taken for independent
across scalars, which they are not: a scan that is badly read is so for all of them. And if the same
people chose the epoch, they chose the one that suits them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from metavoxel.diffusion.joint import State, Times
from metavoxel.diffusion.readout import ReadOut
from metavoxel.diffusion.temper import Temper
from metavoxel.inference.ask import BATCH
from metavoxel.model import MetaVoxel

LOG_FACTORS = torch.linspace(-6, 6, 481, dtype=torch.float64)
# Of the priors of mu and tau: a network stopped in time is off by a third, not by three. Under
# priors of 1, 12 people decide almost alone, and unseen people fare worse (benchmarks/tempers.py).
MU_STD, TAU_STD = 0.3, 0.3
# Twelve people hardly tell a share. Without images those of five models together, and 200, found 1
# the likeliest; beside them the network has read much of what the others say off the image.
SHARES = torch.linspace(0, 1, 21, dtype=torch.float64)
_WITHOUT, _BESIDE = 3 * SHARES.log(), 2 * (1 - SHARES).log()  # Beta(4, 1) and Beta(1, 3)
_GRID = 30  # values of each
_QUESTIONS = 4  # asked of every person: which of the other scalars are known


def shrunk_factors(
    log_likelihood: Tensor,
    powers: Sequence[int],
    mu_std: float = MU_STD,
    tau_std: float = TAU_STD,
) -> Tensor:
    """Every scalar's factor, (V,), by its posterior mean in the power that `powers` says.

    `log_likelihood` (V, G) is that of the logarithms `LOG_FACTORS`; a scalar of which nobody has a
    value has a row of 0, and gets what the others have in common. mu is drawn from N(0, mu_std^2),
    tau from the positive half of N(0, tau_std^2).
    """
    # Wide enough for priors that the people overrule.
    mus = torch.linspace(-6 * mu_std, 6 * mu_std, 2 * _GRID + 1, dtype=torch.float64)
    taus = torch.linspace(0.1 * tau_std, 6 * tau_std, _GRID, dtype=torch.float64)
    mu, tau = (x.flatten() for x in torch.meshgrid(mus, taus, indexing="ij"))
    prior = (-((LOG_FACTORS - mu[:, None]) / tau[:, None]).square() / 2).log_softmax(1)
    log_weight = -((mu / mu_std).square() + (tau / tau_std).square()) / 2
    means = []
    for row, power in zip(log_likelihood, powers, strict=True):
        posterior = prior + row  # (M, G) of the factor, given each mu and tau
        log_weight = log_weight + posterior.logsumexp(1)
        means.append(posterior.softmax(1) @ (power * LOG_FACTORS).exp())
    return (torch.stack(means) @ log_weight.softmax(0)) ** (1 / torch.tensor(powers))


def fit_tempers(
    model: MetaVoxel, z0: State, observed: Mapping[str, Tensor], seed: int = 0
) -> dict[str, Temper]:
    """Tempers of the scalars that are read out, from n records that the model was not fitted on.

    `z0[name]` (n, ...) is what is known of them, encoded, and `observed[name]` (n,) bool whether it
    is. Raises ValueError for a model that is tempered already.
    """
    if model.tempers:
        raise ValueError("a model is tempered once")
    read_outs = _read_outs(model)
    imaged = torch.stack([observed[v] for v in model.schema.images]).all(0)
    if not any(bool((observed[v] & imaged).any()) for v in read_outs):
        return {}
    generator = torch.Generator().manual_seed(seed)
    factors = []
    for images_known, rows in ((True, imaged.nonzero()[:, 0]), (False, torch.arange(len(imaged)))):
        chosen = {v: x[rows] for v, x in z0.items()}, {v: x[rows] for v, x in observed.items()}
        curves = _log_likelihood(model, read_outs, *chosen, images_known, generator)
        factors.append(shrunk_factors(curves, [r.linear_in for r in read_outs.values()]).tolist())
    return {v: Temper(*pair) for v, *pair in zip(read_outs, *factors, strict=True)}


def fit_shares(
    model: MetaVoxel, z0: State, observed: Mapping[str, Tensor], seed: int = 0
) -> tuple[float, dict[str, float]]:
    """The weights of the joint distribution of scalars in answers, by records like those of
    `fit_tempers`: where no image is seen one for all scalars, its posterior mean under the prior
    Beta(4, 1); beside images one for each, under Beta(1, 3). Comes before the tempers.
    """
    if model.tempers or model.together is None:
        raise ValueError("shares are of a joint distribution, and fitted before the tempers")
    imaged = torch.stack([observed[v] for v in model.schema.images]).all(0)
    generator = torch.Generator().manual_seed(seed)
    every = _shares_likelihood(model, z0, observed, False, generator)
    rows = imaged.nonzero()[:, 0]
    some = {v: x[rows] for v, x in z0.items()}, {v: x[rows] for v, x in observed.items()}
    each = _shares_likelihood(model, *some, True, generator)
    without = (every.sum(0) + _WITHOUT).softmax(0) @ SHARES
    beside = ((each + _BESIDE).softmax(1) @ SHARES).tolist()
    return float(without), dict(zip(_read_outs(model), beside, strict=True))


@torch.inference_mode()
def _shares_likelihood(
    model: MetaVoxel,
    z0: State,
    observed: Mapping[str, Tensor],
    images_known: bool,
    generator: torch.Generator,
) -> Tensor:
    """The logarithm of that of every share, summed over the records and averaged over their
    questions, (V, G)."""
    together, read_outs, n = model.together, _read_outs(model), len(next(iter(observed.values())))
    assert together is not None
    unknown = _questions(model, n, images_known, generator)
    curves = torch.zeros(len(read_outs), len(SHARES), dtype=torch.float64)
    before = together.share, together.beside
    for question in range(_QUESTIONS):
        for rows in torch.arange(n).split(BATCH):
            z = {v: x[rows].to(model.device) for v, x in z0.items()}
            asked = {v: x[question, rows] | ~observed[v][rows] for v, x in unknown.items()}
            z, t = _corner(model, z, asked, generator)
            predictions, known = model.network(z, t, read_outs), model.known(t)
            for g, share in enumerate(map(float, SHARES)):
                together.share, together.beside = share, dict.fromkeys(read_outs, share)
                said = model.pooled(predictions, z, t, known)
                for i, (v, read_out) in enumerate(read_outs.items()):
                    weight = unknown[v][question, rows] / unknown[v][:, rows].sum(0)
                    each = read_out.log_likelihood(said[v].cpu(), z0[v][rows])
                    curves[i, g] += (weight * observed[v][rows] * each).sum()
    together.share, together.beside = before
    return curves


@torch.inference_mode()
def _log_likelihood(
    model: MetaVoxel,
    read_outs: Mapping[str, ReadOut],
    z0: State,
    observed: Mapping[str, Tensor],
    images_known: bool,
    generator: torch.Generator,
) -> Tensor:
    """That of every factor, summed over the records and averaged over their questions, (V, G)."""
    n = len(next(iter(z0.values())))
    unknown = _questions(model, n, images_known, generator)
    curves = torch.zeros(len(read_outs), len(LOG_FACTORS), dtype=torch.float64)
    for question in range(_QUESTIONS):
        for rows in torch.arange(n).split(BATCH):
            z = {v: x[rows].to(model.device) for v, x in z0.items()}
            there = {v: x[rows] for v, x in observed.items()}
            asked = {v: x[question, rows] | ~there[v] for v, x in unknown.items()}
            said = _predictions(model, read_outs, z, asked, generator)
            for i, (v, read_out) in enumerate(read_outs.items()):
                share = unknown[v][question, rows] / unknown[v][:, rows].sum(0)
                each = _curves(read_out, said[v].cpu(), z0[v][rows])
                curves[i] += (share * there[v]).double() @ each
    return curves


def _questions(
    model: MetaVoxel, n: int, images_known: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """What is unknown in each of the questions about each of n records, bool, (questions, n).

    The first asks for every scalar. In the others a share of the scalars is known that is drawn, as
    in training (CornerTimes), from the arcsine law.
    """
    unknown = {v: torch.full((_QUESTIONS, n), not images_known) for v in model.schema.images}
    known_share = torch.sin(torch.rand(_QUESTIONS, n, generator=generator) * torch.pi / 2) ** 2
    known_share[0] = 0
    for v in model.schema.scalars:
        unknown[v] = torch.rand(_QUESTIONS, n, generator=generator) >= known_share
    return unknown


def _predictions(
    model: MetaVoxel,
    asked: Collection[str],
    z0: State,
    unknown: Mapping[str, Tensor],
    generator: torch.Generator,
) -> State:
    """What the model says where the known are at t = 0 and the unknown at T."""
    return model(*_corner(model, z0, unknown, generator), asked)


def _corner(
    model: MetaVoxel, z0: State, unknown: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[State, Times]:
    """The known of z0 at t = 0, the unknown at T."""
    T = model.process.T  # noqa: N806
    t = {v: T * x.long().to(model.device) for v, x in unknown.items()}
    noise = model.process.noise(len(next(iter(z0.values()))), generator)
    noise = {v: x.to(model.device) for v, x in noise.items()}
    return model.process.noised(z0, t, noise), t


def _read_outs(model: MetaVoxel) -> dict[str, ReadOut]:
    """The scalars that are read out, if the training was meant to teach them from images."""
    return {
        v: p
        for v, p in model.process.processes.items()
        if isinstance(p, ReadOut) and model.learns([v], model.schema.images)
    }


def _curves(read_out: ReadOut, prediction: Tensor, z0: Tensor) -> Tensor:
    """The log-likelihood of every factor for every record, (B, G)."""
    n, grid = len(z0), LOG_FACTORS.exp().to(z0)
    tempered = read_out.tempered(
        prediction.repeat_interleave(len(grid), 0), grid.repeat(n)[:, None]
    )
    each = read_out.log_likelihood(tempered, z0.repeat_interleave(len(grid), 0))
    return each.view(n, len(grid)).double()
