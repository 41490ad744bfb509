"""A model's self-test: the same small question must give the same answer everywhere."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel

_STEPS, _SEED = 4, 0
_TOLERANCE = 1e-2  # in encoded units: other hardware and thread counts sum in another order


def selftest_record(model: MetaVoxel) -> dict[str, Any]:
    """What `verify` will compare: checksums of the weights and the answers to fixed questions."""
    return {"weights": _weights(model), "answers": _answers(model)}


def selftest_failures(model: MetaVoxel, record: dict[str, Any]) -> list[str]:
    """What differs from the record, a sentence each; empty when the model is as it was saved."""
    failures = [
        f"the weights of the {name} are not those that were saved"
        for name, digest in _weights(model).items()
        if record["weights"].get(name) != digest
    ]
    for v, now in _answers(model).items():
        then = record["answers"].get(v)
        if then is None or len(then) != len(now):
            failures.append(f"the answer for {v} was not saved")
            continue
        gap = max(abs(a - b) for a, b in zip(then, now, strict=True))
        if not gap <= _TOLERANCE:
            failures.append(f"the answer for {v} is off by {gap:.3g} (at most {_TOLERANCE})")
    return failures


def _weights(model: MetaVoxel) -> dict[str, str]:
    return {"autoencoder": _digest(model.autoencoders), "denoiser": _digest(model.denoiser)}


def _answers(model: MetaVoxel) -> dict[str, list[float]]:
    """Every variable drawn jointly in a few steps; then every scalar read off the drawn images.

    Of a conditional model, what it can be asked: the images.
    """
    settings = model.config.sampling.model_copy(update={"steps": _STEPS})
    learnt = [v for v in model.schema if model.supports([v])]
    drawn = ask(model, learnt, {}, 1, 1, _SEED, settings).samples
    out = {f"{v} of a whole record": _summary(model, v, x[:, 0]) for v, x in drawn.items()}
    images = {v: drawn[v][:, 0] for v in model.schema.images}
    scalars = [v for v in learnt if v in model.schema.scalars]
    if scalars:
        read = ask(model, scalars, images, 1, 2, _SEED, settings)
        for v, x in (read.point or {v: x[:, 0] for v, x in read.samples.items()}).items():
            out[f"{v} given the images"] = _summary(model, v, x)
    return out


def _summary(model: MetaVoxel, name: str, raw: Tensor) -> list[float]:
    """A few numbers that stand for a value, in encoded units, where 1 is large."""
    if name in model.scalings:
        return [round(float(model.scalings[name].encode(raw)), 5)]
    if name in model.labels:
        return [round(float(x), 5) for x in raw.flatten()]
    return [round(float(x), 5) for x in (raw.mean(), raw.std(), raw.amax())]


def _digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
