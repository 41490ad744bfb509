"""Evidence about training subjects from networks that did not see them, and what it calibrates.

A network states how sure it is of the subjects it was trained on; of others it is less sure, and
the more so the fewer it was trained on. Cross-fitting (Chernozhukov et al., 2018) shows by how
much with every training subject, not with a dozen validation subjects that picked the epoch: each
fold is answered by a network of its own that was trained on the others, on the frozen encodings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from metavoxel.data.splits import folds_of
from metavoxel.diffusion.config import CornerTimesConfig
from metavoxel.files.writing import atomic_write
from metavoxel.model import MetaVoxel
from metavoxel.posterior.evidence import Evidence
from metavoxel.posterior.fit import fit_prior
from metavoxel.posterior.law import Calibration, ScalarLaw
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.training.examples import Examples
from metavoxel.training.seeds import generator

_SUBSETS = 8  # of known scalars, asked of every record
_ROUNDS = 60
# Standard deviations of the priors, in logarithms: of the temperature that scalars have in common,
# of what they differ from it by, of the factor on shifts, of the sharing.
_COMMON, _APART, _SHIFT, _SHARING = 1.0, 0.3, 1.0, 1.0
_BATCH = 64

Trained = Callable[[MetaVoxel, Examples, Path], None]  # a model, on these examples, in a folder


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Evidence about records whose subjects its network was not trained on.

    `rows` are those of the training records that have images; `evidence` is before calibration.
    `priors` are those of each fold's training subjects, `fold` (n,) says which is a record's.
    """

    rows: Tensor
    evidence: Evidence
    fold: Tensor
    priors: tuple[ScalarPrior, ...]


def cross_fit(
    model: MetaVoxel,
    training: Examples,
    subjects: Sequence[str],
    folds: int,
    folder: Path,
    train: Trained,
    seed: int,
) -> OutOfFold | None:
    """Out-of-fold evidence about the training records, `subjects` naming whose each is.

    `train` trains a model and can be resumed; what a fold's network states is kept in `folder`.
    None, if there are too few subjects with images to take any away.
    """
    imaged = torch.stack([training.observed[v] for v in model.schema.images]).any(0)
    whose = [subjects[i] for i in imaged.nonzero()[:, 0].tolist()]
    if model.law is None or len({*whose}) < 2 * folds:
        return None
    of = folds_of(tuple(subjects), folds, seed)
    fold = torch.tensor([of[s] for s in subjects])
    rows, parts, priors = [], [], []
    for k in range(folds):
        own, others = (imaged & (fold == k)).nonzero()[:, 0], (fold != k).nonzero()[:, 0]
        prior = prior_of(model.law, training, others)
        parts.append(_stated(model, training, own, others, prior, folder / f"fold-{k}", train))
        rows.append(own)
        priors.append(prior)
    joined = (torch.cat([getattr(e, f.name) for e in parts]) for f in fields(Evidence))
    every = torch.cat(rows)
    return OutOfFold(every, Evidence(*joined), fold[every], tuple(priors))


def prior_of(law: ScalarLaw, examples: Examples, rows: Tensor) -> ScalarPrior:
    """The prior of some records."""

    def columns(names: Sequence[str]) -> tuple[Tensor, Tensor]:
        z = [examples.scalars[v][rows] for v in names]
        there = [
            examples.observed[v][rows, None].expand_as(x) for v, x in zip(names, z, strict=True)
        ]
        nothing = torch.zeros(len(rows), 0)
        return torch.cat([nothing, *z], 1), torch.cat([nothing.bool(), *there], 1)

    return fit_prior(*columns(law.numbers), *columns([*law.labels]), [*law.labels.values()])


def _stated(
    model: MetaVoxel,
    training: Examples,
    own: Tensor,
    others: Tensor,
    prior: ScalarPrior,
    folder: Path,
    train: Trained,
) -> Evidence:
    """What a network that was trained on the `others` states of its `own` records."""
    kept = folder / "evidence.safetensors"
    if not kept.exists():
        diffusion = model.config.diffusion.model_copy(
            update={"times": CornerTimesConfig(known_fields=1.0)}
        )
        config = model.config.model_copy(update={"diffusion": diffusion})
        network = MetaVoxel(model.schema, config, model.scalings, prior)
        network.autoencoders = model.autoencoders
        network = network.to(model.device)
        train(network, training.only(others), folder)
        evidence = evidence_of(network.eval(), training, own)
        with atomic_write(kept) as temporary:
            save_file({f.name: getattr(evidence, f.name) for f in fields(Evidence)}, temporary)
    saved = load_file(kept)
    return Evidence(*(saved[f.name] for f in fields(Evidence)))


