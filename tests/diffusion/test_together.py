"""What scalars that are jointly normal say of one another, against other routes to the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metavoxel.diffusion.categorical import CategoricalProcess, Kernel
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.mixture import MixtureReadOut
from metavoxel.diffusion.readout import CategoricalReadOut, GaussianReadOut
from metavoxel.diffusion.schedule import cosine, linear, rescale_zero_terminal_snr
from metavoxel.diffusion.together import Evidence, JointNormal, Measurement
from toy import all_subsets

WIDTHS = {"age": 1, "sex": 2, "height": 1, "site": 3}
SCHEDULE = rescale_zero_terminal_snr(linear(1000))


def draw_normal() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    mean = torch.randn(7, generator=generator, dtype=torch.float64)
    return mean, root @ root.T / 7 + 0.1 * torch.eye(7, dtype=torch.float64)


MEAN, COVARIANCE = draw_normal()
COHORT = (torch.tensor([0.2]), torch.tensor([[0.25]]))
TOGETHER = JointNormal(WIDTHS, MEAN.tolist(), COVARIANCE.tolist())


def measured(z0: Tensor, gains: dict[str, float]) -> dict[str, Measurement]:
    """Without drawing noise, as if it had been 0; its variance is 1 - gain^2."""
    out, n = {}, len(z0)
    for v, place in TOGETHER.places.items():
        noise = (1 - gains[v] ** 2) * torch.eye(WIDTHS[v], dtype=torch.float64)
        gain = torch.full((n,), gains[v], dtype=torch.float64)
        out[v] = Measurement(gains[v] * z0[:, place], gain, noise.expand(n, -1, -1))
    return out


@pytest.mark.parametrize("of", [*WIDTHS])
@pytest.mark.parametrize("known", all_subsets(["age", "sex", "height", "site"]))
@pytest.mark.parametrize("noisy", [0.0, 0.6])
def test_with_the_marginal_it_gives_the_conditional(of: str, known: tuple, noisy: float) -> None:
    """Of every scalar, the known exact, the others gone or noisy, by conditioning on all at once;
    its own value says nothing."""
    gains = {v: 1.0 if v in known else noisy for v in WIDTHS}
    z0 = torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = measured(z0, gains)
    evidence = TOGETHER.evidence(of, given)
    own = torch.arange(7)[TOGETHER.places[of]]
    rest = torch.tensor([i for i in range(7) if i not in own])
    gain = torch.cat([torch.full((w,), gains[v]) for v, w in WIDTHS.items()]).double()[rest]
    y = torch.cat([m.value for m in given.values()], 1)[:, rest]
    total = gain[:, None] * COVARIANCE[rest][:, rest] * gain + torch.diag(1 - gain**2)
    between = COVARIANCE[own][:, rest] * gain
    mean = MEAN[own] + (y - gain * MEAN[rest]) @ torch.linalg.solve(total, between.T)
    variance = COVARIANCE[own][:, own] - between @ torch.linalg.solve(total, between.T)
    marginal = torch.linalg.inv(COVARIANCE[own][:, own])
    posterior = torch.linalg.inv(marginal + evidence.precision.double())
    eta = evidence.eta.double() + marginal @ MEAN[own]
    assert torch.allclose(posterior, variance.expand(4, -1, -1), atol=1e-5)
    assert torch.allclose((posterior @ eta[..., None])[..., 0], mean, atol=1e-4)


@pytest.mark.parametrize("known", all_subsets(["age", "sex", "height", "site"]))
@pytest.mark.parametrize("noisy", [0.0, 0.6])
def test_all_at_once_it_gives_the_joint_conditional(known: tuple, noisy: float) -> None:
    """Mean and covariance of all scalars, by conditioning on all measurements at once, from what is
    said of the standardised ones."""
    gains = {v: 1.0 if v in known else noisy for v in WIDTHS}
    z0 = torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = measured(z0, gains)
    said = TOGETHER.standardised(given)
    variance, axes = torch.linalg.eigh(COVARIANCE)
    root = axes @ torch.diag(variance.sqrt()) @ axes.T
    gain = torch.cat([torch.full((w,), gains[v]) for v, w in WIDTHS.items()]).double()
    y = torch.cat([m.value for m in given.values()], 1)
    total = gain[:, None] * COVARIANCE * gain + torch.diag(1 - gain**2)
    weights = torch.linalg.pinv(total, hermitian=True, rtol=1e-12) @ (gain[:, None] * COVARIANCE)
    mean = MEAN + (y - gain * MEAN) @ weights
    left = COVARIANCE - (COVARIANCE * gain) @ weights
    assert torch.allclose(MEAN + said.mean @ root, mean, atol=1e-5)
    assert torch.allclose(root @ said.covariance @ root, left.expand(4, -1, -1), atol=1e-5)


def test_where_nothing_is_known_nothing_is_said() -> None:
    said = TOGETHER.standardised(measured(torch.randn(4, 7).double(), dict.fromkeys(WIDTHS, 0.0)))
    assert not said.mean.any() and torch.equal(said.covariance[0], torch.eye(7).double())
    given = measured(torch.randn(4, 7).double(), dict.fromkeys(WIDTHS, 0.0))
    for v in WIDTHS:
        evidence = TOGETHER.evidence(v, given)
        assert not evidence.eta.any() and not evidence.precision.any()
    alone = JointNormal({"age": 1}, [0.5], [[2.0]])
    evidence = alone.evidence("age", {"age": given["age"]})
    assert not evidence.eta.any() and not evidence.precision.any()


def test_of_labels_it_is_the_linear_discriminant() -> None:
    """Two groups with one covariance, whose log odds are known; the joint moments are theirs."""
    share, means = torch.tensor([0.3, 0.7]), torch.tensor([[0.0, -1.0], [1.0, 0.5]])
    within = torch.tensor([[1.0, 0.4], [0.4, 0.5]])
    mean = share @ means
    between = (means - mean).T @ torch.diag(share) @ (means - mean)
    labels, mixed = torch.diag(share) - share.outer(share), torch.diag(share) @ (means - mean)
    covariance = torch.cat(
        [torch.cat([labels, mixed], 1), torch.cat([mixed.T, within + between], 1)]
    )
    # The elements of a one-hot row are as good as 1 and 0 of one: what fit_normal leaves to them.
    covariance += 1e-7 * torch.diag(torch.tensor([1.0, 1, 0, 0]))
    widths = {"sex": 2, "height": 1, "weight": 1}
    together = JointNormal(widths, [*share.tolist(), *mean.tolist()], covariance.tolist())
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    exact = torch.zeros(50, 1, 1)
    given = {
        v: Measurement(x[:, i : i + 1], torch.ones(50), exact)
        for i, v in enumerate(["height", "weight"])
    } | {"sex": Measurement(torch.zeros(50, 2), torch.zeros(50), torch.eye(2).expand(50, 2, 2))}
    read_out = CategoricalReadOut(CategoricalProcess(cosine(1000), 2))
    nothing, cohort = torch.zeros(50), together.marginal("sex")
    network = torch.randn(50, 2)  # it has no weight
    said = read_out.pooled(network, nothing, together.evidence("sex", given), cohort)
    groups = torch.distributions.MultivariateNormal(means, within)
    truth = share.log() + groups.log_prob(x[:, None])
    assert torch.allclose(said.diff(dim=1), truth.diff(dim=1), atol=1e-3)


@pytest.mark.parametrize("kernel", ["uniform", "absorbing"])
@pytest.mark.parametrize("t", [0, 200, 600, 990, 1000])
def test_a_noisy_label_is_measured_with_its_own_first_two_moments(kernel: Kernel, t: int) -> None:
    """Over people and noise, Var[value] = gain^2 Var[z_0] + noise and Cov[value, z_0] = gain
    Var[z_0]; counted on 200,000 people."""
    n, share = 200_000, torch.tensor([0.2, 0.5, 0.3])
    generator = torch.Generator().manual_seed(0)
    read_out = CategoricalReadOut(CategoricalProcess(cosine(1000), 3, kernel))
    label = torch.multinomial(share, n, replacement=True, generator=generator)
    z0 = torch.nn.functional.one_hot(label, 3).float()
    times = torch.full((n,), t)
    zt = read_out.noised(z0, times, read_out.noise(n, (3,), generator))
    found = read_out.measured(zt, times, (share, torch.eye(3)))
    value, gain = found.value.double(), float(found.gain[0])
    z0 = z0.double()
    own = torch.diag(share) - share.outer(share)
    both = torch.cat([value, z0], 1).T.cov()
    error = 5 / math.sqrt(n)  # five standard errors of a mean of products of size 1
    assert torch.allclose(value.mean(0), gain * z0.mean(0), atol=error)
    assert torch.allclose(both[:3, :3], gain**2 * own.double() + found.noise[0], atol=error)
    assert torch.allclose(both[:3, 3:], gain * own.double(), atol=error)


def test_a_noisy_number_is_measured_as_the_process_makes_it() -> None:
    process = GaussianProcess(SCHEDULE, "v", data_std=0.5)
    zt, t = torch.randn(3, 1), torch.tensor([0, 400, 1000])
    found, a = GaussianReadOut(process).measured(zt, t, COHORT), SCHEDULE.alpha_bar(t)
    assert torch.equal(found.value, zt)
    assert torch.allclose(found.gain.square(), a.float())
    assert torch.allclose(found.noise[:, 0, 0], 1 - a.float())


@pytest.mark.parametrize("components", [(), ((0.6, -0.5, 0.15), (0.4, 0.4, 0.25))])
def test_a_pool_is_the_product_of_what_two_say_and_the_cohort(components: tuple) -> None:
    """On a grid of z_0: the cohort's density to the power of what is left of the network's weight,
    the network's to its weight, and the likelihood of what is said beside it."""
    process = GaussianProcess(SCHEDULE, "v", data_std=0.5)
    read_out = MixtureReadOut(process, components) if components else GaussianReadOut(process)
    prediction = torch.tensor([[0.3, -0.5], [-0.1, 1.0], [0.3, -0.5]])
    said = Evidence(torch.tensor([[1.5], [-4.0], [0.0]]), torch.tensor([3.0, 20, 0]).view(3, 1, 1))
    weight, grid = torch.tensor([0.3, 1.0, 0.0]), torch.linspace(-6, 6, 4001)
    cohort = -(grid - COHORT[0]).square() / COHORT[1][0] / 2
    if isinstance(read_out, MixtureReadOut):
        silence = torch.tensor([[0.0, 30.0]])
        cohort, network = (
            torch.stack([read_out.given(p).log_density(z.expand(len(p), 1))[:, 0] for z in grid], 1)
            for p in (silence, prediction)
        )
    else:
        mean, variance = read_out.moments(prediction)
        network = -(grid - mean).square() / variance / 2
    log_density = (1 - weight)[:, None] * cohort + weight[:, None] * network
    density = (log_density + said.log_likelihood(grid[:, None])).double().softmax(1)
    mean = density @ grid.double()
    variance = density @ grid.double().square() - mean.square()
    pooled = read_out.moments(read_out.pooled(prediction, weight, said, COHORT))
    assert torch.allclose(pooled[0][:, 0].double(), mean, atol=2e-3)
    assert torch.allclose(pooled[1][:, 0].double(), variance, rtol=5e-3)


