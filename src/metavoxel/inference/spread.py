"""The spread that a one-evaluation answer states itself, where its process reads one out."""

from __future__ import annotations

from collections.abc import Collection

import torch

from metavoxel.diffusion.joint import State, Times
from metavoxel.diffusion.readout import GaussianReadOut
from metavoxel.inference.ask import BATCH
from metavoxel.inference.samplers import Condition, one_evaluation
from metavoxel.model import MetaVoxel


@torch.inference_mode()
def stated_spread(
    model: MetaVoxel, asked: Collection[str], z0: State, n: int, seed: int
) -> dict[str, torch.Tensor]:
    """Standard deviations (n,) of p(variable | known), in the variable's unit, by variable.

    `z0[name]` (n, ...) are the known variables, encoded. Variables whose process reads out no
    variance are not among the answers.
    """
    stating = {
        v: process
        for v in asked
        if isinstance(process := model.process.processes[v], GaussianReadOut)
    }
    if not stating:
        return {}
    seen: dict[str, list[torch.Tensor]] = {v: [] for v in stating}

    def denoise(z: State, t: Times, names: Collection[str]) -> State:
        predictions = model(z, t, names)
        for v, process in stating.items():
            seen[v].append(process.spread(predictions[v])[:, 0].double().cpu())
        return predictions

    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(n).split(BATCH):
        known = {v: x[rows] for v, x in z0.items()}
        condition = Condition(len(rows), known, device=model.device)
        one_evaluation(denoise, model.process, condition, [*stating], generator)
    return {v: torch.cat(parts) * model.scalings[v].scale for v, parts in seen.items()}
