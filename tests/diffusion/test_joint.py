"""The joint process: every variable at its own time, masked losses, many variables."""

import pytest
import torch

from metavoxel.diffusion.categorical import CategoricalForward
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.joint import JointForward, joint_loss
from metavoxel.diffusion.parameterization import GaussianPrediction, LabelPrediction, Noisy
from metavoxel.diffusion.schedule import cosine, rescale_zero_terminal_snr, scaled_linear

T = 100
SCHEDULE = rescale_zero_terminal_snr(scaled_linear(T))


def joint(scalars: int = 2, labels: int = 3) -> JointForward:
    """An image, then as many continuous as categorical variables."""
    gaussian = GaussianForward(SCHEDULE)
    categorical = CategoricalForward(cosine(T), labels)
    values = {f"value{i}": gaussian for i in range(scalars)}
    marks = {f"label{i}": categorical for i in range(scalars)}
    shapes = {"image": (2, 4, 4)} | dict.fromkeys(values, (1,)) | dict.fromkeys(marks, (labels,))
    return JointForward({"image": gaussian} | values | marks, shapes)


def records(process: JointForward, n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    out = {}
    for v, shape in process.shapes.items():
        out[v] = torch.randn((n, *shape), generator=generator)
        if v.startswith("label"):
            out[v] = torch.eye(shape[0])[out[v].argmax(-1)]
    return out


def at(process: JointForward, zt: dict[str, torch.Tensor], t: dict[str, torch.Tensor]):
    """Every variable's z_t to a network, which predicts v and labels."""
    out: dict[str, Noisy] = {}
    for v, forward in process.variables.items():
        if isinstance(forward, CategoricalForward):
            out[v] = LabelPrediction(forward).at(zt[v], t[v])
        else:
            assert isinstance(forward, GaussianForward)
            out[v] = GaussianPrediction(forward, "v").at(zt[v], t[v])
    return out


def loss_of(process: JointForward, said, z0, t, noise, observed):
    return joint_loss(at(process, process.noised(z0, t, noise), t), said, z0, t, noise, observed)


def predictions(process: JointForward, n: int) -> dict[str, torch.Tensor]:
    return {v: torch.zeros(n, *shape, requires_grad=True) for v, shape in process.shapes.items()}


def everywhere(process: JointForward, n: int, value: int | bool) -> dict[str, torch.Tensor]:
    return {v: torch.full((n,), value) for v in process}


def gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad


@pytest.fixture(name="generator")
def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_each_variable_is_noised_at_its_own_time(generator):
    process, n = joint(), 5
    z0, noise = records(process, n, generator), process.noise(n, generator)
    t = {v: torch.full((n,), 10 * i) for i, v in enumerate(process)}
    zt = process.noised(z0, t, noise)
    for v, one in process.variables.items():
        assert torch.equal(zt[v], one.noised(z0[v], t[v], noise[v]))
    assert torch.equal(zt["image"], z0["image"])


def test_one_shared_time_is_the_paper(generator):
    process, n = joint(1), 4
    z0, noise = records(process, n, generator), process.noise(n, generator)
    t = torch.tensor([1, 30, 60, 100])
    zt = process.noised(z0, dict.fromkeys(process, t), noise)
    a = SCHEDULE.alpha_bar(t).view(-1, 1)
    assert torch.allclose(zt["value0"], a.sqrt() * z0["value0"] + (1 - a).sqrt() * noise["value0"])


def test_the_prior_of_some_variables_has_their_state_shapes(generator):
    prior = joint().prior(7, generator, ["image", "label1"])
    assert {v: tuple(z.shape) for v, z in prior.items()} == {
        "image": (7, 2, 4, 4),
        "label1": (7, 3),
    }


def test_the_total_is_the_sum_over_variables_of_their_means(generator):
    """Eq. 5."""
    process, n = joint(), 6
    z0, noise = records(process, n, generator), process.noise(n, generator)
    t, said = everywhere(process, n, 40), predictions(process, n)
    total, parts = loss_of(process, said, z0, t, noise, everywhere(process, n, True))
    states = at(process, process.noised(z0, t, noise), t)
    each = {v: x.loss(said[v], z0[v], noise[v]).mean().detach() for v, x in states.items()}
    assert total.item() == pytest.approx(sum(x.item() for x in each.values()), rel=1e-6)
    assert {v: float(x) for v, x in parts.items()} == pytest.approx(
        {v: float(x) for v, x in each.items()}
    )


def test_a_missing_value_that_is_nan_never_reaches_loss_or_gradient(generator):
    process, n = joint(), 4
    z0, noise = records(process, n, generator), process.noise(n, generator)
    observed = everywhere(process, n, True)
    for v in process:
        observed[v][1] = False
        z0[v][1] = torch.nan
    said = predictions(process, n)
    total, parts = loss_of(process, said, z0, everywhere(process, n, 40), noise, observed)
    assert torch.isfinite(total)
    total.backward()
    for v in process:
        reached = gradient(said[v])
        assert torch.isfinite(reached).all(), v
        assert torch.equal(reached[1], torch.zeros_like(reached[1])), v
        assert (reached[0] != 0).any(), v
        assert torch.isfinite(parts[v]), v


def test_what_a_missing_value_holds_changes_nothing(generator):
    process, n = joint(), 4
    z0, noise = records(process, n, generator), process.noise(n, generator)
    observed = everywhere(process, n, True)
    observed["value0"][2] = False
    losses = []
    for filler in (0.0, 1e6, torch.nan):
        z0["value0"][2] = filler
        t = everywhere(process, n, 40)
        total, _ = loss_of(process, predictions(process, n), z0, t, noise, observed)
        losses.append(total)
    assert losses[0] == losses[1] == losses[2]


def test_a_known_variable_carries_no_loss(generator):
    process, n = joint(), 4
    z0, noise = records(process, n, generator), process.noise(n, generator)
    t = everywhere(process, n, 40)
    t["image"] = torch.zeros(n, dtype=torch.long)
    t["value0"][0] = 0
    said = predictions(process, n)
    total, parts = loss_of(process, said, z0, t, noise, everywhere(process, n, True))
    total.backward()
    assert torch.equal(gradient(said["image"]), torch.zeros_like(said["image"]))
    assert torch.equal(gradient(said["value0"])[0], torch.zeros(1))
    assert (gradient(said["value0"])[1:] != 0).all()
    assert torch.isnan(parts["image"])  # none counted
    assert torch.isfinite(total)


def test_the_part_is_the_mean_over_the_records_that_count(generator):
    process, n = joint(), 4
    z0, noise = records(process, n, generator), process.noise(n, generator)
    observed, t = everywhere(process, n, True), everywhere(process, n, 40)
    observed["value0"][0] = False
    t["value0"][1] = 0
    _, parts = loss_of(process, predictions(process, n), z0, t, noise, observed)
    value = at(process, process.noised(z0, t, noise), t)["value0"]
    each = value.loss(torch.zeros(n, 1), z0["value0"], noise["value0"])
    assert float(parts["value0"]) == pytest.approx(float(each[2:].mean()))


def test_only_the_predicted_variables_are_counted(generator):
    process, n = joint(), 4
    z0, noise = records(process, n, generator), process.noise(n, generator)
    said = {"label0": predictions(process, n)["label0"]}
    total, parts = loss_of(
        process, said, z0, everywhere(process, n, 40), noise, everywhere(process, n, True)
    )
    assert list(parts) == ["label0"]
    assert total.item() == pytest.approx(parts["label0"].item())


def test_fifty_variables_of_two_hundred_labels_stay_finite(generator):
    process, n = joint(scalars=50, labels=200), 8
    z0, noise = records(process, n, generator), process.noise(n, generator)
    t = {v: torch.randint(0, T + 1, (n,), generator=generator) for v in process}
    zt, said = process.noised(z0, t, noise), predictions(process, n)
    total, parts = loss_of(process, said, z0, t, noise, everywhere(process, n, True))
    total.backward()
    assert len(parts) == 101
    assert torch.isfinite(total)
    assert all(torch.isfinite(z).all() for z in zt.values())
    assert all(torch.isfinite(gradient(p)).all() for p in said.values())
    # Ignorance costs 1 per Gaussian variable and log K per categorical one.
    ignorance = 51 + 50 * torch.tensor(200.0).log()
    assert total.item() == pytest.approx(float(ignorance), rel=0.15)


def test_the_same_seed_draws_the_same_noise():
    draws = [joint().noise(3, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert all(torch.equal(draws[0][v], draws[1][v]) for v in draws[0])
