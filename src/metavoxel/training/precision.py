"""Which arithmetic a machine trains in."""

from __future__ import annotations

import torch

from metavoxel.training.config import RunConfig


def resolve_precision(config: RunConfig, device: torch.device) -> RunConfig:
    """The configuration with `precision: auto` settled for this machine."""
    if config.training.precision != "auto":
        return config
    precision = "bf16" if computes_in_bf16(device) else "32"
    training = config.training.model_copy(update={"precision": precision})
    return config.model_copy(update={"training": training})


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot say
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
