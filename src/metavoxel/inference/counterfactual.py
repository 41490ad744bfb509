"""The same record under other values: abduction, action, prediction, with one diffusion model.

The image is run forward along its own deterministic trajectory, given its true scalars, to the
noise that explains it (abduction); that noise is run back given the changed ones (Song et al.,
2021, section 4.3; Sanchez and Tsaftaris, 2022).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.joint import State
from metavoxel.inference.ask import check_finite, check_learnt
from metavoxel.inference.samplers import forward_from_clean, time_grid
from metavoxel.model import MetaVoxel


@torch.inference_mode()
def counterfactual(
    model: MetaVoxel,
    name: str,
    image: Tensor,
    factual: Mapping[str, Tensor],
    changed: Mapping[str, Tensor],
    settings: SamplingConfig,
    seed: int = 0,
) -> Tensor:
    """The image (1, C, *grid) as it would be under `changed`, given that it is under `factual`.

    Both map scalars to raw values (1,); `changed` wins. What neither names is marginalised.
    Raises MetaVoxelError if the image is not finite.
    """
    check_learnt(model, [name], factual)
    check_learnt(model, [name], {**factual, **changed})
    generator = torch.Generator().manual_seed(seed)
    z = model.process.prior(1, generator)
    z = {v: x.to(model.device) for v, x in z.items()} | model.encode({name: image})
    grid = time_grid(model.process.processes[name].schedule, settings.steps, settings.spacing)
    before = _clean(model, factual, generator)
    # At t = 0 no noise can be read off the image; t = 1 is as good as clean.
    forward = [t for t, _ in itertools.groupby(max(t, 1) for t in reversed(grid))]
    noise = _along(model, name, z | before, set(before), forward, settings.order)
    after = _clean(model, {**factual, **changed}, generator)
    start = z | before | after | {name: noise}
    z0 = _along(model, name, start, set(before) | set(after), grid, settings.order)
    out = model.decode({name: z0})
    check_finite({**out, f"{name}, encoded": z0})
    return out[name].cpu()


def _clean(model: MetaVoxel, values: Mapping[str, Tensor], generator: torch.Generator) -> State:
    """Raw values (1,) as the state of their processes at t = 0."""
    z0 = model.encode(values)
    t = {v: torch.zeros(1, dtype=torch.long, device=model.device) for v in z0}
    return forward_from_clean(model.process, z0, t, generator)


def _along(
    model: MetaVoxel, name: str, z: State, known: set[str], grid: list[int], order: int
) -> Tensor:
    """Follow the trajectory of one variable over `grid`, forward or back in time."""
    process = model.process.processes[name]
    n = len(z[name])
    t = {v: torch.full((n,), 0 if v in known else model.process.T, device=model.device) for v in z}
    past = None
    for now, then in itertools.pairwise(grid):
        at = torch.full((n,), now, device=model.device)
        to = torch.full((n,), then, device=model.device)
        prediction = model(z, t | {name: at}, [name])[name]
        moved = process.step(prediction, z[name], at, to, None, 0.0, past)
        past = process.past(prediction, z[name], at) if order == 2 else None
        z = z | {name: moved}
    return z[name]
