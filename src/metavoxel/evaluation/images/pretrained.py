"""Features of trained networks, where their weights can be had: ImageNet and RadImageNet."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metavoxel.errors import MetaVoxelError

_BATCH = 32
_SMALLEST = 128  # pixels; smaller slices leave the networks' last maps too few
_REPOSITORY = "Warvito/radimagenet-models"  # as in MONAI's evaluation of MAISI
_TRUSTED: Any = True  # the stub knows only text


@dataclass(frozen=True, eq=False)
class Network:
    """A network's last maps, averaged over the slice."""

    name: str
    version: str
    maps: Callable[[Tensor], Tensor]
    normalised: Callable[[Tensor], Tensor]

    def __call__(self, slices: Tensor) -> np.ndarray:
        """Features (n, d) float64 of slices (n, 1, H, W) in [0, 1]."""
        with torch.no_grad():
            parts = [self._described(part) for part in slices.float().split(_BATCH)]
        return torch.cat(parts).double().numpy()

    def _described(self, x: Tensor) -> Tensor:
        scale = _SMALLEST / min(x.shape[2:])
        if scale > 1:
            x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        maps = self.maps(self.normalised(x.expand(-1, 3, -1, -1)))
        return maps.flatten(2).mean(2)


def imagenet() -> Network:
    """SqueezeNet 1.1 of torchvision, trained on ImageNet. Raises MetaVoxelError without weights."""
    try:
        models: Any = importlib.import_module("torchvision.models")
    except ImportError:
        raise MetaVoxelError(
            "The extractor imagenet needs torchvision, which is not installed. Run: pip install "
            "torchvision; or use the extractor gist."
        ) from None
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    try:
        network = models.squeezenet1_1(weights=weights)
    except (OSError, RuntimeError) as error:
        raise _no_weights("imagenet", error) from None
    return Network("imagenet", f"torchvision {weights}", network.features.eval(), _as_imagenet)


def radimagenet() -> Network:
    """ResNet-50 trained on RadImageNet. Raises MetaVoxelError without weights."""
    try:
        network: Any = torch.hub.load(
            _REPOSITORY, "radimagenet_resnet50", trust_repo=_TRUSTED, verbose=False
        )
    except (ImportError, OSError, RuntimeError) as error:
        raise _no_weights("radimagenet", error) from None
    return Network("radimagenet", f"{_REPOSITORY} resnet50", network.eval(), _as_radimagenet)


def _no_weights(name: str, error: Exception) -> MetaVoxelError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return MetaVoxelError(
        f"The weights of the extractor {name} cannot be had ({reason}). Connect to the network "
        "once, so that they are kept, or use the extractor gist."
    )


def _as_imagenet(x: Tensor) -> Tensor:
    mean, std = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


def _as_radimagenet(x: Tensor) -> Tensor:
    """As MAISI's evaluation does: each slice to [0, 1], BGR, less the mean."""
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    scaled = (x - low) / (high - low).clamp(min=1e-10)
    return scaled.flip(1) - x.new_tensor([0.406, 0.456, 0.485])[:, None, None]
