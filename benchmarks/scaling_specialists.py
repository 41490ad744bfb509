"""The specialists of scaling.py, and linear models: trained on a cohort, and what they answer.

A Gaussian stands for the distribution of a number; its variance is the squared error on the
validation subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scaling_systems import Answer, Answered, Gaussian, New, Piece, Request

from metavoxel.evaluation.baselines import kernel_ridge, logistic_probabilities
from metavoxel.evaluation.cohort import Table, join
from metavoxel.evaluation.specialists.config import MultitaskConfig, SpecialistConfig
from metavoxel.evaluation.specialists.multitask import train_multitask
from metavoxel.evaluation.specialists.training import train_specialist
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.inference.query import parse_question
from metavoxel.schema import Schema

_AUGMENTATION = {"flip": 0.5, "motion": 0.5, "rotation": 3, "translation": 0.8, "intensity": 0.03}


def settings(piece: Piece) -> dict[str, Any]:
    """As of the ResNets in configs/experiments/simulated-slices.yaml, in as many steps as ours."""
    return {
        "steps": piece.steps,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "ema_decay": 0.99,
        "validate_every": 2 if piece.quick else 50,
        "augmentation": _AUGMENTATION,
    }


def asking(request: Request) -> str:
    return f"{request.asked} | {', '.join(sorted(request.known))}"


def resnet(piece: Piece, requests: Sequence[Request], new: New) -> Answered:
    """A ResNet for each question."""
    training, validation = piece.tables()
    out: dict[Request, Answer] = {}
    for r in (r for r in requests if not r.fixed):
        config = SpecialistConfig.model_validate(
            {"network": "resnet", "question": asking(r), **settings(piece)}
        )
        folder = piece.folder / f"{r.asked}-given-{'-'.join(sorted(r.known))}"
        own = train_specialist(config, piece.schema, training, validation, folder, piece.seed)
        out[r] = stated(
            r, own.answers(new.first(r.rows).table), own.answers(validation), validation
        )
    return out


def multitask(piece: Piece, requests: Sequence[Request], new: New) -> Answered:
    """One ResNet whose inputs are the image and what is known, for all scalars."""
    training, validation = piece.tables()
    config = MultitaskConfig.model_validate(settings(piece))
    own = train_multitask(config, piece.schema, training, validation, piece.folder, piece.seed)
    out: dict[Request, Answer] = {}
    for r in requests:
        question, table = parse_question(asking(r)), new.first(r.rows).table
        held_out = own.answers(question, validation)
        fixed = {v: np.full(r.rows, x) for v, x in r.fixed}
        table = replace(table, scalars=table.scalars | fixed)
        out[r] = stated(r, own.answers(question, table), held_out, validation)
    return out


def stated(
    request: Request, answers: SystemAnswers, held_out: SystemAnswers, validation: Table
) -> Answer:
    """A network's answers to new subjects, as distributions."""
    v = request.asked
    if v in answers.probabilities:
        return answers.probabilities[v]
    return Gaussian(answers.points[v], root_mean_square(held_out.points[v] - validation.scalars[v]))


def ridge(piece: Piece, requests: Sequence[Request], new: New) -> Answered:
    """Ridge and logistic regression on the voxels and the known scalars."""
    training, validation = piece.tables()
    out: dict[Request, Answer] = {}
    for r in (r for r in requests if not r.fixed):
        held_out = join(validation, new.first(r.rows).table)
        known = sorted(r.known - {"image"})
        x, x_new = linear_inputs(piece.schema, known, training, held_out)
        truth = training.scalars[r.asked]
        if r.asked not in piece.schema.categorical:
            said = kernel_ridge(x, truth, x_new)
            error = said[: len(validation)] - validation.scalars[r.asked]
            out[r] = Gaussian(said[len(validation) :], root_mean_square(error))
            continue
        classes, p = logistic_probabilities(x, truth, x_new[len(validation) :])
        # A label that training never saw is as likely as one subject in as many.
        every = np.full((len(p), len(piece.schema.categorical[r.asked].labels)), 1 / len(training))
        every[:, classes.astype(int)] = p
        out[r] = every / every.sum(1, keepdims=True)
    return out


def linear_inputs(
    schema: Schema, known: Sequence[str], training: Table, new: Table
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels, and beside them the known scalars, each with as much variance as the whole image: the
    penalty of the voxels hardly shrinks it."""
    x, x_new = (t.images["image"].reshape(len(t), -1).astype(float) for t in (training, new))
    unit = np.sqrt(x.var(0).sum())
    for v in known:
        labels = range(len(schema.categorical[v].labels)) if v in schema.categorical else None
        a, b = (
            (t.scalars[v][:, None] == np.arange(len(labels))).astype(float)
            if labels
            else t.scalars[v][:, None]
            for t in (training, new)
        )
        scale = unit / max(float(np.sqrt(a.var(0).sum())), 1e-9)
        x, x_new = np.hstack([x, a * scale]), np.hstack([x_new, b * scale])
    return x, x_new


def root_mean_square(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))
