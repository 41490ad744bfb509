"""Which arithmetic a machine trains in."""

from __future__ import annotations

import torch

from metavoxel.errors import MetaVoxelError
from metavoxel.model import MetaVoxel
from metavoxel.training.config import RunConfig


def resolve_precision(config: RunConfig, model: MetaVoxel) -> RunConfig:
    """The configuration with `precision: auto` settled for this model on this machine.

    Raises MetaVoxelError if bfloat16 is asked for where it would give wrong gradients.
    """
    precision, device = config.training.precision, model.device
    sound = device.type != "cpu" or covers_kernels(config, model)
    if precision == "bf16" and not sound:
        raise MetaVoxelError(
            "training.precision: bf16 would give wrong gradients on a CPU, as the coarsest grid of "
            "the network is smaller than its convolutions. Set it to auto or 32."
        )
    if precision == "auto":
        precision = "bf16" if sound and computes_in_bf16(device) else "32"
    training = config.training.model_copy(update={"precision": precision})
    return config.model_copy(update={"training": training})


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot say
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def covers_kernels(config: RunConfig, model: MetaVoxel) -> bool:
    """Whether every grid that a convolution sees is at least as large as its kernel.

    Where one is not, oneDNN's bfloat16 kernels for AVX-512 (3.12, in PyTorch 2.13) leave most of
    the weights' gradient as they found it in memory: tests/training/test_precision.py shows it.
    """
    halvings = len(model.config.denoiser.channels) - 1
    coarsest = min(model.denoiser.layout.grid) // 2**halvings
    judge = config.training.autoencoder
    judged = min(min(image.shape) for image in model.schema.images.values())
    last = judged // 2**judge.discriminator_layers - 1  # a kernel of 4 takes one voxel away
    return coarsest >= 3 and (judge.adversarial_weight == 0 or last >= 4)
