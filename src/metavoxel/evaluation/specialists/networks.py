"""The networks, MONAI's own: an image (B, C, *grid) and known scalars (B, S) -> outputs (B, K)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.vit import ViT
from torch import Tensor, nn

from metavoxel.evaluation.specialists.config import NetworkTraining, ResNetSize, SpecialistConfig
from metavoxel.evaluation.specialists.encoding import ImageInputs, Inputs

_NORMS = {"batch": "batch", "group": ("group", {"num_groups": 4})}


class DenseNetSpecialist(nn.Module):
    """3D-DenseNet of Table 1: known scalars are constant channels."""

    def __init__(self, config: SpecialistConfig, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        size = config.densenet
        coarsest = min(inputs.grid) // (4 if size.stem_pooling else 2)
        room = 1 + int(math.log2(max(1, coarsest)))  # every block but the last is halved
        self.network = DenseNet(
            len(inputs.grid),
            inputs.channels + inputs.features,
            outputs,
            init_features=size.init_features,
            growth_rate=size.growth_rate,
            block_config=size.blocks[:room],
            dropout_prob=config.dropout,
            norm=_NORMS[size.norm],
        )
        if not size.stem_pooling:
            self.network.features.pool0 = nn.Identity()

    def forward(self, image: Tensor, scalars: Tensor) -> Tensor:
        return self.network(with_constant_channels(image, scalars))


class ViTSpecialist(nn.Module):
    """3D-ViT of Table 1: known scalars are constant channels."""

    def __init__(self, config: SpecialistConfig, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        size = config.vit
        missing = [-n % size.patch for n in inputs.grid]
        self.margins = [(m // 2, m - m // 2) for m in missing]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")  # MONAI's waves
            self.network = ViT(
                inputs.channels + inputs.features,
                [n + m for n, m in zip(inputs.grid, missing, strict=True)],
                size.patch,
                hidden_size=size.hidden_size,
                mlp_dim=4 * size.hidden_size,
                num_layers=size.layers,
                num_heads=size.heads,
                pos_embed_type=size.positions,
                classification=True,
                num_classes=outputs,
                dropout_rate=config.dropout,
                spatial_dims=len(inputs.grid),
                post_activation="none",  # by default MONAI squeezes the answer through a tanh
            )

    def forward(self, image: Tensor, scalars: Tensor) -> Tensor:
        x = with_constant_channels(image, scalars)
        # F.pad counts axes from the last.
        x = F.pad(x, [m for axis in reversed(self.margins) for m in axis], mode="replicate")
        return self.network(x)[0]


class ResNetSpecialist(nn.Module):
    """BRAID-T1w of Table 1: a ResNet sees the image alone; scalars join its pooled features."""

    def __init__(self, config: NetworkTraining, inputs: ImageInputs, outputs: int) -> None:
        super().__init__()
        size = config.resnet
        self.network = _resnet(size, inputs)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(size.features + inputs.features, size.joint_features),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(size.joint_features, outputs),
        )

    def forward(self, image: Tensor, scalars: Tensor) -> Tensor:
        return self.head(torch.cat([self.network(image), scalars], 1))


class MultitaskNetwork(nn.Module):
    """A ResNet sees the image alone; what the scalars say is added to its pooled features.

    The scalars have a small network of their own. Joined as in `ResNetSpecialist`, a few of them
    were outvoted by the features of the image (docs/howto/specialists.md).
    """

    def __init__(self, config: NetworkTraining, inputs: ImageInputs, outputs: int) -> None:
        super().__init__()
        size = config.resnet
        self.network = _resnet(size, inputs)
        self.image = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(size.features, size.joint_features)
        )
        self.scalars = nn.Sequential(
            nn.Linear(inputs.features, size.joint_features),
            nn.ReLU(),
            nn.Linear(size.joint_features, size.joint_features),
        )
        self.heads = nn.Sequential(
            nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(size.joint_features, outputs)
        )

    def forward(self, image: Tensor, scalars: Tensor) -> Tensor:
        return self.heads(self.image(self.network(image)) + self.scalars(scalars))


def _resnet(size: ResNetSize, inputs: ImageInputs) -> ResNet:
    """An image (B, C, *grid) -> its pooled features (B, size.features)."""
    return ResNet(
        "basic",
        list(size.layers),
        [size.width * 2**stage for stage in range(4)],
        spatial_dims=len(inputs.grid),
        n_input_channels=inputs.channels,
        conv1_t_stride=2,
        no_max_pool=not size.stem_pooling,
        feed_forward=False,
    )


NETWORKS = {"densenet": DenseNetSpecialist, "vit": ViTSpecialist, "resnet": ResNetSpecialist}


class Standardised(nn.Module):
    """A network of images that come in [0, 1], (B, C, *grid): it reads (image - mean) / scale."""

    def __init__(self, network: nn.Module, inputs: ImageInputs) -> None:
        super().__init__()
        self.network = network
        self.mean, self.scale = (
            nn.Buffer(fill(inputs.channels, *inputs.grid)) for fill in (torch.zeros, torch.ones)
        )

    def fit(self, images: Tensor, centred: bool) -> None:
        """By the training images (n, C, *grid): by their mean image, or one number a channel."""
        axes = tuple(range(2, images.dim()))
        mean = images.mean(0, keepdim=True)
        if not centred:
            mean = mean.mean(axes, keepdim=True)
        power = sum((x - mean[0]).square().mean(tuple(a - 1 for a in axes)) for x in images)
        scale = (power / len(images)).sqrt()  # type: ignore[operator]  # of no image, sum() is the number 0
        self.mean.copy_(mean[0].expand_as(self.mean))
        self.scale.copy_(torch.where(scale > 0, scale, 1.0).view(-1, *(1,) * len(axes)))

    def forward(self, image: Tensor, scalars: Tensor) -> Tensor:
        return self.network((image - self.mean) / self.scale, scalars)


def build_network(config: SpecialistConfig, inputs: Inputs, outputs: int) -> Standardised:
    """The network of a configuration, with random weights from torch's global generator."""
    return Standardised(NETWORKS[config.network](config, inputs, outputs), inputs)


def with_constant_channels(image: Tensor, scalars: Tensor) -> Tensor:
    """image (B, C, *grid) and scalars (B, S) -> (B, C + S, *grid)."""
    grid: Sequence[int] = image.shape[2:]
    flat = scalars.view(*scalars.shape, *(1,) * len(grid))
    return torch.cat([image, flat.expand(-1, -1, *grid)], 1)


def covers_kernels(network: nn.Module, inputs: ImageInputs) -> bool:
    """Whether every grid that a convolution sees is at least as large as its kernel.

    Where one is not, bfloat16 gives wrong gradients on a CPU (training/precision.py).
    """
    covered: list[bool] = []

    def look(layer: nn.Module, x: tuple[Tensor, ...], _: Tensor) -> None:
        grid, kernel = x[0].shape[2:], layer.kernel_size
        covered.append(all(n >= k for n, k in zip(grid, kernel, strict=True)))  # type: ignore[arg-type]  # layers are convolutions

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    mode = network.training
    with torch.no_grad():
        image = torch.zeros(1, inputs.channels, *inputs.grid)
        network.eval()(image, torch.zeros(1, inputs.features))
    network.train(mode)
    for hook in hooks:
        hook.remove()
    return all(covered)
