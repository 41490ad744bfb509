"""Membership inference: can someone who holds a record tell that it trained the model?

The attack is the plain one on a loss (Yeom et al., 2018; Carlini et al., 2023): whom the model
serves better is taken for a training subject. Its AUC over training and held-out subjects is 0.5 if
nothing leaks. Whoever knows more of the model than this attack may find more; it is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation import classification
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.scores import Bootstrap, Score
from metavoxel.inference.ask import BATCH, IMAGES, ask
from metavoxel.model import MetaVoxel

Progress = Callable[[int, int], None]  # (done, total)

# Early and middle times, where the loss is that of the subject's own anatomy: at the end of the
# process all are alike, at its start the noise is all that is asked (Carlini et al., 2023, Fig. 8).
_TIMES = (0.1, 0.2, 0.4, 0.7)  # as shares of T
_DRAWS = 2  # of the noise at each


def membership(
    training: np.ndarray, held_out: np.ndarray, people: tuple[str, ...] | None = None
) -> Score:
    """The AUC of losses (n,) and (m,): the chance that a training record has the smaller one.

    `people` names whose the n + m records are; by default everyone has one. NaN where there is
    nobody on one side; a record whose loss is NaN is left out.
    """
    losses = np.concatenate([training, held_out])
    trained = np.repeat([1, 0], [len(training), len(held_out)])
    known = ~np.isnan(losses)
    names = np.array(people if people is not None else [str(i) for i in range(len(losses))])
    if not known.any():
        return Score(np.nan, np.nan, np.nan, 0)
    scores = np.stack([losses, -losses], axis=1)[known]
    return Bootstrap(list(names[known])).score(classification.auroc(trained[known], scores))


@torch.inference_mode()
def image_losses(
    model: MetaVoxel, image: str, images: np.ndarray, seed: int, progress: Progress | None = None
) -> np.ndarray:
    """The image's term of Eq. 5 for raw images (n, C, *grid), at a few times and noises, (n, k).

    All other variables are marginalised (t = T). Everybody meets the same noises, so that two
    subjects differ by their images alone.
    """
    generator = torch.Generator().manual_seed(seed)
    noises = [model.process.noise(1, generator) for _ in range(_DRAWS)]
    z0 = encoded(model, image, images)
    out = []
    for done, rows in enumerate(torch.arange(len(z0)).split(BATCH)):
        columns = [
            _loss(model, image, z0[rows], round(share * model.process.T), noise)
            for share in _TIMES
            for noise in noises
        ]
        out.append(torch.stack(columns, 1))
        if progress is not None:
            progress(min((done + 1) * BATCH, len(z0)), len(z0))
    return torch.cat(out).numpy().astype(np.float64)


def image_membership(
    model: MetaVoxel,
    image: str,
    training: np.ndarray,
    held_out: np.ndarray,
    seed: int,
    progress: Progress | None = None,
) -> Score:
    """The attack on the denoiser's loss of the images (n, C, *grid) and (m, C, *grid).

    A subject's loss is the mean over times and noises, each in units of its spread over subjects:
    otherwise the times at which subjects differ most would decide alone.
    """
    everyone = np.concatenate([training, held_out])
    losses = image_losses(model, image, everyone, seed, progress)
    each = (losses / losses.std(0).clip(min=1e-12)).mean(1)
    return membership(each[: len(training)], each[len(training) :])


def reconstruction_membership(
    model: MetaVoxel, image: str, training: np.ndarray, held_out: np.ndarray
) -> Score:
    """The attack on the autoencoder: the squared error of what is left of an image."""
    errors = [
        np.square(reconstructed(model, image, x) - x).reshape(len(x), -1).mean(1)
        for x in (training, held_out)
    ]
    return membership(*errors)


def answer_membership(
    model: MetaVoxel, training: Table, held_out: Table, seed: int
) -> dict[str, Score]:
    """The attack on the one-evaluation answers given the images, by scalar.

    The loss is the squared error of a continuous variable and -log p(truth) of a categorical one.
    Raises MetaVoxelError for a model that answers by samples alone.
    """
    losses = [answer_losses(model, table, seed) for table in (training, held_out)]
    people = training.subjects + held_out.subjects
    return {v: membership(x, losses[1][v], people or None) for v, x in losses[0].items()}


def answer_losses(model: MetaVoxel, table: Table, seed: int) -> dict[str, np.ndarray]:
    """The losses (n,) of the answers about a table's records, by scalar; NaN where n/a."""
    images = {v: torch.from_numpy(x) for v, x in table.images.items()}
    answers = ask(model, list(table.scalars), images, len(table), 0, seed).point
    if not answers:
        raise MetaVoxelError(
            "This model answers by samples; the attack on answers needs sampling.point of "
            "one_evaluation."
        )
    losses = {}
    for v, truth in table.scalars.items():
        answer = answers[v].numpy().astype(np.float64)
        if v in model.schema.numbers:
            losses[v] = np.square(answer - truth)
        else:
            known = ~np.isnan(truth)
            losses[v] = np.full(len(truth), np.nan)
            chosen = answer[known, truth[known].astype(int)]
            losses[v][known] = -np.log(chosen.clip(min=1e-30))
    return losses


@torch.inference_mode()
def encoded(model: MetaVoxel, image: str, images: np.ndarray) -> Tensor:
    """z_0 of raw images (n, C, *grid), on the CPU."""
    parts = torch.from_numpy(images).float().split(IMAGES)
    return torch.cat([model.encode({image: x})[image].cpu() for x in parts])


@torch.inference_mode()
def reconstructed(model: MetaVoxel, image: str, images: np.ndarray) -> np.ndarray:
    """Raw images (n, C, *grid) as the autoencoder gives them back."""
    parts = encoded(model, image, images).split(IMAGES)
    decoded = [model.decode({image: z.to(model.device)})[image].cpu() for z in parts]
    return torch.cat(decoded).numpy()


def _loss(model: MetaVoxel, image: str, z0: Tensor, time: int, noise: dict[str, Tensor]) -> Tensor:
    """The image's loss (B,) at one time, all else at T; the noise is that of one record."""
    process, n, device = model.process, len(z0), model.device
    noise = {v: x.expand(n, *x.shape[1:]).to(device) for v, x in noise.items()}
    t = {v: torch.full((n,), time if v == image else process.T, device=device) for v in process}
    z = {v: process.variables[v].prior(x) for v, x in noise.items()}
    z0 = z0.to(device)
    z[image] = process.variables[image].noised(z0, t[image], noise[image])
    scalars, unknown = model.corner({}, n, [*model.schema.scalars], None)
    noisy, predictions = model.predicted(scalars | z, unknown | t, [image])
    return noisy[image].loss(predictions[image], z0, noise[image]).cpu()
