"""The samplers against a joint distribution known in closed form, for every subset known.

The exact denoiser of `toy.py` takes the network's place, so that whatever is wrong is wrong with
the sampler. Evidence is drawn at random, one per sample: the samples minus E[asked | known] must
then average to 0, not correlate with the evidence (slope 1.00), and have the conditional
covariance, one-hot labels and cross-covariances included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.schedule import Schedule, rescale_zero_terminal_snr, scaled_linear
from metavoxel.inference.samplers import Condition, one_evaluation, sample, time_grid
from toy import Toy, all_subsets, make_line, make_process, make_toy, only, regression

TOY = make_toy()
EXACT = SamplingConfig()  # 50 steps of second order
REPAINT = SamplingConfig(conditioner="repaint", steps=50, spacing="uniform", order=1)
LDM = rescale_zero_terminal_snr(scaled_linear(1000))  # the schedule of configs/paper.yaml
STANDARD_ERRORS = 4.5

# What the steps may cost of a moment, in units of its scale: 50 steps of second order lose 0.1 to
# 1.6 % of a variance for stds of 1 to 0.2; 100 of DDIM 2.5 to 6 % (docs/explanation/sampling.md).
DISCRETISATION = 0.02
FIRST_ORDER = 0.06


def ids(names: Collection[str]) -> str:
    return "+".join(names) or "nothing"


def rest(toy: Toy, known: Collection[str]) -> list[str]:
    return [v for v in toy.names if v not in known]


def ask(
    toy: Toy,
    known: Collection[str],
    asked: Collection[str],
    settings: SamplingConfig,
    n: int = 2000,
    zero_snr: bool = True,
    seed: int = 0,
    schedule: Schedule | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evidence (n, E), samples (n, F), E[asked | known] (n, F) and Cov[asked | known] (n, F, F)."""
    generator = torch.Generator().manual_seed(seed)
    evidence = only(toy.draw(n, generator), [v for v in toy.names if v in known])
    process = make_process(toy, zero_snr, schedule=schedule)
    drawn = sample(
        toy.denoiser(process), process, Condition(n, evidence), asked, settings, generator
    )
    mean, cov = toy.conditional(evidence, asked)
    flat = toy.features(evidence, known) if known else torch.zeros(n, 0).double()
    return flat, toy.features(drawn, asked), mean.expand(n, -1), cov.expand(n, -1, -1)


def assert_zero(values: Tensor, scale: Tensor, tolerance: float, what: str) -> None:
    """The columns of `values` (n, F) average to 0: standard errors + a share of the scale."""
    error = values.std(0) / math.sqrt(len(values))
    allowed = STANDARD_ERRORS * error + tolerance * scale
    excess = values.mean(0).abs() / allowed.clamp_min(1e-12)
    assert (excess <= 1).all(), f"{what}: {excess.max():.2f} times what is allowed"


def assert_conditional(
    evidence: Tensor, samples: Tensor, mean: Tensor, cov: Tensor, tolerance: float = DISCRETISATION
) -> None:
    """Mean, slope on the evidence and covariance of the samples are those of p(asked | known)."""
    residual = samples - mean
    std = cov.diagonal(dim1=1, dim2=2).mean(0).sqrt()
    assert_zero(residual, std, tolerance, "mean")
    if evidence.shape[1]:
        centred = (evidence - evidence.mean(0)) / evidence.std(0)
        slope = (residual[:, :, None] * centred[:, None, :]).flatten(1)
        across = std[:, None].expand(-1, centred.shape[1]).flatten()
        assert_zero(slope, across, tolerance, "slope")
    covariance = (residual[:, :, None] * residual[:, None, :] - cov).flatten(1)
    assert_zero(covariance, (std[:, None] * std).flatten(), tolerance, "covariance")


# The toy itself: two independent routes to the same conditionals.


def test_the_closed_form_agrees_with_draws_of_the_joint():
    z = TOY.draw(20000, torch.Generator().manual_seed(2))
    asked = ["age", "diagnosis", "image"]
    known = only(z, ["weight", "sex"])
    mean, cov = TOY.conditional(known, asked)
    evidence, samples = TOY.features(known, known), TOY.features(z, asked)
    assert_conditional(evidence, samples, mean, cov, tolerance=0)


