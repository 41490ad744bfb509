"""What a one-evaluation answer states of its own spread, where its process reads one out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from metavoxel.diffusion.joint import State, Times
from metavoxel.diffusion.mixture import MixtureReadOut
from metavoxel.diffusion.readout import GaussianReadOut
from metavoxel.inference.ask import BATCH, check_finite
from metavoxel.inference.samplers import Condition, one_evaluation
from metavoxel.model import MetaVoxel


def stated_spread(
    model: MetaVoxel, asked: Collection[str], z0: State, n: int, seed: int
) -> dict[str, Tensor]:
    """Standard deviations (n,) of p(variable | known), in the variable's unit, by variable.

    `z0[name]` (n, ...) are the known variables, encoded. Variables whose process reads out no
    variance are not among the answers.
    """
    stating = {
        v: process.spread
        for v in asked
        if isinstance(process := model.process.processes[v], GaussianReadOut)
    }
    stated = _stated(model, stating, z0, n, seed)
    return {v: x[:, 0] * model.scalings[v].scale for v, x in stated.items()}


def stated_quantiles(
    model: MetaVoxel, asked: Collection[str], z0: State, n: int, levels: Tensor, seed: int
) -> dict[str, Tensor]:
    """Quantiles (n, m) at levels (m,) of p(variable | known), in the variable's unit: of variables
    whose prior is a mixture. Those of the others follow from mean and spread."""
    stating: dict[str, Callable[[Tensor], Tensor]] = {
        v: lambda prediction, process=process: process.quantiles(prediction, levels)
        for v in asked
        if isinstance(process := model.process.processes[v], MixtureReadOut)
    }
    stated = _stated(model, stating, z0, n, seed)
    return {v: model.decode({v: x.reshape(-1, 1)})[v].view(x.shape) for v, x in stated.items()}


@torch.inference_mode()
def _stated(
    model: MetaVoxel,
    stating: Mapping[str, Callable[[Tensor], Tensor]],
    z0: State,
    n: int,
    seed: int,
) -> dict[str, Tensor]:
    """What each variable's process makes of its prediction, (n, k) float64."""
    if not stating:
        return {}
    seen: dict[str, list[Tensor]] = {v: [] for v in stating}

    def denoise(z: State, t: Times, names: Collection[str]) -> State:
        predictions = model(z, t, names)
        for v, of in stating.items():
            seen[v].append(of(predictions[v]).double().cpu())
        return predictions

    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(n).split(BATCH):
        known = {v: x[rows] for v, x in z0.items()}
        condition = Condition(len(rows), known, device=model.device)
        one_evaluation(denoise, model.process, condition, [*stating], generator)
    stated = {v: torch.cat(parts) for v, parts in seen.items()}
    check_finite(stated)
    return stated
