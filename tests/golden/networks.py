"""Networks of fixed weights of both engines and of one between, and every way to ask them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from metavoxel.api import Model
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.inference.answers import CategoricalAnswer, ContinuousAnswer
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.schema import parse_schema
from metavoxel.training.seeds import generator
from random_laws import random_prior, seeded

VARIABLES: dict[str, Any] = {
    "T1w": {"kind": "image", "suffix": "T1w", "shape": [16, 16], "spacing": [8, 8]},
    "FLAIR": {"kind": "image", "suffix": "FLAIR", "shape": [16, 16], "spacing": [8, 8]},
    "age": {"kind": "continuous", "unit": "years", "range": [20, 90]},
    "mmse": {"kind": "continuous", "range": [10, 30]},
    "sex": {"kind": "categorical", "labels": ["F", "M"]},
    "diagnosis": {"kind": "categorical", "labels": ["CN", "MCI", "AD"]},
}
SMALL: dict[str, Any] = {
    "encoding": {"kind": "kl", "factor": 4, "patch": 2, "channels": [16, 16], "latent_channels": 4},
    "denoiser": {
        "channels": [16, 32],
        "groups": 8,
        "head_channels": 16,
        "scalar_head_channels": 16,
    },
    "sampling": {"steps": 4, "samples": 2},
}
DIFFUSING: dict[str, Any] = SMALL | {"diffusion": {"scalars": "diffusion", "continuous_clip": 2}}
PAPER: dict[str, Any] = SMALL | {
    "diffusion": {
        "schedule": {"zero_terminal_snr": False},
        "image_schedule": None,
        "image_prediction": "epsilon",
        "continuous_prediction": "epsilon",
        "image_preconditioning": False,
        "image_clip": 3,
        "continuous_clip": 1,
        "scalars": "diffusion",
        "times": {"kind": "shared"},
    },
    "sampling": {
        "conditioner": "repaint",
        "steps": 4,
        "samples": 2,
        "spacing": "uniform",
        "order": 1,
        "point": "samples",
    },
}
SCORES = {
    "age": NormalScores(20, 90, ((0.4, 40, 8), (0.6, 70, 6))),
    "mmse": NormalScores(10, 30, ((0.8, 29, 1), (0.2, 22, 3))),
}
SCAN = np.random.default_rng(0).random((16, 16)).astype(np.float32)
SCALARS: dict[str, Any] = {"age": 61.0, "mmse": 27.0, "sex": "F", "diagnosis": "MCI"}


def ours() -> Model:
    """Preconditioned images that follow the scalars, and the law of the scalars."""
    schema = parse_schema({"variables": VARIABLES}, "golden")
    prior = random_prior(2, (2, 3), seeded(1))
    return _filled(MetaVoxel(schema, ModelConfig.model_validate(SMALL), SCORES, prior))


def diffusing(settings: dict[str, Any] = DIFFUSING) -> Model:
    """Every variable diffuses, at its own time; images are preconditioned."""
    schema = parse_schema({"variables": VARIABLES}, "golden")
    scalings = {v: LinearScaling(s.low, s.high, 0.5) for v, s in SCORES.items()}
    return _filled(MetaVoxel(schema, ModelConfig.model_validate(settings), scalings))


def paper() -> Model:
    """Every variable diffuses, at one time for all."""
    return diffusing(PAPER)


def _filled(network: MetaVoxel) -> Model:
    """Weights and statistics that no initialisation decides, in the order they are registered."""
    with torch.no_grad():
        for i, x in enumerate(network.parameters()):
            fan = max(1, x[0].numel()) if x.ndim > 1 else 1
            x.copy_(torch.randn(x.shape, generator=generator(1, i)) / fan**0.5 * 0.7)
            if x.ndim == 1:
                x.add_(0.5)
        for encoder in network.autoencoders.values():
            _statistics(encoder)
    return Model(network.eval())


def _statistics(encoder: nn.Module) -> None:
    """Those of the latents of a training set, smooth and of about the right size."""
    for i, (name, x) in enumerate(encoder.named_buffers()):
        draw = torch.randn(x.shape, generator=generator(2, i), dtype=torch.float64).to(x)
        if name == "latent_std":
            x.copy_(0.8 + 0.1 * draw.abs())
        elif name == "given.covariance":
            x.copy_(draw @ draw.mT / len(draw))
        elif name not in ("given.labels", "given.whitening"):
            x.copy_(0.1 * draw)


Answers = dict[str, np.ndarray]


def questions(model: Model) -> dict[str, Callable[[], Answers]]:
    """Every way to ask, by name."""
    scan: dict[str, Any] = {"T1w": SCAN}
    both, told = scan | {"FLAIR": SCAN[::-1].copy()}, {v: SCALARS[v] for v in ("mmse", "sex")}
    every = "age, mmse, sex, diagnosis"
    right = np.zeros(SCAN.shape, bool)
    right[:, 8:] = True

    def ask(asked: str, given: dict[str, Any], samples: int, **how: Any) -> Callable[[], Answers]:
        return lambda: _parts(model.ask(asked, given, samples, 3, **how))

    found = {
        "scalars given an image": ask(every, scan, 5),
        "scalars given all else": ask("age, diagnosis", both | told, 5),
        "scalars given scalars": ask("age, diagnosis", told, 5),
        "whole records": ask(", ".join(VARIABLES), {}, 2),
        "images given some scalars": ask("T1w, FLAIR", told, 2),
        "an image given all else": ask("FLAIR", scan | SCALARS, 2),
        "first order": ask("T1w", SCALARS, 1, order=1, spacing="uniform"),
        "an image that stops early": ask("T1w", SCALARS, 1, image_stop=300),
        "half of an image": lambda: {
            "T1w": model.inpaint(SCAN, right, told, variable="T1w", resamplings=2).samples
        },
    }
    if model.sampling.conditioner == "exact":
        found["an image at another age"] = lambda: {
            "T1w": model.counterfactual(scan | SCALARS, {"age": 80.0}, variable="T1w").samples
        }
        found["an image at another age, now unknown"] = lambda: {
            "T1w": model.counterfactual(scan | told, {"age": 80.0}, variable="T1w").samples
        }
    return found


def _parts(answers: Mapping[str, Any]) -> Answers:
    out: Answers = {}
    for v, answer in answers.items():
        if isinstance(answer, ContinuousAnswer):
            out[v] = np.array([answer.mean, answer.std, *answer.interval()])
        if isinstance(answer, CategoricalAnswer):
            out[v] = np.array([*answer.probabilities.values()])
        out[f"{v}, samples"] = np.asarray(answer.samples)
    return out