def test_the_denoiser_agrees_with_the_score_of_the_noisy_density():
    """Tweedie: E[z_0 | z_t] = (z_t + (1 - alpha_bar) grad log q(z_t)) / sqrt(alpha_bar)."""
    generator, n = torch.Generator().manual_seed(3), 64
    process = make_process(TOY)
    t = {v: torch.randint(1, 900, (n,), generator=generator) for v in TOY.names}
    zt = process.noised(TOY.draw(n, generator), t, process.noise(n, generator))
    said = TOY.denoiser(process)(zt, t, TOY.names)
    for v in TOY.shapes:
        z = zt[v].double().requires_grad_()
        (score,) = torch.autograd.grad(TOY.density(process, zt | {v: z}, t).sum(), z)
        a = process.variables[v].schedule.alpha_bar(t[v]).double()
        a = a.view(-1, *[1] * (z.ndim - 1))
        assert torch.allclose(said[v].double(), (z + (1 - a) * score) / a.sqrt(), atol=1e-4)


# One evaluation


def test_one_evaluation_is_the_conditional_expectation_for_every_known_and_asked():
    """All 3^5 - 2^5 ways to know, ask and marginalise five variables."""
    generator, n = torch.Generator().manual_seed(4), 16
    process = make_process(TOY)
    denoise, z = TOY.denoiser(process), TOY.draw(n, generator)
    for known in all_subsets(TOY.names):
        condition = Condition(n, only(z, known))
        for asked in all_subsets(rest(TOY, known))[1:]:
            said = one_evaluation(denoise, process, condition, asked, generator)
            truth, _ = TOY.conditional(condition.known, asked)
            assert set(said) == set(asked)
            error = (TOY.features(said, asked) - truth).abs().max()
            assert error < 1e-4, (known, asked)


# Exact conditioning


@pytest.mark.parametrize("known", all_subsets(TOY.names)[:-1], ids=ids)
def test_exact_draws_from_the_conditional_whatever_is_known(known):
    assert_conditional(*ask(TOY, known, rest(TOY, known), EXACT))


@pytest.mark.parametrize(("order", "steps"), [(1, 300), (2, 100)])
def test_more_steps_come_closer(order, steps):
    settings = SamplingConfig(order=order, steps=steps)
    answer = ask(TOY, ("image",), rest(TOY, ["image"]), settings, n=4000)
    assert_conditional(*answer, tolerance=(FIRST_ORDER if order == 1 else DISCRETISATION) / 2)


@pytest.mark.parametrize("known", [(), ("image",), ("age", "diagnosis")], ids=ids)
def test_ddim_draws_from_the_conditional(known):
    settings = SamplingConfig(order=1, steps=100)
    assert_conditional(*ask(TOY, known, rest(TOY, known), settings), tolerance=FIRST_ORDER)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (("image",), ("age",)),
        (("image",), ("diagnosis",)),
        (("age",), ("sex", "weight")),
        (("sex", "weight"), ("image",)),
        ((), ("age", "sex")),
        (("diagnosis",), ("image", "age")),
        ((), ("image",)),
    ],
    ids=ids,
)
def test_exact_marginalises_what_is_neither_known_nor_asked(known, asked):
    assert_conditional(*ask(TOY, known, asked, EXACT))


CASES = [(), ("image",), ("age", "diagnosis"), ("image", "sex", "weight")]


@pytest.mark.parametrize("known", CASES, ids=ids)
@pytest.mark.parametrize("zero_snr", [True, False])
def test_exact_holds_for_every_schedule(zero_snr, known):
    settings = SamplingConfig(steps=100)
    answer = ask(TOY, known, rest(TOY, known), settings, zero_snr=zero_snr)
    assert_conditional(*answer)


def test_one_ddim_step_is_one_evaluation():
    generator, n = torch.Generator().manual_seed(5), 200
    known = only(TOY.draw(n, generator), ["image", "sex"])
    process = make_process(TOY)
    one = SamplingConfig(steps=1)
    drawn = sample(
        TOY.denoiser(process), process, Condition(n, known), ["age", "weight"], one, generator
    )
    mean, _ = TOY.conditional(known, ["age", "weight"])
    assert torch.allclose(TOY.features(drawn, drawn).double(), mean, atol=1e-5)


