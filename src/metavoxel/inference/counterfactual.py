"""The same record under other values: abduction, action, prediction, with one diffusion model.

The image is run forward along its own deterministic trajectory, given its true scalars, to the
noise that explains it (abduction); that noise is run back given the changed ones (Song et al.,
2021, section 4.3; Sanchez and Tsaftaris, 2022).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.forward import Forward
from metavoxel.inference.ask import check_finite, check_learnt
from metavoxel.inference.samplers import time_grid
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
    z0, process = model.encode({name: image})[name], model.process.variables[name]
    grid = time_grid(process.schedule, settings.steps, settings.spacing)
    # At t = 0 no noise can be read off the image; t = 1 is as good as clean.
    forward = [t for t, _ in itertools.groupby(max(t, 1) for t in reversed(grid))]
    before, after = (
        _denoiser(model, name, x, generator) for x in (factual, {**factual, **changed})
    )
    noise = _along(before, process, z0, forward, settings.order)
    out = _along(after, process, noise, grid, settings.order)
    raw = model.decode({name: out})
    check_finite({**raw, f"{name}, encoded": out})
    return raw[name].cpu()


def _denoiser(
    model: MetaVoxel, name: str, values: Mapping[str, Tensor], generator: torch.Generator
) -> Callable[[Tensor, Tensor], Tensor]:
    """(z_t, t) -> E[z_0 | z_t] of the image `name`, given raw scalars (1,) and nothing else."""
    others = [v for v in model.schema.images if v != name]
    z, t = model.corner({}, 1, others, generator)
    denoise = model.given(model.encode(values), 1, generator)
    return lambda zt, time: denoise(z | {name: zt}, t | {name: time}, [name])[name]


def _along(
    denoise: Callable[[Tensor, Tensor], Tensor],
    process: Forward,
    z: Tensor,
    grid: list[int],
    order: int,
) -> Tensor:
    """Follow the trajectory of one image (1, ...) over `grid`, forward or back in time."""
    past = None
    for now, then in itertools.pairwise(grid):
        at, to = (torch.full((1,), x, device=z.device) for x in (now, then))
        z0 = denoise(z, at)
        moved = process.step(z0, z, at, to, None, past)
        past = process.past(z0, z, at) if order == 2 else None
        z = moved
    return z
