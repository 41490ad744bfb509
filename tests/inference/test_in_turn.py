"""Scalars drawn one after another, against a joint distribution known in closed form."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from test_closed_form import assert_conditional, ids

from folders import AGE, SEX, schema
from metavoxel.diffusion.categorical import CategoricalProcess, Kernel
from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.joint import JointProcess, State, Times
from metavoxel.diffusion.readout import CategoricalReadOut, GaussianReadOut
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.inference.ask import ask
from metavoxel.inference.samplers import Condition, Denoiser, sample
from metavoxel.model import MetaVoxel, ModelConfig
from toy import Toy, all_subsets, make_line, make_process, make_toy, only

TOY, LINE = make_toy(), make_line(0.9, 0.3, evidence=2)
IN_TURN = SamplingConfig(steps=3)  # so few that a trajectory would be far off


def read_outs(toy: Toy, kernel: Kernel = "uniform") -> JointProcess:
    processes = {}
    for v, process in make_process(toy, kernel=kernel).processes.items():
        if isinstance(process, CategoricalProcess):
            processes[v] = CategoricalReadOut(process)
        elif len(toy.shapes[v]) == 1:
            assert isinstance(process, GaussianProcess)
            processes[v] = GaussianReadOut(process)
        else:
            processes[v] = process
    return JointProcess(processes, {**toy.shapes, **{v: (k,) for v, k in toy.labels.items()}})


def perfect(toy: Toy, shown: list[tuple[set[str], list[str]]]) -> Denoiser:
    """What a perfect training would state of a scalar; notes of what is known and asked."""

    def denoise(z: State, t: Times, asked: Collection[str]) -> State:
        known = {v: z[v][:, : toy.labels.get(v)] for v, time in t.items() if not time.any()}
        assert all((t[v] == 1000).all() for v in t if v not in known)
        shown.append((set(known), list(asked)))
        (v,) = asked
        mean, cov = toy.conditional(known, [v])
        mean, n = mean.expand(len(z[v]), -1), len(z[v])
        if v in toy.labels:
            return {v: mean.clamp(min=1e-30).log().float()}
        return {v: torch.cat([mean, cov[:, 0].expand(n, -1).log()], 1).float()}

    return denoise


def check(toy: Toy, known: Collection[str], asked: Sequence[str], kernel: Kernel = "uniform"):
    process, n, shown = read_outs(toy, kernel), 4000, []
    generator = torch.Generator().manual_seed(0)
    evidence = only(toy.draw(n, generator), [v for v in toy.names if v in known])
    drawn = sample(perfect(toy, shown), process, Condition(n, evidence), asked, IN_TURN, generator)
    assert [*drawn] == [*asked]
    order = [v for _, (v,) in shown]
    assert sorted(order) == sorted(asked)  # one evaluation for each
    assert [given for given, _ in shown] == [{*known, *order[:i]} for i in range(len(order))]
    mean, cov = toy.conditional(evidence, asked)
    flat = toy.features(evidence, known) if known else torch.zeros(n, 0).double()
    samples = toy.features(drawn, asked)
    assert_conditional(flat, samples, mean.expand(n, -1), cov.expand(n, -1, -1), tolerance=0)


@pytest.mark.parametrize("known", [("sex", "diagnosis"), ("sex", "diagnosis", "image")], ids=ids)
@pytest.mark.parametrize("asked", [("age",), ("weight", "age")], ids=ids)
def test_continuous_variables_and_their_covariance(known, asked):
    check(TOY, known, asked)


@pytest.mark.parametrize("known", all_subsets(("image", "age", "weight")), ids=ids)
@pytest.mark.parametrize("kernel", ["uniform", "absorbing"])
def test_labels_and_their_dependence(known, kernel):
    check(TOY, known, ("diagnosis", "sex"), kernel)


@pytest.mark.parametrize("known", [(), ("marker0",)], ids=ids)
def test_labels_and_narrow_continuous_variables_together(known):
    check(LINE, known, [v for v in ("age", "coin", "marker0", "marker1") if v not in known])


def test_the_order_is_one_of_chance_and_the_seeds_but_for_numbers_before_labels():
    def order(seed: int) -> list[str]:
        shown: list[tuple[set[str], list[str]]] = []
        generator = torch.Generator().manual_seed(seed)
        asked = ["age", "weight", "sex", "diagnosis"]
        sample(perfect(TOY, shown), read_outs(TOY), Condition(2), asked, IN_TURN, generator)
        return [v for _, (v,) in shown]

    assert order(0) == order(0)
    orders = {tuple(order(seed)) for seed in range(40)}
    numbers, labels = ("age", "weight"), ("sex", "diagnosis")
    assert orders == {(*a, *b) for a in permutations(numbers) for b in permutations(labels)}


@pytest.mark.parametrize(
    ("changed", "held"),
    [
        ({"scalars_in_turn": False}, False),
        ({"conditioner": "repaint", "spacing": "uniform"}, False),
        ({}, True),
    ],
    ids=["turned off", "repaint", "a part of the image is held"],
)
def test_else_they_move_together(changed, held):
    process, calls = read_outs(TOY), []

    def denoise(z: State, t: Times, asked: Collection[str]) -> State:
        calls.append({v for v in asked if v != "image"})
        return {v: F.pad(torch.zeros_like(z[v]), (0, int(z[v].shape[1:] == (1,)))) for v in asked}

    image = torch.zeros(2, 1, 2, 2)
    parts = {"image": (image, torch.tensor([[True, True], [False, False]]))} if held else {}
    settings = IN_TURN.model_copy(update=changed)
    generator = torch.Generator().manual_seed(0)
    sample(denoise, process, Condition(2, {}, parts), ["age", "sex"], settings, generator)
    assert len(calls) == IN_TURN.steps
    assert all({"age", "sex"} <= asked for asked in calls)


def test_scalars_before_an_image_are_drawn_in_turn_and_the_image_in_steps():
    process, calls = read_outs(TOY), []

    def denoise(z: State, t: Times, asked: Collection[str]) -> State:
        calls.append(list(asked))
        return {v: F.pad(torch.zeros_like(z[v]), (0, int(z[v].shape[1:] == (1,)))) for v in asked}

    generator = torch.Generator().manual_seed(0)
    drawn = sample(denoise, process, Condition(2), ["image", "age"], IN_TURN, generator)
    assert [*drawn] == ["image", "age"]
    assert sorted(v for (v,) in calls[:4]) == ["age", "diagnosis", "sex", "weight"]
    assert calls[4:] == [["image"]] * IN_TURN.steps


@pytest.mark.parametrize(("times", "evaluations"), [("corners", [1, 1]), ("shared", [2, 2, 2])])
def test_a_model_of_one_shared_time_draws_no_scalar_given_others(times, evaluations):
    settings = {
        "encoding": {"kind": "identity"},
        "denoiser": {"channels": [8, 8], "groups": 4, "head_channels": 8}
        | {"scalar_head_channels": 8},
        "diffusion": {"times": {"kind": times}},
        "sampling": {"steps": 3, "point": "samples"},
    }
    variables = schema(age=AGE, sex=SEX)
    scalings = {"age": LinearScaling(0, 100, 0.5)}
    model = MetaVoxel(variables, ModelConfig.model_validate(settings), scalings).eval()
    asked: list[int] = []
    model.register_forward_pre_hook(lambda _, given: asked.append(len(given[2])))
    ask(model, ["age", "sex"], {}, n=1, samples=2, seed=0)
    assert asked == evaluations