def test_one_step_draws_labels_from_their_probabilities():
    """Each label alone is right after one step; only their dependence needs more."""
    evidence, samples, mean, _ = ask(TOY, ("image",), ("diagnosis",), SamplingConfig(steps=1))
    cov = torch.diag_embed(mean) - mean[:, :, None] * mean[:, None, :]
    assert_conditional(evidence, samples, mean, cov, tolerance=0)


# What steps cost


def ddim_variance(
    spread: float, steps: int, spacing: str, order: int = 1, schedule: Schedule | None = None
) -> float:
    """Variance of deterministic samples over the truth, without Monte-Carlo error.

    For a Gaussian the exact denoiser is linear, and so is the whole trajectory: two starting
    points tell its gain.
    """
    toy = make_line(0.0, spread)
    process = make_process(toy, schedule=schedule)
    schedule = process.variables["age"].schedule
    denoise = toy.denoiser(process)
    z = process.prior(2, torch.Generator().manual_seed(0)) | {"age": torch.tensor([[0.0], [1.0]])}
    t = {v: torch.full((2,), process.T) for v in process}
    past = None
    for now, then in itertools.pairwise(time_grid(schedule, steps, spacing)):
        t["age"], s = torch.full((2,), now), torch.full((2,), then)
        said, age = denoise(z, t, ["age"])["age"], process.variables["age"]
        read = age.past(said, z["age"], t["age"]) if order == 2 else None
        z["age"], past = age.step(said, z["age"], t["age"], s, None, past), read
    return float((z["age"][1] - z["age"][0]) / spread) ** 2


@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_ddim_loses_variance_as_one_over_steps(spread):
    """In the angle, log variance ratio = -(pi/2N) (pi/2 + integral of (sigma'/sigma)^2) + O(1/N^2),

    where sigma(angle)^2 = spread^2 cos^2 + sin^2 is the variance along the trajectory: the Taylor
    remainder of a rotation about the flow that carries sigma. Narrow conditionals need more steps.
    """
    angle = torch.linspace(0, math.pi / 2, 20001).double()
    variance = spread**2 * angle.cos() ** 2 + angle.sin() ** 2
    turn = (1 - spread**2) * angle.cos() * angle.sin() / variance
    rate = math.pi / 2 * (math.pi / 2 + float(torch.trapezoid(turn**2, angle)))
    for steps in (25, 50):
        lost = -math.log(ddim_variance(spread, steps, "angle"))
        assert lost == pytest.approx(rate / steps, rel=0.1)


@pytest.mark.parametrize(
    ("spread", "steps", "angle", "uniform"),
    [
        (1.0, 50, 0.952, 0.916),
        (1.0, 100, 0.975, 0.955),
        (0.5, 50, 0.940, 0.825),
        (0.5, 100, 0.966, 0.900),
        (0.3, 50, 0.912, 0.682),
        (0.3, 100, 0.946, 0.803),
    ],
)
def test_uniform_spacing_under_disperses_more_than_the_angle(spread, steps, angle, uniform):
    """PAPER.md, 5 (0.70 with 50 uniform steps): the measured ratios of LDM's schedule, pinned."""
    measured = [ddim_variance(spread, steps, s, 1, LDM) for s in ("angle", "uniform")]
    assert measured == pytest.approx([angle, uniform], abs=0.003)


@pytest.mark.parametrize(
    ("spread", "steps", "ratio"),
    [(1.0, 25, 0.996), (1.0, 50, 0.999), (0.5, 25, 0.990), (0.5, 50, 0.997), (0.3, 50, 0.993)],
)
def test_second_order_steps_keep_the_variance(spread, steps, ratio):
    """The measured ratios, pinned; DDIM loses at least 10 times more."""
    second = ddim_variance(spread, steps, "angle", order=2)
    assert second == pytest.approx(ratio, abs=0.002)
    assert 1 - second < (1 - ddim_variance(spread, steps, "angle")) / 10


