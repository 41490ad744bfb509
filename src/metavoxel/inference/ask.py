"""Ask a model for any conditional, in raw values; batches of records, any number of samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.joint import State
from metavoxel.errors import MetaVoxelError
from metavoxel.inference.query import Question
from metavoxel.inference.samplers import Condition, Watch, one_evaluation, sample
from metavoxel.model import MetaVoxel
from metavoxel.posterior.marginal import Marginal
from metavoxel.posterior.prior import ScalarPrior

BATCH = 64  # records and samples that go through the network together
IMAGES = 8  # records that go through an autoencoder together


@dataclass(frozen=True, eq=False)
class Drawn:
    """Raw answers for n records, by variable.

    `samples[name]` (n, samples, ...): continuous in their unit, categorical as label indices,
    images in [0, 1]; they are joint, row by row. `point[name]`: (n,) expectations of continuous
    variables and (n, K) probabilities of categorical ones, from one evaluation; empty if the model
    cannot. `numbers[name]`: the posterior of continuous variables.
    """

    samples: dict[str, Tensor]
    point: dict[str, Tensor]
    numbers: dict[str, Marginal] = field(default_factory=dict)


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
    prior: ScalarPrior | None = None,
) -> Drawn:
    """Answer one question about n records whose known raw values are given (n, ...) by variable.

    `prior` replaces the joint distribution of the scalars over the cohort. The network is used as
    it is: put it in eval mode first (a loaded model is). Raises MetaVoxelError if the model's
    training teaches no such question, or if an answer is not a finite number.
    """
    parts = [
        model.encode({v: x[rows] for v, x in known.items()})
        for rows in torch.arange(n).split(IMAGES)
    ]
    z0 = {v: torch.cat([part[v] for part in parts]) for v in known}
    return ask_encoded(model, asked, z0, n, samples, seed, settings, watch, prior)


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
    prior: ScalarPrior | None = None,
) -> Drawn:
    """The same of records whose known variables are already encoded, z0[name] (n, ...)."""
    check_learnt(model, asked, z0)
    settings = settings or model.config.sampling
    generator = torch.Generator().manual_seed(seed)
    scalars = [v for v in asked if v in model.schema.scalars]
    images = [v for v in asked if v in model.schema.images]
    if model.law is not None:
        drawn, z = _by_law(model, scalars, z0, n, samples, bool(images), generator, prior)
        if samples and images:
            known = {v: x.repeat_interleave(samples, 0) for v, x in z0.items()} | z
            flat = _sampled(model, images, known, n * samples, settings, generator, watch)
            drawn.samples.update({v: x.unflatten(0, (n, samples)) for v, x in flat.items()})
        return drawn
    point: dict[str, Tensor] = {}
    if settings.point == "one_evaluation" and scalars:
        point = _point(model, scalars, z0, n, generator)
    out: dict[str, Tensor] = {}
    if samples:
        repeated = {v: x.repeat_interleave(samples, 0) for v, x in z0.items()}
        flat = _sampled(model, asked, repeated, n * samples, settings, generator, watch)
        out = {v: x.unflatten(0, (n, samples)) for v, x in flat.items()}
    return Drawn(out, point)


def _by_law(
    model: MetaVoxel,
    asked: Collection[str],
    z0: State,
    n: int,
    samples: int,
    before_images: bool,
    generator: torch.Generator,
    prior: ScalarPrior | None,
) -> tuple[Drawn, State]:
    """The asked scalars of n records, and those that images are drawn after, encoded (n * samples,
    k): p(scalars | known), then p(images | scalars, known)."""
    unknown = [v for v in model.schema.scalars if v not in z0]
    # A conditional model of the images never learnt to draw scalars before them.
    first = unknown if before_images and model.supports(unknown, _images(model, z0)) else []
    if not (asked or first):
        return Drawn({}, {}), {}
    drawn: dict[str, list[Tensor]] = {v: [] for v in unknown}
    point: dict[str, list[Tensor]] = {v: [] for v in asked}
    numbers: dict[str, list[Marginal]] = {v: [] for v in asked if v in model.scalings}
    for rows in torch.arange(n).split(BATCH):
        known = {v: x[rows] for v, x in z0.items()}
        try:
            posterior = model.posterior(known, len(rows), prior, generator)
        except torch.linalg.LinAlgError:  # of evidence that is no number
            raise _no_number(", ".join(asked or first)) from None
        for v in numbers:
            numbers[v].append(model.marginal(posterior, v))
            point[v].append(torch.from_numpy(numbers[v][-1].mean))
        for v in point.keys() - numbers.keys():
            point[v].append(posterior.probabilities(v).cpu())
        if samples:
            z = posterior.draw(samples, generator)
            for v in unknown:
                drawn[v].append(z[v].flatten(0, 1))
    stated = {v: torch.cat(parts) for v, parts in point.items()}
    check_finite(stated)
    z = {v: torch.cat(parts) for v, parts in drawn.items() if parts}
    raw = {v: model.decode({v: z[v]})[v].cpu().unflatten(0, (n, samples)) for v in asked if v in z}
    marginals = {v: Marginal.joined(parts) for v, parts in numbers.items()}
    return Drawn(raw, stated, marginals), {v: z[v] for v in first}


def _images(model: MetaVoxel, names: Collection[str]) -> list[str]:
    return [v for v in names if v in model.schema.images]


def check_learnt(model: MetaVoxel, asked: Collection[str], known: Collection[str]) -> None:
    """Refuse a question that a conditional model was never trained for. Raises MetaVoxelError."""
    if model.supports(asked, known):
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
            raise _no_number(v)


def _no_number(name: str) -> MetaVoxelError:
    return MetaVoxelError(
        f"The model's answer for {name} is not a finite number: its training diverged, or its "
        "weights are damaged. Copy it again and run metavoxel verify, or train it again with a "
        "lower learning rate."
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
    """Samples of what diffuses, raw, given the known, encoded."""
    parts: dict[str, list[Tensor]] = {v: [] for v in asked}
    for rows in torch.arange(n).split(BATCH):
        known = {v: x[rows] for v, x in z0.items()}
        z = sample_given(model, asked, known, {}, len(rows), settings, generator, watch)
        check_finite(z)  # a label is drawn of anything
        for v, x in z.items():
            parts[v].extend(model.decode({v: part})[v].cpu() for part in x.split(IMAGES))
    out = {v: torch.cat(x) for v, x in parts.items()}
    check_finite(out)
    return out


def sample_given(
    model: MetaVoxel,
    asked: Collection[str],
    known: State,
    held: Mapping[str, tuple[Tensor, Tensor]],
    n: int,
    settings: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None = None,
) -> State:
    """Draw what diffuses, encoded, given what is known, and parts of images that are `held`, as of
    `Condition`. Scalars that do not diffuse are conditions of the network."""
    conditions = {v: x for v, x in known.items() if v not in model.process}
    others = {v: x for v, x in known.items() if v in model.process}
    denoise = model.given(conditions, n) if model.law is not None else model
    condition = Condition(n, others, held, model.device)
    return sample(denoise, model.process, condition, asked, settings, generator, watch)
