"""The categorical process against the matrices of Eq. 2 and 4, and Bayes by brute force."""

import pytest
import torch

from metavoxel.diffusion.categorical import CategoricalForward
from metavoxel.diffusion.schedule import cosine, linear

LABELS = [2, 3, 17, 200]


def times(n: int, t: int) -> torch.Tensor:
    return torch.full((n,), t, dtype=torch.long)


@pytest.fixture(name="generator")
def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def reached(process: CategoricalForward, s: int, t: int) -> torch.Tensor:
    """Q_{s+1} ... Q_t: row i holds q(z_t | z_s = i)."""
    matrix = torch.eye(process.K, dtype=torch.float64)
    for u in range(s + 1, t + 1):
        matrix = matrix @ process.transition_matrix(u)
    return matrix


def assert_frequencies(draws: torch.Tensor, probabilities: torch.Tensor, errors: float = 4.5):
    """One-hot draws (n, K) come from the probabilities (K,)."""
    assert torch.equal(draws.sum(-1), torch.ones(len(draws)))
    p = probabilities.double()
    allowed = errors * (p * (1 - p) / len(draws)).sqrt() + 1e-6
    assert ((draws.double().mean(0) - p).abs() <= allowed).all()


def test_the_matrix_is_eq_4():
    process = CategoricalForward(cosine(10), 3)
    beta = process.schedule.beta(4)
    expected = (1 - beta) * torch.eye(3) + beta / 3 * torch.ones(3, 3)
    assert torch.allclose(process.transition_matrix(4), expected.double())


@pytest.mark.parametrize("K", [2, 5])
def test_the_product_of_the_matrices_is_the_marginal(K):
    process = CategoricalForward(cosine(30), K)
    labels = torch.eye(K)
    for t in (0, 1, 7, 29, 30):
        product = reached(process, 0, t)[:K]
        assert torch.allclose(process.marginal(labels, times(K, t)).double(), product, atol=1e-6)


def test_the_marginal_is_linear_in_soft_labels():
    process = CategoricalForward(cosine(30), 4)
    soft = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    mixed = soft @ process.marginal(torch.eye(4), times(4, 12))
    assert torch.allclose(process.marginal(soft, times(1, 12)), mixed)


def test_step_by_step_simulation_matches_noised(generator):
    """Eq. 2 applied one step after another, against one draw of q(z_t | z_0)."""
    process, n, T = CategoricalForward(linear(12, 0.05, 0.4), 3), 8000, 12
    z = torch.nn.functional.one_hot(torch.full((n,), 1), process.K).double()
    for t in range(1, T + 1):
        state = torch.multinomial(z @ process.transition_matrix(t), 1, generator=generator)[:, 0]
        z = torch.nn.functional.one_hot(state, process.K).double()
    truth = reached(process, 0, T)[1]
    label = torch.eye(3)[1].expand(n, -1)
    at_once = process.noised(label, times(n, T), process.noise(n, (3,), generator))
    assert_frequencies(z.float(), truth)
    assert_frequencies(at_once, truth)


@pytest.mark.parametrize(("s", "t"), [(0, 5), (5, 6), (5, 25), (29, 30)])
def test_noised_then_renoised_is_noised(s, t, generator):
    process, n = CategoricalForward(cosine(30), 3), 8000
    label = torch.eye(3)[2].expand(n, -1)
    zs = process.noised(label, times(n, s), process.noise(n, (3,), generator))
    zt = process.renoised(zs, times(n, s), times(n, t), process.noise(n, (3,), generator))
    assert_frequencies(zt, reached(process, 0, t)[2])


def test_the_prior_is_uniform_and_stationary(generator):
    process = CategoricalForward(cosine(30), 4)
    draws = process.prior(process.noise(8000, (4,), generator))
    uniform = torch.full((4,), 0.25)
    assert_frequencies(draws, uniform)
    assert torch.allclose(uniform.double() @ process.transition_matrix(9), uniform.double())