@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_second_order_steps_halve_twice_what_ddim_halves_once(spread):
    """The error falls with 1 / steps^2, where DDIM's falls with 1 / steps."""
    first, second = (
        [1 - ddim_variance(spread, n, "angle", order) for n in (20, 40)] for order in (1, 2)
    )
    assert 1.7 < first[0] / first[1] < 2.1
    assert 3.5 < second[0] / second[1] < 4.5


def test_exact_with_uniform_spacing_keeps_the_slope_and_loses_spread():
    settings = SamplingConfig(steps=50, spacing="uniform", order=1)
    answer = ask(TOY, ("image",), ("age",), settings, n=4000, schedule=LDM)
    slope, spread = regression(*answer[1:])
    assert slope == pytest.approx(1, abs=0.05)
    assert 0.62 < spread < 0.78


# RePaint: the bias that overwriting has even with a perfect network (PAPER.md, 1)


SEVERAL, ALONE = make_line(0.7, evidence=16), make_line(0.8)


@pytest.mark.parametrize(
    ("toy", "low", "high"),
    [(SEVERAL, 0.73, 0.85), (ALONE, 0.40, 0.54)],
    ids=["16 pieces of evidence", "one scalar"],
)
def test_repaint_shrinks_towards_the_mean_and_exact_does_not(toy, low, high):
    """Measured 0.79 and 0.47; PAPER.md has 0.8-0.87 for images, 0.59 for one scalar."""
    known = rest(toy, ["age", "coin"])
    slope, _ = regression(*ask(toy, known, ["age"], REPAINT, n=4000, schedule=LDM)[1:])
    assert low < slope < high
    exact, _ = regression(*ask(toy, known, ["age"], EXACT, n=4000)[1:])
    assert exact == pytest.approx(1, abs=0.05)


def test_the_bias_of_repaint_does_not_go_away_with_steps():
    many = REPAINT.model_copy(update={"steps": 250})
    slope, _ = regression(*ask(ALONE, ["marker0"], ["age"], many, schedule=LDM)[1:])
    assert 0.38 < slope < 0.54


def test_the_bias_of_repaint_is_not_one_of_zero_snr():
    slope, _ = regression(*ask(ALONE, ["marker0"], ["age"], REPAINT, zero_snr=False)[1:])
    assert 0.38 < slope < 0.56


def test_resampling_removes_the_shrinkage_and_destroys_the_spread():
    """PAPER.md, 1."""
    resampled = REPAINT.model_copy(update={"resamplings": 5})
    known = rest(SEVERAL, ["age", "coin"])
    slope, spread = regression(*ask(SEVERAL, known, ["age"], resampled, schedule=LDM)[1:])
    assert slope > 0.95
    assert spread < 0.75
    plain = ask(SEVERAL, known, ["age"], REPAINT, schedule=LDM)
    assert regression(*plain[1:])[1] > 0.9


def test_repaint_with_nothing_known_is_the_joint():
    """Without evidence there is nothing to overwrite: both engines sample one distribution."""
    settings = REPAINT.model_copy(update={"steps": 200})
    assert_conditional(*ask(TOY, (), TOY.names, settings), tolerance=2 * FIRST_ORDER)


# Randomness


@pytest.mark.parametrize("settings", [EXACT, REPAINT], ids=["exact", "repaint"])
def test_the_same_seed_gives_the_same_answer(settings):
    one, two, other = (
        ask(TOY, ("image",), ("age", "sex"), settings, n=20, seed=seed)[1] for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("settings", [EXACT, REPAINT], ids=["exact", "repaint"])
def test_a_record_does_not_depend_on_the_others_of_its_batch(settings):
    process = make_process(TOY)
    evidence = only(TOY.draw(20, torch.Generator().manual_seed(8)), ["image"])
    changed = {"image": evidence["image"].clone()}
    changed["image"][1:] = 3.0
    answers = [
        sample(
            TOY.denoiser(process),
            process,
            Condition(20, known),
            ["age", "diagnosis"],
            settings,
            torch.Generator().manual_seed(9),
        )
        for known in (evidence, changed)
    ]
    for v in answers[0]:
        assert torch.allclose(answers[0][v][0], answers[1][v][0], atol=1e-5)
        assert not torch.allclose(answers[0][v][1:], answers[1][v][1:], atol=1e-5)
