"""The arithmetic of training: as told, or by what the machine has instructions for."""

import pytest
import torch

from metavoxel.training.config import RunConfig, TrainingConfig
from metavoxel.training.precision import resolve_precision

CPU = torch.device("cpu")


def resolved(monkeypatch: pytest.MonkeyPatch, precision: str, **able: bool) -> str:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    config = RunConfig(training=TrainingConfig(precision=precision, seed=3))  # type: ignore[arg-type]
    out = resolve_precision(config, CPU)
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
