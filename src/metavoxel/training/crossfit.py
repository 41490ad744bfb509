"""Evidence about subjects that its network was not trained on, and what it calibrates.

A network states the uncertainty that it has on training subjects; on others it is overconfident,
and the more so the fewer it was trained on. A dozen validation subjects hardly show by how much,
and they picked the epoch. Cross-fitting (Chernozhukov et al., 2018) adds training subjects: each
fold is answered by a network that was trained on the others, as the model itself was, on the same
frozen encodings.
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
from metavoxel.files.writing import atomic_write
from metavoxel.model import MetaVoxel
from metavoxel.posterior.evidence import Evidence
from metavoxel.posterior.fit import minimise, named_prior
from metavoxel.posterior.law import Calibration, ScalarLaw
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.training.examples import Examples
from metavoxel.training.seeds import generator

_SUBSETS = 8  # of known scalars, asked of every record
_ROUNDS = 60
# Standard deviations of the priors, in logarithms: of the temperature that scalars have in common,
# of what they differ from it by, of the factors on shifts, of the sharing.
_COMMON, _APART, _SHIFT, _SHARING = 0.5, 0.5, 1.0, 1.0
_WIDEST = 3.0  # logarithm of a temperature that suits validation subjects, at most
_BATCH = 64

Trained = Callable[[MetaVoxel, Examples, Path], None]  # a model, on these examples, in a folder


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Evidence about n records that its network was not trained on, before calibration.

    `scalars[name]` (n, k) are what is true of them, embedded, where `observed[name]` (n,); `prior`
    is that of the network's training subjects.
    """

    evidence: Evidence
    scalars: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]
    prior: ScalarPrior


def held_out(model: MetaVoxel, examples: Examples, rows: Tensor) -> HeldOut:
    """What a model states of these records, of those with images."""
    assert model.law is not None
    rows = _imaged(model, examples, rows)
    evidence = _evidence_of(model.eval(), examples, rows)
    return _of_records(examples, rows, evidence, model.law.prior)


def _imaged(model: MetaVoxel, examples: Examples, rows: Tensor) -> Tensor:
    return rows[torch.stack([examples.observed[v] for v in model.schema.images]).any(0)[rows]]


def _of_records(
    examples: Examples, rows: Tensor, evidence: Evidence, prior: ScalarPrior
) -> HeldOut:
    scalars = {v: x[rows] for v, x in examples.scalars.items()}
    observed = {v: examples.observed[v][rows] for v in scalars}
    return HeldOut(evidence, scalars, observed, ScalarPrior(**prior.as_dict()))


def cross_fit(
    model: MetaVoxel,
    training: Examples,
    subjects: Sequence[str],
    folds: int,
    answered: int,
    folder: Path,
    train: Trained,
    seed: int,
) -> list[HeldOut]:
    """Evidence about the records of `answered` of the `folds`; `subjects` names whose each is.

    `train` trains a model and can be resumed; what a fold's network states is kept in `folder`.
    Empty, if there are too few subjects to take any away.
    """
    if len({*subjects}) < 2 * folds:
        return []
    of = folds_of(tuple(subjects), folds, seed)
    fold = torch.tensor([of[s] for s in subjects])
    parts = []
    for k in range(answered):
        own, others = (fold == k).nonzero()[:, 0], (fold != k).nonzero()[:, 0]
        parts.append(_of_fold(model, training, own, others, folder / f"fold-{k}", train))
    return parts


def _of_fold(
    model: MetaVoxel, training: Examples, own: Tensor, others: Tensor, folder: Path, train: Trained
) -> HeldOut:
    """What a network that was trained on the `others` states of its `own` records."""
    assert model.law is not None
    kept, law = folder / "evidence.safetensors", model.law
    scalars = {v: training.scalars[v][others] for v in law.names}
    there = {v: training.observed[v][others] for v in law.names}
    prior = named_prior(law.numbers, law.labels, scalars, there)
    if not kept.exists():
        network = MetaVoxel(model.schema, model.config, model.scalings, prior)
        # Its weights and its statistics: what a process shows of an image follows from them.
        network.autoencoders.load_state_dict(model.autoencoders.state_dict())
        network.autoencoders.eval().requires_grad_(False)
        train(network.to(model.device), training.only(others), folder)
        found = held_out(network, training, own).evidence
        with atomic_write(kept) as temporary:
            save_file({f.name: getattr(found, f.name) for f in fields(Evidence)}, temporary)
    saved = load_file(kept)
    evidence = Evidence(*(saved[f.name] for f in fields(Evidence)))
    return _of_records(training, _imaged(model, training, own), evidence, prior)


@torch.no_grad()
def _evidence_of(model: MetaVoxel, examples: Examples, rows: Tensor) -> Evidence:
    """What a model states of records by their images, before calibration."""
    parts = []
    for some in rows.split(_BATCH):
        z0, observed = examples.batch(some, torch.zeros_like(some))
        images = {v: z0[v].to(model.device) for v in model.schema.images}
        parts.append(model.stated(images, observed))
    joined = (torch.cat([getattr(e, f.name).cpu() for e in parts]) for f in fields(Evidence))
    return Evidence(*(x.contiguous() for x in joined))


