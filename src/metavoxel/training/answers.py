"""Held-out answers during training: does every scalar still learn?

Joint models are known to let the scalars collapse while the image still learns, and the loss does
not show it. So the model is asked, now and then, for every scalar given the images of the
validation records, and the answers are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from metavoxel.inference.ask import ask_encoded
from metavoxel.inference.calibration import crps, sample_variance
from metavoxel.model import MetaVoxel
from metavoxel.posterior.marginal import Marginal
from metavoxel.training.config import JointTraining
from metavoxel.training.crossfit import calibrated_loss, held_out
from metavoxel.training.examples import Examples

CALIBRATED = "scalars, calibrated"
_RECORDS = 512  # of the validation subjects, at most


class HeldOutAnswers(Callback):
    """Logs, per scalar: error of the point answer, CRPS, and sampled over squared-error variance.

    Stands before the averaging callback in the list: the averaged weights are asked.
    """

    def __init__(self, settings: JointTraining) -> None:
        self.settings = settings
        self.validations = 0

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations += 1
        if self.settings.answer_samples == 0 or self.validations % self.settings.answers_every:
            return
        module: Any = pl_module
        scores = held_out_scores(
            module.model,
            module.validation_examples[0],
            self.settings.answer_samples,
            self.settings.answer_steps,
        )
        for v, values in scores.items():
            for measure, value in values.items():
                pl_module.log(f"answers/{v}/{measure}", value)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]


class CalibratedLoss(Callback):
    """Logs how unlikely the scalars of validation subjects are at the temperature that suits them.

    A network is too sure of new subjects long before its means stop to improve, and its
    temperatures are fitted when it is trained; so they are not to decide the epoch. Stands before
    `BestWeights`, which takes it.
    """

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module: Any = pl_module
        model, examples = module.model, module.validation_examples[0]
        if model.law is None or not model.supports([*model.law.names], model.schema.images):
            return
        group = held_out(model, examples, torch.arange(len(examples))[:_RECORDS])
        if len(group.evidence.mean):
            loss = calibrated_loss(model.law, group, module.seed)
            pl_module.log(f"validation/{CALIBRATED}", loss)


def held_out_scores(
    model: MetaVoxel, examples: Examples, samples: int, steps: int, records: int | None = None
) -> dict[str, dict[str, float]]:
    """Ask for all scalars given the images of the first `records`; score what comes back: the
    posterior that one evaluation states, or of scalars that diffuse `samples` in so many `steps`.

    Nothing, if the model has no scalars, or has learnt none of them.

    Continuous: `mae` and `crps` in the variable's unit, `calibration` = variance over squared error
    of the mean, of samples corrected for their number, 1 when calibrated. Categorical: `accuracy`,
    `log_loss` (of samples that of their frequencies, one added to each label).
    """
    imaged = torch.stack([examples.observed[v] for v in model.schema.images]).any(0)
    rows = imaged.nonzero().flatten()[:records]
    asked = [v for v in model.schema.scalars if model.supports([v], model.schema.images)]
    if not len(rows) or not asked:
        return {}
    z0, observed = examples.batch(rows, torch.zeros_like(rows))
    known = {v: z0[v].to(model.device) for v in model.schema.images}
    settings = model.config.sampling.model_copy(update={"steps": steps})
    count = samples if model.law is None else 0
    drawn = ask_encoded(model, asked, known, len(rows), count, seed=0, settings=settings)
    truth = model.decode({v: z0[v] for v in asked})
    return {
        v: _stated_score(truth[v], drawn.point[v], drawn.numbers.get(v), observed[v])
        if model.law is not None
        else _score(v, model, truth[v], drawn.samples[v], drawn.point, observed[v])
        for v in asked
        if bool(observed[v].any())
    }


def _stated_score(
    truth: Tensor, point: Tensor, stated: Marginal | None, observed: Tensor
) -> dict[str, float]:
    """Of the law: means (n,) and distributions of a number, or probabilities (n, K) of labels."""
    truth, point = truth[observed], point[observed]
    if stated is not None:
        numbers = Marginal(stated.edges, stated.mass[observed.numpy()])
        squared = (point - truth).square().mean()
        return {
            "mae": float((point - truth).abs().mean()),
            "crps": float(numbers.crps(truth.numpy()).mean()),
            "calibration": float(np.square(numbers.std).mean() / squared),
        }
    chosen = point.gather(1, truth[:, None].long()).clamp_min(1e-30)
    return {
        "accuracy": float((point.argmax(1) == truth).double().mean()),
        "log_loss": float(-chosen.log().mean()),
    }


def _score(
    name: str,
    model: MetaVoxel,
    truth: Tensor,
    samples: Tensor,
    point: Mapping[str, Tensor],
    observed: Tensor,
) -> dict[str, float]:
    truth, samples = truth[observed], samples[observed]
    if name in model.scalings:
        centre = point[name][observed] if name in point else samples.mean(1)
        squared = (samples.mean(1) - truth).square().mean()
        drawn = samples.numpy()
        variance = sample_variance(drawn).mean() if samples.shape[1] > 1 else 0.0
        return {
            "mae": float((centre - truth).abs().mean()),
            "crps": float(crps(drawn, truth.numpy()).mean()),
            "calibration": float(variance / squared),
        }
    labels = len(model.labels[name].labels)
    counts = torch.nn.functional.one_hot(samples.long(), labels).sum(1).double() + 1
    probabilities = counts / counts.sum(1, keepdim=True)
    best = point[name][observed] if name in point else counts
    chosen = probabilities.gather(1, truth[:, None].long())
    return {
        "accuracy": float((best.argmax(1) == truth).double().mean()),
        "log_loss": float(-chosen.log().mean()),
    }
