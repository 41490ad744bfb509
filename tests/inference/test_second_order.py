"""Second-order steps: when they look back; their page has the numbers that its script prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.forward import Past, over_axes
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.inference.samplers import Condition, sample
from toy import make_process, make_toy, only

TOY, ROOT = make_toy(), Path(__file__).parents[2]
HALF = torch.tensor([[True, True], [False, False]])
EXACT = SamplingConfig(steps=6)
REPAINT = SamplingConfig(steps=6, conditioner="repaint", spacing="uniform")


class Watched(GaussianForward):
    """Notes of every step whether it looks back, and checks that what it sees lies behind."""

    def step(self, z0, zt, t, s, generator=None, past: Past | None = None):
        if past is not None:
            angle = self.schedule.alpha_bar(t).sqrt().acos()
            assert (past.angle > over_axes(angle, zt)).all()
        looked_back.append(past is not None)
        out = super().step(z0, zt, t, s, generator, past)
        assert out.isfinite().all()
        return out


looked_back: list[bool] = []


def steps_of(settings: SamplingConfig, asked: list[str], held: bool = False) -> list[bool]:
    """Which steps of one asked Gaussian variable looked back, from T to 0."""
    process = make_process(TOY)
    plain = process.variables[asked[0]]
    assert isinstance(plain, GaussianForward)
    watched = Watched(plain.schedule)
    process = type(process)({**process.variables, asked[0]: watched}, process.shapes)
    generator = torch.Generator().manual_seed(0)
    z0 = TOY.draw(4, generator)
    parts = {asked[0]: (z0[asked[0]], HALF)} if held else {}
    looked_back.clear()
    known = only(z0, ["sex"])
    sample(TOY.denoiser(process), process, Condition(4, known, parts), asked, settings, generator)
    return list(looked_back)


@pytest.mark.parametrize("settings", [EXACT, REPAINT], ids=["exact", "repaint"])
def test_every_step_but_the_first_looks_back(settings):
    assert steps_of(settings, ["age"]) == [False] + [True] * 5


@pytest.mark.parametrize("settings", [EXACT, REPAINT], ids=["exact", "repaint"])
def test_first_order_steps_never_look_back(settings):
    first = settings.model_copy(update={"order": 1})
    assert not any(steps_of(first, ["age"]))


@pytest.mark.parametrize("settings", [EXACT, REPAINT], ids=["exact", "repaint"])
@pytest.mark.parametrize("resamplings", [1, 3])
def test_a_field_that_is_overwritten_in_part_never_looks_back(settings, resamplings):
    settings = settings.model_copy(update={"resamplings": resamplings})
    steps = steps_of(settings, ["image"], held=True)
    assert len(steps) == 6 * resamplings
    assert not any(steps)


def test_going_forward_again_forgets_the_past():
    """Of the three repetitions of a step, only the first has come straight from the step before."""
    steps = steps_of(REPAINT.model_copy(update={"resamplings": 3}), ["age"])
    assert steps == [False] * 3 + [True, False, False] * 5


def test_a_straight_line_is_followed_exactly_and_ddim_is_its_first_step():
    """Estimates that move linearly in the angle: what is held fixed at mid-step is their mean."""
    process = make_process(TOY).variables["age"]
    assert isinstance(process, GaussianForward)
    z, t, s = torch.randn(3, 1), torch.full((3,), 600), torch.full((3,), 300)
    said = torch.randn(3, 1)
    ddim = process.step(said, z, t, s)
    now = process.past(said, z, t)
    still = Past(now.z0, now.noise, now.angle + 0.1)
    assert torch.allclose(process.step(said, z, t, s, past=still), ddim, atol=1e-6)
    a, b = now.angle, process.schedule.alpha_bar(s).sqrt().acos()[:, None]
    moving = Past(now.z0 - 0.3, now.noise + 0.2, 2 * a - b)  # the step before was as long
    expected = ddim + 0.15 * (b.cos() - a.cos()) - 0.1 * (b.sin() - a.sin())
    assert torch.allclose(process.step(said, z, t, s, past=moving), expected, atol=1e-5)


def test_the_page_on_sampling_has_the_numbers_of_its_script(capsys):
    path = ROOT / "benchmarks" / "dispersion.py"
    spec = importlib.util.spec_from_file_location("dispersion", path)
    assert spec is not None and spec.loader is not None
    dispersion = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dispersion)
    dispersion.print_spread_by_steps()
    printed = table(capsys.readouterr().out)
    page = table((ROOT / "docs" / "explanation" / "sampling.md").read_text())
    assert len(printed) == 10
    for key, ratios in printed.items():
        assert page[key] == pytest.approx(ratios, abs=0.0015)


def table(text: str) -> dict[tuple[float, float], list[float]]:
    """Rows of six numbers by their first two: order and posterior std."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0] in ("1", "2"):
            order, spread, *ratios = map(float, cells)
            rows[order, spread] = ratios
    return rows
