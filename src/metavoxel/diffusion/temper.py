"""How much surer a read-out is than it may be: the factor that its spread is multiplied by.

A network states how sure it is of the people it was trained on; of others it is less sure, and more
so the fewer it was trained on. Temperature scaling (Guo et al., 2017) divides logits by a number
that held-out people choose; sigma scaling (Laves et al., 2021) multiplies a variance by one. Here
the factor is a part of the model: the samplers follow it as the one evaluation does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the voice of a network that no image is shown: there it corrects what is nearly complete, and
# with a voice as loud as elsewhere it is worse than silent (docs/results.md).
_UNSEEN = 0.1
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


def voice(of: str, known: Mapping[str, Tensor], images: Collection[str]) -> Tensor:
    """How loud (B,) the network speaks of a scalar, beside what the others say in closed form.

    `known` holds the share (B,) of every variable. If nothing else is known, all is said already.
    """
    unknown = torch.stack([1 - share for v, share in known.items() if v != of]).prod(0)
    seen = torch.stack([known[v] for v in images]).mean(0)
    return (1 - unknown) * (_UNSEEN + (1 - _UNSEEN) * seen)
