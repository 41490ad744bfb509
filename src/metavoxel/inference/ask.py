"""Ask a model for any conditional, in raw values; batches of records, any number of samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.joint import State
from metavoxel.errors import MetaVoxelError
from metavoxel.inference.query import Question
from metavoxel.inference.samplers import Condition, Watch, one_evaluation, sample
from metavoxel.model import MetaVoxel

BATCH = 64  # records and samples that go through the network together
IMAGES = 8  # records that go through an autoencoder together


@dataclass(frozen=True, eq=False)
class Drawn:
    """Raw answers for n records, by variable.

    `samples[name]` (n, samples, ...): continuous in their unit, categorical as label indices,
    images in [0, 1]. `point[name]`: (n,) expectations of continuous variables and (n, K)
    probabilities of categorical ones, from one evaluation; empty if the model cannot.
    """

    samples: dict[str, Tensor]
    point: dict[str, Tensor]


@torch.inference_mode()
def ask(
    model: MetaVoxel,
    asked: Collection[str],
    known: Mapping[str, Tensor],
    n: int,
    samples: int,
    seed: int,
    settings: SamplingConfig | None = None,
    watch: Watch | None = None,
) -> Drawn:
    """Answer one question about n records whose known raw values are given (n, ...) by variable.

    Raises MetaVoxelError if the model's training teaches no such question, or if an answer is not
    a finite number. The network is used as it is: put it in eval mode first (a loaded model is).
    """
    parts = [
        model.encode({v: x[rows] for v, x in known.items()})
        for rows in torch.arange(n).split(IMAGES)
    ]
    z0 = {v: torch.cat([part[v] for part in parts]) for v in known}
    return ask_encoded(model, asked, z0, n, samples, seed, settings, watch)


@torch.inference_mode()
def ask_encoded(
    model: MetaVoxel,
    asked: Collection[str],
    z0: State,
    n: int,
    samples: int,
    seed: int,
    settings: SamplingConfig | None = None,
    watch: Watch | None = None,
) -> Drawn:
    """The same of records whose known variables are already encoded, z0[name] (n, ...)."""
    check_learnt(model, asked, z0)
    settings = _allowed(model, z0, settings or model.config.sampling)
    generator = torch.Generator().manual_seed(seed)
    point: dict[str, Tensor] = {}
    scalars = [v for v in asked if v in model.schema.scalars]
    if settings.point == "one_evaluation" and scalars:
        point = _point(model, scalars, z0, n, generator)
    drawn: dict[str, Tensor] = {}
    if samples:
        repeated = {v: x.repeat_interleave(samples, 0) for v, x in z0.items()}
        flat = _sampled(model, asked, repeated, n * samples, settings, generator, watch)
        drawn = {v: x.unflatten(0, (n, samples)) for v, x in flat.items()}
    return Drawn(drawn, point)


def _allowed(model: MetaVoxel, known: Collection[str], settings: SamplingConfig) -> SamplingConfig:
    """What the model's training allows: a conditional model of the images never learnt to draw
    scalars before them, one of a shared time to draw a scalar with others known and others gone."""
    unknown = [v for v in model.schema.scalars if v not in known]
    learnt = model.learns(unknown, [v for v in known if v in model.schema.images])
    alone = model.config.diffusion.times.kind != "shared"
    allowed = {"scalars_first": learnt, "scalars_in_turn": alone}
    return settings.model_copy(update={k: False for k, may in allowed.items() if not may})


def check_learnt(model: MetaVoxel, asked: Collection[str], known: Collection[str]) -> None:
    """Refuse a question that a conditional model was never trained for. Raises MetaVoxelError."""
    if model.learns(asked, known):
        return
    images, scalars = ", ".join(model.schema.images), ", ".join(model.schema.scalars)
    raise MetaVoxelError(
        f"This model has learnt {images} given all of its conditions ({scalars}) or none; it "
        f'cannot answer "{Question(tuple(asked), tuple(known))}". Ask for {images} alone, or train '
        "a model with diffusion.times of kind corners."
    )


def check_finite(answers: Mapping[str, Tensor]) -> None:
    """Raise MetaVoxelError if an answer, raw or encoded, is not a number: the model is no good."""
    for v, x in answers.items():
        if not bool(x.isfinite().all()):
            raise MetaVoxelError(
                f"The model's answer for {v} is not a finite number: its training diverged, or its "
                "weights are damaged. Copy it again and run metavoxel verify, or train it again "
                "with a lower learning rate."
            )


def _point(
    model: MetaVoxel, asked: Collection[str], z0: State, n: int, generator: torch.Generator
) -> dict[str, Tensor]:
    out: dict[str, list[Tensor]] = {v: [] for v in asked}
    for rows in torch.arange(n).split(BATCH):
        known = {v: x[rows] for v, x in z0.items()}
        condition = Condition(len(rows), known, device=model.device)
        clean = one_evaluation(model, model.process, condition, asked, generator)
        check_finite(clean)
        for v, z in clean.items():
            out[v].append((model.decode({v: z})[v] if v in model.scalings else z).cpu())
    return {v: torch.cat(parts) for v, parts in out.items()}


def _sampled(
    model: MetaVoxel,
    asked: Collection[str],
    z0: State,
    n: int,
    settings: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None,
) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {v: [] for v in asked}
    for rows in torch.arange(n).split(BATCH):
        known = {v: x[rows] for v, x in z0.items()}
        condition = Condition(len(rows), known, device=model.device)
        z = sample(model, model.process, condition, asked, settings, generator, watch)
        check_finite(z)  # a label is drawn of anything
        for v, x in z.items():
            parts[v].extend(model.decode({v: part})[v].cpu() for part in x.split(IMAGES))
    out = {v: torch.cat(x) for v, x in parts.items()}
    check_finite(out)
    return out
