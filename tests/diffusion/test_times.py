"""Training times: the paper's single time, and the mass that CornerTimes puts on questions."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.times import (
    ConditionalTimes,
    CornerTimes,
    IndependentTimes,
    SharedTimes,
    TimeSampler,
    uniform_times,
)

T = 1000
SCALARS = ("age", "sex", "weight", "diagnosis")
SAMPLERS: list[TimeSampler] = [
    SharedTimes(),
    IndependentTimes(),
    CornerTimes(),
    ConditionalTimes(),
]


def many(
    sampler: TimeSampler, images=("image",), scalars=SCALARS, batches: int = 400, n: int = 64
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [sampler(n, images, scalars, T, generator) for _ in range(batches)]
    return {v: torch.cat([d[v] for d in drawn]) for v in (*images, *scalars)}


def share(condition: Tensor) -> float:
    return float(condition.double().mean())


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_times_are_whole_numbers_in_range(sampler):
    for t in many(sampler, batches=20).values():
        assert t.dtype == torch.long
        assert t.shape == (20 * 64,)
        assert t.min() >= 0
        assert t.max() <= T


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_the_same_seed_draws_the_same_times(sampler):
    one, two = (sampler(9, ["image"], SCALARS, T, torch.Generator().manual_seed(4)) for _ in "ab")
    assert all(torch.equal(one[v], two[v]) for v in one)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_uniform_times_are_stratified(n):
    """One time in each of n equal parts of 1 ... T, up to the common offset."""
    generator = torch.Generator().manual_seed(1)
    t = uniform_times(n, T, generator)
    gaps = t.sort().values.diff()
    assert ((gaps - T / n).abs() <= 1).all()
    assert t.min() >= 1


def test_uniform_times_are_uniform():
    generator = torch.Generator().manual_seed(1)
    t = torch.cat([uniform_times(5, 10, generator) for _ in range(4000)])
    counts = torch.bincount(t, minlength=11)[1:].double() / len(t)
    assert torch.allclose(counts, torch.full((10,), 0.1).double(), atol=0.01)


def test_shared_times_are_one_time_per_record():
    t = many(SharedTimes())
    assert all(torch.equal(t["image"], t[v]) for v in SCALARS)


def test_independent_times_hardly_ever_ask_a_question():
    """PAPER.md, 6: why CornerTimes exists."""
    t = many(IndependentTimes())
    assert abs(float(torch.corrcoef(torch.stack([t["age"], t["sex"]]).double())[0, 1])) < 0.03
    assert share((t["image"] <= 10) & (t["age"] >= 990)) < 0.001


def test_half_the_batches_know_the_image_as_a_whole():
    generator = torch.Generator().manual_seed(0)
    known = torch.tensor(
        [
            (CornerTimes()(16, ["image"], SCALARS, T, generator)["image"] == 0).float().mean()
            for _ in range(1000)
        ]
    )
    assert set(known.tolist()) == {0.0, 1.0}  # by batch, so that the decoder can be left out
    assert share(known == 1) == pytest.approx(0.5, abs=0.06)


QUESTIONS: dict[str, tuple[Callable[[dict[str, Tensor]], Tensor], float]] = {
    "all | image": (lambda t: (t["image"] == 0) & at(t, SCALARS, T), 0.05),
    "age | image, all others": (
        lambda t: (t["image"] == 0) & (t["age"] == T) & at(t, SCALARS[1:], 0),
        0.01,
    ),
    "age | all other scalars": (
        lambda t: (t["image"] == T) & (t["age"] == T) & at(t, SCALARS[1:], 0),
        0.003,
    ),
    "image | all scalars": (lambda t: between(t["image"]) & at(t, SCALARS, 0), 0.04),
    "image | nothing": (lambda t: between(t["image"]) & at(t, SCALARS, T), 0.03),
    "nothing": (lambda t: (t["image"] == T) & at(t, SCALARS, T), 0.005),
    "everything, at one time": (
        lambda t: between(t["image"]) & torch.stack([t[v] == t["image"] for v in SCALARS]).all(0),
        0.005,
    ),
}


def at(t: dict[str, Tensor], names: tuple[str, ...], time: int) -> Tensor:
    return torch.stack([t[v] == time for v in names]).all(0)


def between(t: Tensor) -> Tensor:
    return (t > 0) & (t < T)


@pytest.mark.parametrize("question", QUESTIONS)
def test_corners_have_mass(question):
    holds, least = QUESTIONS[question]
    assert share(holds(many(CornerTimes()))) > least


@pytest.mark.parametrize("known", range(2 ** len(SCALARS)))
def test_every_subset_of_scalars_is_known_with_the_image_and_the_rest_at_the_corner(known):
    t = many(CornerTimes())
    given = [v for i, v in enumerate(SCALARS) if known >> i & 1]
    rest = [v for v in SCALARS if v not in given]
    seen = (t["image"] == 0) & at(t, tuple(given), 0) if given else t["image"] == 0
    seen = seen & at(t, tuple(rest), T) if rest else seen
    assert share(seen) > 0.003  # of records; independent uniform times: 1e-15


@pytest.mark.parametrize("count", [4, 50])
def test_the_number_of_known_scalars_is_spread(count):
    """Every tenth of 0 ... count has its share, the two ends the largest ones."""
    names = tuple(f"v{i}" for i in range(count))
    t = many(CornerTimes(), scalars=names, batches=100)
    known = torch.stack([t[v] == 0 for v in names]).sum(0)
    if count == 4:
        assert all(share(known == k) > 0.1 for k in range(5))
    else:
        shares = [share((known >= 5 * i) & (known < 5 * i + 5 + (i == 9))) for i in range(10)]
        assert min(shares) > 0.04
        assert max(shares) == pytest.approx(max(shares[0], shares[-1]))
        assert share(known == 0) > 0.02
        assert share(known == count) > 0.02


def test_a_scalar_also_moves_between_the_corners():
    """Sampling passes through every time: 1 ... T - 1 must be seen, evenly."""
    t = many(CornerTimes())["age"]
    inside = t[between(t)]
    assert share(between(t)) > 0.1
    counts = torch.histc(inside.double(), 10, 1, T - 1) / len(inside)
    assert counts.min() > 0.08
    assert counts.max() < 0.12


def test_of_several_images_some_are_known_and_others_asked():
    """Arcsine law: the share k that is known has E[k (1 - k)] = 1/8, E[(1 - k)^2] = 3/8."""
    t = many(CornerTimes(absent_images=0.2), images=("T1w", "FLAIR"))
    for known, asked in itertools.permutations(("T1w", "FLAIR")):
        assert share((t[known] == 0) & between(t[asked])) == about(0.5 / 8 * 0.8)
        assert share((t[known] == T) & between(t[asked])) == about(0.5 * 3 / 8 * 0.2 * 0.8)
    assert share((t["T1w"] == 0) & (t["FLAIR"] == 0)) == about(0.5 + 0.5 * 3 / 8)
    assert share(between(t["T1w"]) & (t["T1w"] == t["FLAIR"])) == about(0.5 * 3 / 8 * 0.8**2)


def about(expected: float):
    """Up to the coin of 400 batches, whose standard error is 5 % of 1 / 2."""
    return pytest.approx(expected, rel=0.15)


def test_a_schema_of_one_image_alone_always_asks_for_it():
    t = many(CornerTimes(), scalars=())
    assert t["image"].min() > 0


def test_a_schema_without_images_has_times():
    t = many(CornerTimes(), images=())
    assert set(t) == set(SCALARS)
    assert share(at(t, SCALARS, T)) > 0.05


def test_no_known_images_and_no_absent_ones_if_told_so():
    t = many(CornerTimes(known_images=0, absent_images=0, corner=0))
    assert t["image"].min() > 0
    assert share(t["image"] == T) < 0.005


def test_conditions_are_all_known_or_all_dropped():
    t = many(ConditionalTimes(dropped=0.2), images=("T1w", "FLAIR"))
    known, dropped = at(t, SCALARS, 0), at(t, SCALARS, T)
    assert (known | dropped).all()
    assert share(dropped) == pytest.approx(0.2, abs=0.01)  # four standard errors of 25,600
    assert torch.equal(t["T1w"], t["FLAIR"])
    assert t["T1w"].min() > 0
    assert share(t["T1w"][dropped] > T / 2) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "known", "learnt"),
    [
        (["T1w"], [], True),
        (["T1w", "FLAIR"], ["sex", "age"], True),
        (["T1w"], ["age"], False),  # conditions are dropped together
        (["T1w"], ["FLAIR", "age", "sex"], False),
        (["age"], ["T1w"], False),
        (["T1w", "age"], ["sex"], False),
    ],
)
def test_a_conditional_model_learns_two_kinds_of_question(asked, known, learnt):
    images, scalars = ["T1w", "FLAIR"], ["age", "sex"]
    assert ConditionalTimes().supports(asked, known, images, scalars) == learnt
    assert CornerTimes().supports(asked, known, images, scalars)
