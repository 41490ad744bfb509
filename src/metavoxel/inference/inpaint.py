"""Fill in a part of an image given the rest of it, and any scalars (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.inference.ask import BATCH, IMAGES, check_finite, check_learnt, sample_given
from metavoxel.model import MetaVoxel


@torch.inference_mode()
def inpaint(
    model: MetaVoxel,
    name: str,
    image: Tensor,
    mask: Tensor,
    known: Mapping[str, Tensor],
    samples: int,
    seed: int,
    settings: SamplingConfig,
) -> Tensor:
    """Draw the voxels under the mask, given the other voxels and the known raw values (1, ...).

    image (C, *grid) in [0, 1]; mask (*grid), true where the image is to be filled. Returns
    (samples, C, *grid); outside the mask they are the image itself, to the voxel. Raises
    MetaVoxelError if one is not finite.
    """
    check_learnt(model, [name], known)
    z0 = model.encode({name: image[None]})[name]
    held = held_latents(mask, z0.shape[2:]).to(z0.device)
    scalars = model.encode(known)
    generator = torch.Generator().manual_seed(seed)
    filled = []
    for rows in torch.arange(samples).split(BATCH):
        n = len(rows)
        given = {v: x.repeat_interleave(n, 0) for v, x in scalars.items()}
        held_image = {name: (z0.expand(n, *z0.shape[1:]), held)}
        z = sample_given(model, [name], given, held_image, n, settings, generator)[name]
        filled.extend(model.decode({name: part})[name].cpu() for part in z.split(IMAGES))
    out = torch.where(mask, torch.cat(filled), image)
    check_finite({name: out})
    return out


def held_latents(mask: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Which latents (1, 1, *grid) no masked voxel has reached.

    A latent is a window onto its voxels and some around them, so the mask grows by one latent.
    """
    masked = mask.float()[None, None]
    pool = F.adaptive_max_pool3d if mask.ndim == 3 else F.adaptive_max_pool2d
    grow = F.max_pool3d if mask.ndim == 3 else F.max_pool2d
    small = pool(masked, grid)
    coarse = any(m != g for m, g in zip(mask.shape, grid, strict=True))
    return (grow(small, 3, stride=1, padding=1) if coarse else small) == 0