def fit_calibration(law: ScalarLaw, groups: Sequence[HeldOut], seed: int) -> Calibration:
    """The constants under which held-out evidence makes what is true of its records likeliest.

    Maximum a posteriori, of random subsets given others: the logarithms of the temperatures are
    N(mu, 0.5^2), mu is N(0, 0.5^2), those of the factors on shifts and of the sharing N(0, 1).
    """
    V, L, frequencies = len(law.numbers), len(law.labels), law.prior.frequencies.cpu()
    values = torch.zeros(2 + V + L + V * L, dtype=torch.float64, requires_grad=True)
    spread = values.new_tensor([_COMMON, _SHARING, *[_APART] * (V + L), *[_SHIFT] * (V * L)])
    draw = generator(seed, 6)
    asked = [_questions(group.observed, draw) for group in groups]
    laws = [ScalarLaw(law.numbers, law.labels, group.prior) for group in groups]

    def constants() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        common, sharing, numbers, labels, shifts = values.split([1, 1, V, L, V * L])
        temperatures = (common + numbers).exp(), (common + labels).exp()
        return *temperatures, shifts.exp().view(V, L), sharing.exp()

    def loss() -> Tensor:
        numbers, labels, shifts, sharing = constants()
        total = (values / spread).square().sum() / 2
        for group, own, questions in zip(groups, laws, asked, strict=True):
            evidence = group.evidence.calibrated(
                numbers, labels, shifts, frequencies, law.prior.counts
            )
            kept = own.kept(evidence, sharing)
            for known, unknown in questions:
                each = own.log_likelihood(evidence, group.scalars, known, unknown, kept=kept)
                total = total - each.sum() / len(questions)
        return total

    minimise(loss, [values], _ROUNDS)
    with torch.no_grad():
        numbers, labels, shifts, sharing = constants()
    temperatures = dict(zip(law.names, torch.cat([numbers, labels]).tolist(), strict=True))
    rows = (dict(zip(law.labels, row, strict=True)) for row in shifts.tolist())
    return Calibration(temperatures, dict(zip(law.numbers, rows, strict=True)), float(sharing))


def calibrated_loss(law: ScalarLaw, group: HeldOut, seed: int) -> float:
    """-log p(asked | images, known) of held-out records, the mean over them and random subsets, at
    those temperatures, one a scalar, at which it is least."""
    V, L, frequencies = len(law.numbers), len(law.labels), law.prior.frequencies.cpu()
    questions = _questions(group.observed, generator(seed, 6))
    own = ScalarLaw(law.numbers, law.labels, group.prior)
    logarithms = torch.zeros(V + L, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        # Bounded, as nothing else holds back those of a single validation subject.
        numbers, labels = (_WIDEST * (logarithms / _WIDEST).tanh()).exp().split([V, L])
        evidence = group.evidence.calibrated(
            numbers, labels, frequencies.new_ones(V, L), frequencies, law.prior.counts
        )
        each = [
            own.log_likelihood(evidence, group.scalars, known, asked).mean()
            for known, asked in questions
        ]
        return -torch.stack(each).mean()

    minimise(loss, [logarithms], _ROUNDS)
    with torch.no_grad():
        return float(loss())


def answers_of(
    model: MetaVoxel, groups: Sequence[HeldOut]
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of every continuous variable given the images: means and standard deviations (n,) of the
    calibrated answers about held-out records, in its unit, and what is true, NaN where unknown."""
    assert model.law is not None
    out: dict[str, list[tuple[np.ndarray, ...]]] = {v: [] for v in model.law.numbers}
    for group in groups:
        law = ScalarLaw(model.law.numbers, model.law.labels, group.prior)
        law.calibration = model.law.calibration
        n = len(group.evidence.mean)
        posterior = law.posterior(law.calibrated(group.evidence), {}, n)
        for v, parts in out.items():
            marginal = model.marginal(posterior, v)
            truth = model.decode({v: group.scalars[v]})[v].cpu()
            truth = truth.masked_fill(~group.observed[v], torch.nan).numpy()
            parts.append((marginal.mean, marginal.std, truth))
    joined = {v: [np.concatenate(x) for x in zip(*parts, strict=True)] for v, parts in out.items()}
    return {v: (mean, std, truth) for v, (mean, std, truth) in joined.items()}


def _questions(
    observed: Mapping[str, Tensor], draw: torch.Generator
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Which scalars of every record are known, and which are asked: all of what is observed; none
    is known first, then shares of them by the arcsine law."""
    n, out = len(next(iter(observed.values()))), []
    for i in range(_SUBSETS):
        share = torch.sin(torch.rand(n, generator=draw) * torch.pi / 2) ** 2 * (i > 0)
        known = {v: x & (torch.rand(n, generator=draw) < share) for v, x in observed.items()}
        out.append((known, {v: x & ~known[v] for v, x in observed.items()}))
    return out
