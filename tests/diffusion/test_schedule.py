"""Schedules: alpha_bar is the product of 1 - beta, and zero terminal SNR leaves nothing at T."""

import math

import pytest
import torch

from metavoxel.diffusion.schedule import (
    Schedule,
    cosine,
    from_betas,
    linear,
    rescale_zero_terminal_snr,
    scaled_linear,
)

SCHEDULES = {
    "linear": linear(1000),
    "scaled_linear": scaled_linear(1000),
    "cosine": cosine(1000),
    "linear, zero SNR": rescale_zero_terminal_snr(linear(1000)),
    "scaled_linear, zero SNR": rescale_zero_terminal_snr(scaled_linear(1000)),
    "short": rescale_zero_terminal_snr(linear(7, 0.05, 0.6)),
}


@pytest.fixture(params=SCHEDULES, name="schedule")
def _schedule(request) -> Schedule:
    return SCHEDULES[request.param]


def test_alpha_bar_falls_from_one_and_stays_a_probability(schedule):
    table = schedule.table
    assert table[0] == 1
    assert (table.diff() < 0).all()
    assert (table >= 0).all()


def test_alpha_bar_is_the_product_of_the_steps(schedule):
    survived = 1.0
    for t in range(1, schedule.T + 1):
        survived *= 1 - schedule.beta(t)
        assert math.isclose(survived, float(schedule.table[t]), rel_tol=1e-9, abs_tol=1e-15)


def test_every_beta_is_the_variance_of_a_step(schedule):
    assert all(0 < schedule.beta(t) <= 1 for t in range(1, schedule.T + 1))


def test_betas_are_recovered():
    betas = torch.tensor([0.1, 0.2, 0.4])
    schedule = from_betas(betas)
    assert schedule.T == 3
    assert [schedule.beta(t) for t in (1, 2, 3)] == pytest.approx(betas.tolist(), rel=1e-6)


def test_linear_and_scaled_linear_have_the_published_ends():
    assert linear(1000).beta(1) == pytest.approx(1e-4)
    assert linear(1000).beta(1000) == pytest.approx(0.02)
    assert scaled_linear(1000).beta(1) == pytest.approx(0.0015)
    assert scaled_linear(1000).beta(1000) == pytest.approx(0.0205)


def test_roots_of_scaled_linear_are_equally_spaced():
    schedule = scaled_linear(100)
    roots = torch.tensor([schedule.beta(t) for t in range(1, 101)]).double().sqrt()
    assert torch.allclose(roots.diff(), roots.diff()[0].expand(99), rtol=1e-4)


def test_cosine_is_half_way_near_the_middle_and_ends_at_zero():
    schedule = cosine(1000)
    assert schedule.table[500] == pytest.approx(0.494, abs=0.001)  # (Nichol and Dhariwal, Fig. 5)
    assert schedule.zero_terminal_snr


@pytest.mark.parametrize("make", [linear, scaled_linear])
def test_zero_terminal_snr_leaves_nothing_at_the_end_and_keeps_the_first_step(make):
    before, after = make(1000), rescale_zero_terminal_snr(make(1000))
    assert not before.zero_terminal_snr
    assert after.table[-1] == 0
    assert after.zero_terminal_snr
    assert after.beta(1) == pytest.approx(before.beta(1), rel=1e-9)
    assert after.beta(1000) == 1


def test_alpha_bar_keeps_the_shape_of_t(schedule):
    t = torch.tensor([[0, 1], [2, schedule.T]])
    a = schedule.alpha_bar(t)
    assert a.shape == t.shape
    assert a.dtype == torch.float32
    assert torch.equal(a, schedule.table[t].float())


@pytest.mark.parametrize(
    "table", [[0.9, 0.5], [1.0, 0.5, 0.6], [1.0], [[1.0, 0.5]]], ids=["start", "rise", "one", "2d"]
)
def test_a_table_that_is_no_schedule_is_refused(table):
    with pytest.raises(ValueError, match="alpha_bar"):
        Schedule(torch.tensor(table, dtype=torch.float64))
