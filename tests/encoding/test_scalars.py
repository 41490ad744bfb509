"""Scalars on their way into diffusion space and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metavoxel.encoding.scalars import LinearScaling, OneHot, fit_scaling, label_indices


@given(
    low=st.floats(-1e3, 1e3),
    width=st.floats(1e-2, 1e3),
    share=st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=8),
)
def test_numbers_come_back(low: float, width: float, share: list[float]) -> None:
    """Outside the range, too: [low, high] becomes [-1, 1], and nothing is clipped."""
    scaling = LinearScaling(low, low + width)
    values = low + width * torch.tensor(share, dtype=torch.float64)
    z = scaling.encode(values)
    assert z.shape == (len(share), 1)
    assert torch.allclose(z[:, 0].double(), 2 * torch.tensor(share).double() - 1, atol=1e-4)
    assert torch.allclose(scaling.decode(z), values, atol=1e-4 * width)


def test_bounds_come_from_the_schema_or_else_from_the_values() -> None:
    values = torch.tensor([20.0, 40.0, 60.0])
    given, fitted = fit_scaling(values, (0, 100)), fit_scaling(values, None)
    assert (given.low, given.high) == (0, 100)
    assert (fitted.low, fitted.high) == (20, 60)
    assert given.std == pytest.approx(0.4)  # 20 years of 50 to a unit
    assert fitted.std == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[50.0], [50.0, 50.0]])
def test_a_constant_variable_still_has_a_scale(values: list[float]) -> None:
    scaling = fit_scaling(torch.tensor(values), None)
    assert scaling.scale > 0 and scaling.std > 0
    assert torch.equal(
        scaling.decode(scaling.encode(torch.tensor([50.0]))), torch.tensor([50.0]).double()
    )


@pytest.mark.parametrize("k", [2, 3, 200])
def test_labels_come_back(k: int) -> None:
    labels = tuple(f"label {i}" for i in range(k))
    indices = label_indices(labels, list(reversed(labels)))
    z = OneHot(labels).encode(indices)
    assert z.shape == (k, k) and torch.equal(z.sum(1), torch.ones(k))
    assert [labels[i] for i in OneHot(labels).decode(z)] == list(reversed(labels))