@torch.inference_mode()
def evidence_of(model: MetaVoxel, examples: Examples, rows: Tensor) -> Evidence:
    """What a model states of records by their images, before calibration."""
    parts = []
    for some in rows.split(_BATCH):
        z0, observed = examples.batch(some, torch.zeros_like(some))
        parts.append(model.stated({v: z0[v] for v in model.schema.images}, observed))
    joined = (torch.cat([getattr(e, f.name).cpu() for e in parts]) for f in fields(Evidence))
    return Evidence(*(x.contiguous() for x in joined))


def fit_calibration(law: ScalarLaw, training: Examples, found: OutOfFold, seed: int) -> Calibration:
    """The constants under which out-of-fold evidence makes what is true of its records likeliest.

    Maximum a posteriori, of random subsets given others: the logarithms of the temperatures are
    N(mu, 0.3^2), mu is N(0, 1), those of the factor on shifts and of the sharing N(0, 1).
    """
    names = law.names
    values = torch.zeros(len(names) + 3, dtype=torch.float64, requires_grad=True)
    z0 = {v: training.scalars[v][found.rows] for v in names}
    observed = {v: training.observed[v][found.rows] for v in names}
    known = _subsets(observed, generator(seed, 6))
    laws = [ScalarLaw(law.numbers, law.labels, prior) for prior in found.priors]
    frequencies, counts = law.prior.frequencies.cpu(), law.prior.counts
    widths = torch.tensor([law.labels[v] for v in law.labels], dtype=torch.long)

    def loss() -> Tensor:
        factors, shift, sharing = (values[0] + values[3:]).exp(), values[1].exp(), values[2].exp()
        labels = factors[len(law.numbers) :].repeat_interleave(widths)
        total = values.new_zeros(())
        for k, of_fold in enumerate(laws):
            rows = found.fold == k
            some = Evidence(*(getattr(found.evidence, f.name)[rows] for f in fields(Evidence)))
            numbers = factors[: len(law.numbers)]
            some = some.calibrated(numbers, labels, shift, frequencies, counts)
            truth = {v: x[rows] for v, x in z0.items()}
            for given in known:
                asked = {v: observed[v][rows] & ~given[v][rows] for v in names}
                there = {v: given[v][rows] for v in names}
                each = of_fold.log_likelihood(some, truth, there, asked, sharing=sharing)
                total = total - each.sum() / len(known)
        spread = values.new_tensor([_COMMON, _SHIFT, _SHARING, *[_APART] * len(names)])
        return total + (values / spread).square().sum() / 2

    optimiser = torch.optim.LBFGS([values], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
    fitted = dict(zip(names, (values[0] + values[3:]).exp().tolist(), strict=True))
    return Calibration(fitted, float(values[1].exp()), float(values[2].exp()))


def answers_of(
    model: MetaVoxel, training: Examples, found: OutOfFold
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of every continuous variable given the images: means and standard deviations (n,) of the
    calibrated out-of-fold answers, in its unit, and what is true, NaN where it is not observed."""
    assert model.law is not None
    out = {}
    tempered = model.law.calibrated(found.evidence)
    posterior = model.law.posterior(tempered, {}, len(found.rows))
    for v in model.law.numbers:
        marginal = model.marginal(posterior, v)
        truth = model.decode({v: training.scalars[v][found.rows]})[v].cpu()
        known = training.observed[v][found.rows]
        out[v] = marginal.mean, marginal.std, truth.masked_fill(~known, torch.nan).numpy()
    return out


def _subsets(observed: Mapping[str, Tensor], draw: torch.Generator) -> list[dict[str, Tensor]]:
    """Which scalars of every record are known: none, then shares of them by the arcsine law."""
    n, out = len(next(iter(observed.values()))), []
    for i in range(_SUBSETS):
        share = torch.sin(torch.rand(n, generator=draw) * torch.pi / 2) ** 2 * (i > 0)
        out.append({v: x & (torch.rand(n, generator=draw) < share) for v, x in observed.items()})
    return out
