"""The heads that read one scalar off the bottleneck features (section 3.2)."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn


def _block(dims: int, groups: int, channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(groups, channels),
        nn.SiLU(),
        Conv[Conv.CONV, dims](channels, out, 3, padding=1),
    )


class ScalarHead(nn.Module):
    """Two (GroupNorm, SiLU, Conv) blocks with a skip connection, then global average pooling."""

    def __init__(self, dims: int, channels: int, hidden: int, out: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _block(dims, groups, channels, hidden), _block(dims, groups, hidden, out)
        )
        # A 1x1 convolution commutes with the pooling; after it, it is this and costs nothing.
        self.skip = nn.Linear(channels, out)

    @torch.no_grad()
    def start_uninformed(self, outputs: int) -> None:
        """Let the first outputs be 0, until they are trained."""
        *_, last = self.blocks[-1].children()
        for weights in (*last.parameters(), *self.skip.parameters()):
            weights[:outputs] = 0

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, ...) -> (B, out)."""
        return self.blocks(features).flatten(2).mean(-1) + self.skip(features.flatten(2).mean(-1))