def test_what_is_explained_is_the_share_of_variance_that_a_conditional_loses() -> None:
    exact = measured(torch.randn(2, 7).double(), dict.fromkeys(WIDTHS, 1.0))
    for v in ("age", "height"):
        own = torch.arange(7)[TOGETHER.places[v]]
        left = 1 / torch.linalg.inv(COVARIANCE)[own, own]
        explained = TOGETHER.evidence(v, exact).explained(TOGETHER.marginal(v))
        assert explained.tolist() == pytest.approx([1 - float(left / COVARIANCE[own, own])] * 2)
    # A label is as good as told: of its two elements, which add up to 1, one is free.
    told = Evidence(torch.zeros(1, 2), torch.tensor([[[1e6, -1e6], [-1e6, 1e6]]]))
    odds = (torch.tensor([0.5, 0.5]), torch.tensor([[0.25, -0.25], [-0.25, 0.25]]).double())
    assert told.explained(odds).tolist() == pytest.approx([1], abs=1e-5)


def test_the_weights_of_network_and_others() -> None:
    variance = [[1.0, 0.8], [0.8, 1.0]]
    shares = {"share": 0.75, "beside": {"age": 0.5}}
    together = JointNormal({"age": 1, "height": 1}, [0.0, 0], variance, **shares)  # type: ignore
    # The image; the height; nothing else, though age itself is known; half of the image; all.
    known = {
        "t1w": torch.tensor([1.0, 0, 0, 0.5, 1]),
        "age": torch.tensor([0.0, 0, 1, 0, 0]),
        "height": torch.tensor([0.0, 1, 0, 0, 1]),
    }
    height = Measurement(
        torch.zeros(5, 1), known["height"].sqrt(), (1 - known["height"])[:, None, None]
    )
    said = together.evidence("age", {"height": height})
    own, others = together.voices("age", said, known, known["t1w"])
    assert own.tolist() == pytest.approx([1, 0.25, 0, (1 + 0.25 * 0.5) / 2, 1 - 0.5 * 0.64])
    assert others.tolist() == pytest.approx([0.5, 0.75, 0.75, 0.625, 0.5])
