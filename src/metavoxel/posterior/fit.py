"""The prior of all scalars, fitted to a table with gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.posterior.prior import ScalarPrior

_MOST_RECORDS = 4096
_ROUNDS = 100


def fit_prior(
    x: Tensor, x_known: Tensor, y: Tensor, y_known: Tensor, counts: Sequence[int]
) -> ScalarPrior:
    """The prior of embedded numbers x (n, V) and one-hot labels y (n, D), of which `x_known` (n, V)
    and `y_known` (n, D) say what is there.

    Maximum likelihood of what is there, penalised as by V + D records more whose elements are
    independent: N(0, 1), given any labels, and labels as frequent as they are. So with few records,
    and elements seldom known together, it stays away from what they cannot tell. Where labels are
    missing, the numbers count by their means and covariance alone (a Gaussian quasi-likelihood):
    else the shape of a number's distribution would be taken for a label that nobody has seen.
    """
    V, D = x.shape[1], y.shape[1]
    some = slice(None, None, -(-len(x) // _MOST_RECORDS) or 1)
    x, x_known, y, y_known = x[some].double(), x_known[some], y[some].double(), y_known[some]
    frequencies = _frequencies(y, y_known, counts)
    owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor([*counts]).long())
    between = (owners[:, None] < owners).double()
    unary = frequencies.log().requires_grad_()
    pair = torch.zeros(D, D).double().requires_grad_()
    offset = torch.zeros(V).double().requires_grad_()
    slopes = torch.zeros(V, D).double().requires_grad_()
    root = torch.zeros(V, V).double().requires_grad_()  # the diagonal holds logarithms
    parameters = [unary, pair, offset, slopes, root]

    def built() -> ScalarPrior:
        lower = root.tril(-1) + root.diagonal().clamp(min=-3, max=3).exp().diag()
        upper = pair * between
        prior = ScalarPrior.independent(V, counts)
        prior.frequencies = frequencies
        prior.unary, prior.pair, prior.offset = unary, upper + upper.T, offset
        prior.slopes = slopes
        prior.covariance = lower @ lower.T
        return prior

    def loss() -> Tensor:
        prior = built()
        likelihood = _log_likelihood(prior, x, x_known, y, y_known)
        return (-likelihood.sum() - (V + D) * _independent(prior)) / max(len(x), 1)

    minimise(loss, parameters, _ROUNDS)
    with torch.no_grad():
        return ScalarPrior(**built().as_dict())


def named_prior(
    numbers: Sequence[str],
    labels: Mapping[str, int],
    z0: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
) -> ScalarPrior:
    """The prior of embedded scalars z0[name] (n, k), where observed[name] (n,) says that they are
    there: of the `numbers`, and of the `labels`, which maps names to how many labels there are."""

    def columns(names: Collection[str]) -> tuple[Tensor, Tensor]:
        n = len(next(iter(observed.values())))
        values, there = [torch.zeros(n, 0)], [torch.zeros(n, 0, dtype=torch.bool)]
        values += [z0[v] for v in names]
        there += [observed[v][:, None].expand_as(z0[v]) for v in names]
        return torch.cat(values, 1), torch.cat(there, 1)

    return fit_prior(*columns(numbers), *columns(labels), [*labels.values()])


def minimise(loss: Callable[[], Tensor], parameters: Sequence[Tensor], rounds: int) -> None:
    """Change the parameters until the loss is least, by L-BFGS, in at most so many rounds."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=rounds, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def _log_likelihood(
    prior: ScalarPrior, x: Tensor, x_known: Tensor, y: Tensor, y_known: Tensor
) -> Tensor:
    """Of the known labels, and of the known numbers given these, (n,)."""
    draw = torch.Generator().manual_seed(0)
    given = prior.factor().given_labels(y, y_known).posterior(prior.counts, draw)
    weight, centre = given.log_weight.exp(), given.expectation
    apart = given.mean - centre[:, None]
    covariance = prior.covariance + apart.mT @ (apart * weight[..., None])
    k = x_known.to(x)
    covariance = covariance * k[:, :, None] * k[:, None] + (1 - k).diag_embed()
    root = torch.linalg.cholesky(covariance)
    error = torch.linalg.solve_triangular(root, ((x - centre) * k)[..., None], upper=False)
    volume = root.diagonal(dim1=1, dim2=2).log().sum(1)
    normal = -error.square().sum((1, 2)) / 2 - volume - math.log(2 * math.pi) / 2 * k.sum(1)
    return given.log_mass + normal


def _frequencies(y: Tensor, known: Tensor, counts: Sequence[int]) -> Tensor:
    """Of every label, (D,), with one record of a label of each more (Laplace)."""
    seen = (y * known).sum(0) + 1
    parts = seen.split([*counts]) if counts else ()
    return torch.cat([seen[:0], *(part / part.sum() for part in parts)])


def _independent(prior: ScalarPrior) -> Tensor:
    """E[log p(x, y)] of a record whose elements are independent; in x, of one of any labels."""
    pi, V = prior.frequencies, len(prior.offset)
    table = prior.unary @ pi + pi @ prior.pair @ pi / 2 - prior._log_normaliser()[0]
    shares = torch.cat([prior.unary.new_full((k,), 1 / k) for k in prior.counts] or [pi[:0]])
    owners = F.one_hot(
        torch.repeat_interleave(
            torch.arange(len(prior.counts)), torch.tensor([*prior.counts]).long()
        ),
        max(len(prior.counts), 1),
    ).double()
    # With labels drawn independently, the mean's second moment is that of its expectation and of
    # every label's own variance.
    centre = prior.offset + prior.slopes @ shares
    own = shares.diag() - (owners @ owners.T) * shares.outer(shares)
    moment = centre.outer(centre) + prior.slopes @ own @ prior.slopes.T
    root = torch.linalg.cholesky(prior.covariance)
    inverse = torch.cholesky_inverse(root)
    spread = ((moment + torch.eye(V).to(moment)) * inverse).sum() / 2
    return table - root.diagonal().log().sum() - spread
