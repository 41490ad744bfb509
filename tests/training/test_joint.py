"""The joint stage's batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from folders import AGE, schema
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.model import MetaVoxel, ModelConfig
from metavoxel.training.config import JointTraining
from metavoxel.training.examples import Examples
from metavoxel.training.joint import JointModule

MODEL = {
    "encoding": {"kind": "identity"},
    "denoiser": {"channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8},
}


class Watched(MetaVoxel):
    """Keeps what the loss was asked for."""

    seen: tuple[dict[str, Tensor], dict[str, Tensor]]

    def loss(self, z0: Any, observed: Any, generator: Any, times: Any = None) -> Any:
        self.seen = z0, times
        return super().loss(z0, observed, generator, times)


@pytest.mark.parametrize("generate_augmented", [False, True])
def test_only_clean_images_are_augmented_ones(generate_augmented: bool) -> None:
    """Every copy holds its own number; copies 0 and 1 are the image and its mirror image."""
    of = schema(age=AGE)
    model = Watched(of, ModelConfig.model_validate(MODEL), {"age": LinearScaling(0, 100, 0.5)})
    copies = torch.arange(8.0).view(8, 1, 1, 1, 1, 1).expand(8, 4, 1, 8, 8, 8)
    seen = torch.ones(4, dtype=torch.bool)
    examples = Examples({"image": copies}, {"age": torch.zeros(4, 1)}, {"image": seen, "age": seen})
    settings = JointTraining(batch_size=4, copies=8, generate_augmented=generate_augmented)
    module = JointModule(model, examples, examples, settings, seed=0)
    module._log = lambda *_: None  # type: ignore[method-assign]
    clean, noised = set(), set()
    for step in range(30):
        module.trainer = Trainer(step)  # type: ignore[assignment]
        module.training_step(step, 0)
        z0, times = model.seen
        for value, t in zip(z0["image"].flatten(1)[:, 0].tolist(), times["image"], strict=True):
            (noised if t > 0 else clean).add(value)
    assert len(clean) > 4
    assert (noised == {0, 1}) is not generate_augmented


class Trainer:
    """As much of Lightning's as a training step reads."""

    world_size, global_rank = 1, 0

    def __init__(self, step: int) -> None:
        self.global_step = step
