"""Random changes that leave a record's clinical variables true. Shared by both training stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metavoxel.settings import Strict


class Augmentation(Strict):
    """What is drawn for every image. Never a change of size: head size carries information."""

    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")
    flip_axis: int | None = Field(
        default=None,
        ge=0,
        le=2,
        description="axis that runs from left to right; unset: 0 in a volume, 1 in a picture",
    )
    motion: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="probability of a rotation and translation; it resamples the image",
    )
    rotation: float = Field(
        default=4.0, ge=0, le=180, description="largest rotation per axis, in degrees"
    )
    translation: float = Field(
        default=4.0, ge=0, description="largest translation per axis, in millimetres"
    )
    intensity: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="largest relative change of brightness, and of the log gamma",
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="largest standard deviation of white noise, in units of [0, 1]",
    )


NO_AUGMENTATION = Augmentation(flip=0, motion=0, rotation=0, translation=0, intensity=0, noise=0)


def augment(
    x: Tensor, spacing: Sequence[float], config: Augmentation, generator: torch.Generator
) -> Tensor:
    """x (B, C, *grid) in [0, 1], spacing in millimetres -> the same, changed at random.

    Every image has its own draw; its channels share it. The generator lives on the CPU.
    """
    n, dims = len(x), x.dim() - 2
    flipped = torch.rand(n, generator=generator) < config.flip
    moved = torch.rand(n, generator=generator) < config.motion
    angles = (2 * torch.rand(n, 3, generator=generator) - 1) * math.radians(config.rotation)
    shifts = (2 * torch.rand(n, dims, generator=generator) - 1) * config.translation
    tones = (2 * torch.rand(n, 2, generator=generator) - 1) * config.intensity
    sigmas = torch.rand(n, generator=generator) * config.noise

    axis = config.flip_axis if config.flip_axis is not None else {2: 1, 3: 0}[dims]
    x = torch.where(_broadcast(flipped, x), x.flip(2 + axis), x)
    if (config.rotation > 0 or config.translation > 0) and moved.any():
        rows = moved.nonzero()[:, 0].to(x.device)
        motion = rigid_motion(x[rows], spacing, rotations(angles[moved], dims), shifts[moved])
        x = x.index_copy(0, rows, motion)
    if config.intensity > 0:
        gamma, gain = tones.exp().unbind(1)
        x = x.clamp(0, 1).pow(_broadcast(gamma, x)) * _broadcast(gain, x)
    if config.noise > 0:
        white = torch.randn(x.shape, generator=generator).to(x)
        x = x + _broadcast(sigmas, x) * white
    return x.clamp(0, 1)


def rotations(angles: Tensor, dims: int) -> Tensor:
    """Rotation matrices (n, dims, dims) from angles (n, 3) in radians; 2D uses the first alone."""
    planes = [(0, 1)] if dims == 2 else [(0, 1), (0, 2), (1, 2)]
    total = torch.eye(dims).expand(len(angles), dims, dims)
    for k, (i, j) in enumerate(planes):
        turn = torch.eye(dims).repeat(len(angles), 1, 1)
        turn[:, i, i] = turn[:, j, j] = angles[:, k].cos()
        turn[:, i, j], turn[:, j, i] = -angles[:, k].sin(), angles[:, k].sin()
        total = total @ turn
    return total


def rigid_motion(x: Tensor, spacing: Sequence[float], rotation: Tensor, shift: Tensor) -> Tensor:
    """Resample x (n, C, *grid) so that out(p) = x(R p + shift), p in millimetres from the centre.

    rotation (n, d, d), shift (n, d) in millimetres. Outside the grid the image is 0.
    """
    dims = x.dim() - 2
    # Half the extent in millimetres between the centres of the first and the last voxel: what
    # grid_sample calls 1 with align_corners.
    half = torch.tensor(
        [max(size - 1, 1) * step / 2 for size, step in zip(x.shape[2:], spacing, strict=True)]
    )
    theta = rotation * half[None, None, :] / half[None, :, None]
    affine = torch.cat([theta, (shift / half)[:, :, None]], dim=2)
    # grid_sample orders coordinates from the last axis to the first.
    order = list(range(dims - 1, -1, -1))
    affine = affine[:, order][:, :, [*order, dims]].to(x)
    points = F.affine_grid(affine, [len(x), x.shape[1], *x.shape[2:]], align_corners=True)
    return F.grid_sample(_doubled(x), points, mode="bilinear", align_corners=True)


def _doubled(x: Tensor) -> Tensor:
    """x on a grid of 2 n - 1 points per axis, by cubic midpoints.

    Linear interpolation on this finer grid blurs far less than on the original one, where a motion
    by half a voxel would wipe out the finest detail and set augmented images apart from real ones.
    """
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        if size < 2:
            continue
        before, after = x.narrow(axis, 0, size - 1), x.narrow(axis, 1, size - 1)
        left = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, size - 2)], axis)
        right = torch.cat([x.narrow(axis, 2, size - 2), x.narrow(axis, size - 1, 1)], axis)
        middle = (9 * (before + after) - left - right) / 16
        woven = torch.stack([before, middle], axis + 1).flatten(axis, axis + 1)
        x = torch.cat([woven, x.narrow(axis, size - 1, 1)], axis)
    return x


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.device).view(-1, *(1,) * (x.dim() - 1))