def brute_force(process, probabilities, zt, t: int, s: int) -> torch.Tensor:
    """sum_k p(k) q(z_s | z_t, z_0 = k), from the matrices, over the labels that z_t allows."""
    to_s, to_t, between = reached(process, 0, s), reached(process, 0, t), reached(process, s, t)
    out = torch.zeros(len(zt), process.K, dtype=torch.float64)
    for i, j in enumerate(zt.argmax(-1).tolist()):
        for k in range(process.K):
            if to_t[k, j] > 0:
                out[i] += probabilities[i, k].double() * to_s[k] * between[:, j] / to_t[k, j]
    return out / out.sum(-1, keepdim=True)


@pytest.mark.parametrize("K", LABELS)
@pytest.mark.parametrize(
    ("t", "s"), [(40, 39), (40, 13), (40, 0), (21, 20), (21, 4), (2, 1), (1, 0)]
)
def test_the_posterior_is_bayes_by_brute_force(K, t, s, generator):
    process = CategoricalForward(cosine(40), K)
    n = 6
    label = torch.eye(K)[torch.randint(K, (n,), generator=generator)]
    zt = process.noised(label, times(n, t), process.noise(n, (K,), generator))
    probabilities = torch.randn((n, K), generator=generator).mul(2).softmax(-1)
    truth = brute_force(process, probabilities, zt, t, s)
    said = process.posterior(probabilities, zt, times(n, t), times(n, s))
    assert torch.allclose(said.double(), truth, atol=2e-5)


def test_the_posterior_averages_to_the_marginal():
    """sum_{z_t} q(z_t | z_0) p(z_s | z_t) = q(z_s | z_0) if the clean label is known."""
    process = CategoricalForward(cosine(40), 5)
    n, label = process.K, torch.eye(5)[3:4]
    weight = process.marginal(label, times(1, 30))[0]
    said = process.posterior(label.expand(n, -1), torch.eye(n), times(n, 30), times(n, 11))
    assert torch.allclose(weight @ said, process.marginal(label, times(1, 11))[0], atol=1e-6)


@pytest.mark.parametrize("K", LABELS)
def test_the_posterior_is_stable_in_float32_at_every_time(K, generator):
    process = CategoricalForward(cosine(1000), K)
    t = torch.arange(1, 1001)
    s = (torch.rand(1000, generator=generator) * t).long()
    label = torch.eye(K)[torch.randint(K, (1000,), generator=generator)]
    zt = process.noised(label, t, process.noise(1000, (K,), generator))
    for sharpness in (0.0, 3.0, 1e4):  # from ignorance to certainty, often of a wrong label
        logits = sharpness * torch.randn((1000, K), generator=generator)
        said = process.posterior(logits.softmax(-1), zt, t, s)
        assert torch.isfinite(said).all()
        assert (said >= 0).all()
        assert torch.allclose(said.sum(-1), torch.ones(1000), atol=1e-5)


def test_a_step_to_0_draws_the_predicted_label(generator):
    process, n = CategoricalForward(cosine(100), 3), 8000
    p = torch.tensor([0.6, 0.3, 0.1])
    zt = process.prior(process.noise(n, (3,), generator))
    z0 = process.step(p.expand(n, -1), zt, times(n, 100), times(n, 0), generator)
    assert_frequencies(z0[:, :3], p)


def test_one_step_is_as_good_as_many_if_the_label_is_known(generator):
    """k-step sampling: with a perfect prediction the stride does not matter."""
    process, n = CategoricalForward(cosine(100), 3), 8000
    z0 = torch.eye(3)[1].expand(n, -1)
    for stride in (10, 50):
        z = process.prior(process.noise(n, (3,), generator))
        for t in range(100, 50, -stride):
            z = process.step(z0, z, times(n, t), times(n, t - stride), generator)
        assert_frequencies(z, process.marginal(torch.eye(3)[1:2], times(1, 50))[0])


def test_gumbel_draws_follow_small_probabilities(generator):
    process, n = CategoricalForward(cosine(100), 200), 20000
    p = torch.arange(1, 201).float()
    p = p / p.sum()
    draws = process.step(
        p.expand(n, -1),
        torch.eye(200)[:1].expand(n, -1),
        times(n, 100),
        times(n, 0),
        generator,
    )
    assert_frequencies(draws, p)
