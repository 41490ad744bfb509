"""The arithmetic of training: as told, or by what the machine has instructions for."""

import pytest
import torch
from torch import nn

from folders import scores
from metavoxel.errors import MetaVoxelError
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.schema import parse_schema
from metavoxel.training.config import RunConfig, TrainingConfig
from metavoxel.training.precision import resolve_precision


def model(size: int, levels: int = 2) -> MetaVoxel:
    image = {"kind": "image", "suffix": "T1w", "shape": [size] * 3, "spacing": [4, 4, 4]}
    variables = {"image": image, "age": {"kind": "continuous", "range": [0, 100]}}
    denoiser = {"channels": [8] * levels, "groups": 4, "head_channels": 8}
    denoiser |= {"scalar_head_channels": 8, "token_channels": 8}
    config = ModelConfig.model_validate({"encoding": {"kind": "identity"}, "denoiser": denoiser})
    schema = parse_schema({"variables": variables}, "test")
    return MetaVoxel(schema, config, {"age": scores(0, 100)})


LARGE = model(16)


def resolved(
    monkeypatch: pytest.MonkeyPatch, precision: str, of: MetaVoxel = LARGE, /, **able: bool
) -> str:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    training = TrainingConfig.model_validate({"precision": precision, "seed": 3})
    config = RunConfig(training=training)
    out = resolve_precision(config, of)
    assert out.training.seed == 3
    return out.training.precision


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_auto_is_bf16_on_a_cpu_with_instructions_for_it(monkeypatch: pytest.MonkeyPatch, name: str):
    assert resolved(monkeypatch, "auto", avx512_f=True, **{name: True}) == "bf16"
    assert resolved(monkeypatch, "auto", avx512_f=True, **{name: False}) == "32"
    assert resolved(monkeypatch, "auto", avx512_f=True) == "32"


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_what_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch, precision: str):
    assert resolved(monkeypatch, precision, avx512_bf16=precision == "32") == precision


@pytest.mark.parametrize("small", [model(4), model(8, levels=3)], ids=["grid of 4", "3 levels"])
def test_where_a_grid_is_smaller_than_a_kernel_training_stays_in_float32(
    monkeypatch: pytest.MonkeyPatch, small: MetaVoxel
):
    assert resolved(monkeypatch, "auto", small, avx512_bf16=True) == "32"
    with pytest.raises(MetaVoxelError, match=r"precision: bf16 .* wrong gradients"):
        resolved(monkeypatch, "bf16", small, avx512_bf16=True)


def weight_gradients(size: int, kernel: int, bf16: bool) -> torch.Tensor:
    torch.manual_seed(0)
    convolution = nn.Conv3d(16, 16, kernel, padding=1)
    x = torch.randn(4, 16, size, size, size)
    fill_free_memory_with_nan()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = convolution(x)
    fill_free_memory_with_nan()
    y.float().square().sum().backward()
    assert convolution.weight.grad is not None
    return convolution.weight.grad


def fill_free_memory_with_nan() -> None:
    """So that what a kernel does not write shows."""
    [torch.full((4**k,), float("nan")) for k in range(3, 10) for _ in range(20)]


@pytest.mark.parametrize(("size", "kernel"), [(3, 3), (4, 3), (8, 3), (4, 4), (8, 4)])
def test_where_bf16_is_allowed_its_gradients_are_those_of_float32(size: int, kernel: int):
    exact, rounded = (weight_gradients(size, kernel, bf16) for bf16 in (False, True))
    assert (rounded - exact).abs().max() < 0.02 * exact.abs().max()
