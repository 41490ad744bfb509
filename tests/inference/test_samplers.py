"""The loop of the samplers: time grids, and which times and values the network sees."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.forward import over_axes
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.joint import JointForward
from metavoxel.diffusion.schedule import cosine, linear, rescale_zero_terminal_snr, scaled_linear
from metavoxel.inference.samplers import Condition, sample, time_grid
from toy import make_process, make_toy, only

TOY = make_toy()
SCHEDULES = [cosine(1000), linear(1000), rescale_zero_terminal_snr(scaled_linear(1000)), cosine(7)]


@pytest.mark.parametrize("spacing", ["uniform", "angle"])
@pytest.mark.parametrize("steps", [1, 2, 10, 50, 1000, 5000])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["cosine", "linear", "scaled", "short"])
def test_a_grid_falls_from_the_end_to_0(schedule, steps, spacing):
    grid = time_grid(schedule, steps, spacing)
    assert grid[0] == schedule.T
    assert grid[-1] == 0
    assert all(now > then for now, then in itertools.pairwise(grid))
    assert len(grid) <= steps + 1
    if spacing == "uniform":
        assert len(grid) == min(steps, schedule.T) + 1


def test_fifty_uniform_steps_are_the_papers_twenty():
    assert time_grid(cosine(1000), 50, "uniform") == list(range(1000, -1, -20))


def test_steps_in_the_angle_turn_alike():
    schedule = cosine(1000)
    angle = schedule.table.sqrt().acos()[time_grid(schedule, 20, "angle")]
    assert torch.allclose(angle.diff(), angle.diff().mean(), atol=0.004)


def seen(settings: SamplingConfig, known: list[str], asked: list[str]) -> list[Any]:
    """(times, values, asked) at every call of the network, for one question."""
    process, calls = make_process(TOY), []
    generator = torch.Generator().manual_seed(0)
    evidence = only(TOY.draw(3, generator), known)
    denoise = TOY.denoiser(process)

    def spy(z, t, names):
        calls.append(({v: int(time[0]) for v, time in t.items()}, dict(z), set(names)))
        return denoise(z, t, names)

    out = sample(spy, process, Condition(3, evidence), asked, settings, generator)
    assert set(out) == set(asked)
    assert all(out[v].shape == (3, *process.shapes[v]) for v in asked)
    return calls


def test_exact_shows_the_known_clean_the_marginalised_at_the_end_and_moves_the_asked():
    calls = seen(SamplingConfig(steps=10), ["image", "sex"], ["age", "diagnosis"])
    evidence = TOY.draw(3, torch.Generator().manual_seed(0))
    assert len(calls) == 10
    for t, z, asked in calls:
        assert t["image"] == t["sex"] == 0
        assert t["weight"] == 1000
        assert asked == {"age", "diagnosis"}
        assert torch.equal(z["image"], evidence["image"])
        assert torch.equal(z["weight"], calls[0][1]["weight"])
    assert calls[0][0]["age"] == calls[0][0]["diagnosis"] == 1000
    ages = [t["age"] for t, _, _ in calls]
    assert ages == sorted(ages, reverse=True)
    assert ages[-1] > 0


@pytest.mark.parametrize(
    "settings",
    [
        SamplingConfig(steps=10),
        SamplingConfig(steps=10, conditioner="repaint", spacing="uniform"),
    ],
    ids=["exact", "repaint"],
)
def test_all_that_is_asked_moves_together(settings):
    calls = seen(settings, ["sex"], ["image", "age"])
    assert len(calls) == 10
    assert all({"image", "age"} <= asked for _, _, asked in calls)


def test_repaint_shows_one_time_and_the_known_noised_anew():
    settings = SamplingConfig(conditioner="repaint", steps=10, spacing="uniform")
    calls = seen(settings, ["image"], ["age"])
    assert [t["age"] for t, _, _ in calls] == list(range(1000, 0, -100))
    for t, _, asked in calls:
        assert len(set(t.values())) == 1
        assert asked == {"age", "weight", "sex", "diagnosis"}
    images = [z["image"] for _, z, _ in calls]
    assert not torch.equal(images[-1], images[-2])


def test_resampling_repeats_every_step_of_repaint_alone():
    exact = SamplingConfig(steps=10, resamplings=3)
    repaint = exact.model_copy(update={"conditioner": "repaint", "spacing": "uniform"})
    assert len(seen(exact, ["image"], ["age"])) == 10
    assert len(seen(repaint, ["image"], ["age"])) == 30


def test_variables_with_few_times_wait_and_arrive_together():
    """More steps than the schedule of one variable has distinct angles."""
    calls = seen(SamplingConfig(steps=700), [], ["age", "sex"])
    grids = [
        time_grid(make_process(TOY).variables[v].schedule, 700, "angle") for v in ("age", "sex")
    ]
    assert len(grids[0]) != len(grids[1])
    assert len(calls) == max(map(len, grids)) - 1
    assert calls[-1][0]["age"] == grids[0][-2]
    assert calls[-1][0]["sex"] == grids[1][-2]


def test_the_watcher_sees_every_step():
    process, shown = make_process(TOY), []
    sample(
        TOY.denoiser(process),
        process,
        Condition(2),
        ["age", "sex"],
        SamplingConfig(steps=5),
        torch.Generator().manual_seed(0),
        lambda t, z, clean: shown.append((int(t["age"][0]), z["age"].clone(), clean)),
    )
    assert [t for t, _, _ in shown] == time_grid(process.variables["age"].schedule, 5, "angle")[:-1]
    assert all(set(clean) == {"age", "sex"} for _, _, clean in shown)
    assert all(torch.allclose(c["sex"].sum(-1), torch.ones(2)) for _, _, c in shown)


@pytest.mark.parametrize("conditioner", ["exact", "repaint"])
def test_an_image_that_stops_early_is_its_mean_there_and_changes_no_other(conditioner):
    """For a standard normal z_0, E[z_0 | z_t] is sqrt(a) z_t, of variance a."""
    schedule, stop = rescale_zero_terminal_snr(linear(1000)), 400
    process = JointForward(
        {v: GaussianForward(schedule) for v in ("image", "age")},
        {"image": (1, 8, 8), "age": (1,)},
    )

    def denoise(z, t, asked):
        return {v: over_axes(schedule.alpha_bar(t[v]), z[v]).sqrt() * z[v] for v in asked}

    def draw(image_stop: int, **held: Any) -> dict[str, torch.Tensor]:
        settings = SamplingConfig(conditioner=conditioner, steps=100, image_stop=image_stop)
        generator = torch.Generator().manual_seed(0)
        return sample(denoise, process, Condition(200, **held), list(process), settings, generator)

    whole, stopped = draw(0), draw(stop)
    assert torch.equal(whole["age"], stopped["age"])
    last = min(t for t in time_grid(schedule, 100, "angle") if t >= stop)
    share = stopped["image"].var() / whole["image"].var()
    assert share == pytest.approx(float(schedule.table[last]), rel=0.01)

    half = torch.arange(8) < 4
    filled = draw(stop, held={"image": (torch.full((200, 1, 8, 8), 3.0), half)})["image"]
    assert torch.equal(filled[..., half], torch.full((200, 1, 8, 4), 3.0))
    assert not (filled[..., ~half] == 3).any()
