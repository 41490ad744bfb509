"""What a model's law states of subjects: any question, from one evaluation of their images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.systems import Kept, SystemAnswers
from metavoxel.inference.ask import BATCH, IMAGES
from metavoxel.model import MetaVoxel
from metavoxel.posterior.evidence import Evidence
from metavoxel.posterior.law import ScalarPosterior
from metavoxel.posterior.marginal import Marginal

_SUBJECTS = 400  # at most


@dataclass(frozen=True, eq=False)
class LawAnswers:
    """What a model's law states of n subjects, from one evaluation of each one's images.

    `truth[name]` (n,) holds numbers and label indices, NaN where unknown. All images together go
    by the one name `images` among what is known.
    """

    model: MetaVoxel
    evidence: Evidence
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.evidence.mean)

    @property
    def images(self) -> str:
        return ", ".join(self.model.schema.images)

    def of(self, rows: np.ndarray | slice) -> LawAnswers:
        """Of some subjects."""
        evidence = Evidence(*(x[rows] for x in vars(self.evidence).values()))
        return LawAnswers(self.model, evidence, {v: x[rows] for v, x in self.truth.items()})

    @torch.inference_mode()
    def posterior(
        self, known: Collection[str], told: Mapping[str, np.ndarray] | None = None
    ) -> ScalarPosterior:
        """p(scalars | known, told); of one row where neither says anything."""
        assert self.model.law is not None
        values = {v: self.truth[v] for v in known if v != self.images} | dict(told or {})
        z = self.model.encode({v: torch.from_numpy(np.array(x)) for v, x in values.items()})
        evidence = self.evidence if self.images in known else None
        return self.model.law.posterior(evidence, z, len(self))

    def state(
        self, asked: str, known: Collection[str], told: Mapping[str, np.ndarray] | None = None
    ) -> Marginal | np.ndarray:
        """The distribution of a number, or the probabilities (n, K) of labels, given the true
        values of what is known, and values (n,) that are told."""
        posterior = self.posterior(known, told)
        if asked in self.model.labels:
            return posterior.probabilities(asked).cpu().numpy()
        return self.model.marginal(posterior, asked)

    def score(self, asked: str, known: frozenset[str]) -> np.ndarray:
        """CRPS of a number, log score of a label, (n,); NaN where a value of the question is."""
        values = [self.truth[v] for v in (asked, *known) if v != self.images]
        rows = np.flatnonzero(~np.isnan(values).any(0))
        out = np.full(len(self), np.nan)
        if len(rows):
            some = self.of(rows)
            stated, truth = some.state(asked, known), some.truth[asked]
            number = isinstance(stated, Marginal)
            out[rows] = stated.crps(truth) if number else log_score(stated, truth.astype(int))
        return out


def answers_about(model: MetaVoxel, table: Table, seed: int, kept: Kept) -> LawAnswers:
    """About one record of each subject of a table; the evidence is kept for the next time."""
    rows, found = one_record_each(table.subjects, seed), kept.read("evidence")
    if found is None:
        stated = stated_evidence(model, {v: table.images[v][rows] for v in model.schema.images})
        found = SystemAnswers({k: x.cpu().numpy() for k, x in vars(stated).items()})
        kept.write("evidence", found)
    evidence = {k: torch.from_numpy(x).to(model.device) for k, x in found.points.items()}
    truth = {v: x[rows] for v, x in table.scalars.items() if v in model.schema.scalars}
    return LawAnswers(model, Evidence(**evidence), truth)


def one_record_each(subjects: Sequence[str], seed: int, most: int = _SUBJECTS) -> np.ndarray:
    """The rows (n,) of one record of each subject, of so many subjects at most, in their order."""
    _, rows = np.unique(np.asarray(subjects), return_index=True)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


@torch.inference_mode()
def stated_evidence(model: MetaVoxel, images: Mapping[str, np.ndarray]) -> Evidence:
    """The calibrated evidence of raw images (n, C, *grid), from one evaluation of each record."""
    n, parts = len(next(iter(images.values()))), []
    for rows in torch.arange(n).split(BATCH):
        raw = {v: torch.from_numpy(x[rows.numpy()]).split(IMAGES) for v, x in images.items()}
        z = {v: torch.cat([model.encode({v: x})[v] for x in each]) for v, each in raw.items()}
        parts.append(model.evidence(*model.corner(z, len(rows), [*images], None)))
    return Evidence(*(torch.cat([getattr(e, f.name) for e in parts]) for f in fields(Evidence)))


def log_score(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """-log p(truth) in nats, (n,), of probabilities (n or 1, K) and label indices (n,)."""
    chosen = np.broadcast_to(probabilities, (len(truth), probabilities.shape[1]))
    return -np.log(np.maximum(chosen[np.arange(len(truth)), truth], 1e-12))
