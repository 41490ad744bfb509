"""How much surer a read-out is than it may be: the factor that its spread is multiplied by.

A network states how sure it is of the people it was trained on; of others it is less sure, and more
so the fewer it was trained on. Temperature scaling (Guo et al., 2017) divides logits by a number
that held-out people choose; sigma scaling (Laves et al., 2021) multiplies a variance by one. Here
the factor is a part of the model: the samplers follow it as the one evaluation does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ELEMENTS = 100  # factors fitted at ten times of IXI's images follow it: explanation/calibration.md


@dataclass(frozen=True)
class Temper:
    """Factors on a read-out's variance, or the temperatures of its logits, by what is known.

    A network that is shown an image can take it for one it has seen; one that is shown a few
    numbers cannot. So there is a factor for each, and 1 changes nothing.
    """

    images_known: float = 1.0
    images_unknown: float = 1.0

    def factor(self, known: Tensor) -> Tensor:
        """The factor (B, 1) where the share `known` (B,) of the images is known.

        Its logarithm moves in proportion, so that a trajectory along which image and scalars come
        into being together goes from one factor to the other.
        """
        low, high = math.log(self.images_unknown), math.log(self.images_known)
        return torch.exp(low + (high - low) * known)[:, None]


def known_share(alpha_bar: Tensor) -> Tensor:
    """How much of what an image says of a scalar it still says at alpha_bar (B,), 0 to 1.

    If a scalar shows alike in n elements, each of variance 1, their mean is known up to noise of
    (1 - a) / (n a): an image tells a scalar long before its elements can be told from noise.
    """
    seen = _ELEMENTS * alpha_bar
    return seen / (seen + 1 - alpha_bar)
