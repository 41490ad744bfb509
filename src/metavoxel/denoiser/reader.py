"""Scalars from known images at full resolution, as networks trained for one question read them.

A latent keeps the information on a scalar, but in a form that takes more subjects to learn from
than pixels do: docs/explanation/engines.md; what this brings: docs/results/slices.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from metavoxel.denoiser.config import ReaderConfig

_GROUPS = 8


class Reader(nn.Module):
    """A ResNet on images; its features and the rest of the record, joined as in BRAID.

    Its answers are 0 before training. `scalars` maps a scalar to the width of its input,
    `heads` what is read off to the widths of its output; `embedding` is the width of the embedding
    of the times.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        scalars: Mapping[str, int],
        heads: Mapping[str, tuple[int, int]],
        embedding: int,
        config: ReaderConfig,
    ) -> None:
        super().__init__()
        widths = [config.width * 2**stage for stage in range(4)]
        self.network = ResNet(
            "basic",
            [1, 1, 1, 1],
            widths,
            spatial_dims=dims,
            n_input_channels=channels,
            conv1_t_stride=2,
            feed_forward=False,
            norm=("group", {"num_groups": _GROUPS}),  # of records at many times, no batch has one
        )
        states = sum(scalars.values())
        self.dropout = nn.Dropout(config.dropout)
        self.of_image = nn.Linear(widths[-1], config.features)
        self.of_scalars = nn.Linear(states, config.features, bias=False)
        self.of_times = nn.Linear(embedding, config.features, bias=False)
        self.outputs = nn.ModuleDict()
        for v, widths in heads.items():
            self.outputs[v] = output = nn.Linear(config.features, sum(widths))
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)

    def forward(
        self, images: Tensor, scalars: Tensor, emb: Tensor, asked: Collection[str]
    ) -> dict[str, Tensor]:
        """Images (B, C, *grid) in [0, 1], scalars as shown (B, states), times (B, embedding) -> a
        term (B, k) of each scalar that is asked."""
        # Its coarsest grids are smaller than its kernels, where bfloat16 is not to be trusted.
        with torch.autocast(images.device.type, enabled=False):
            features = self.dropout(self.network(images.float()))
            hidden = self.of_image(features) + self.of_scalars(scalars.float())
            hidden = self.dropout(F.relu(hidden + self.of_times(F.silu(emb.float()))))
            return {v: self.outputs[v](hidden) for v in self.outputs if v in asked}
