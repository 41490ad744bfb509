"""Images and scalars that are jointly normal, of a network that adds nothing: every subset, known
exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from folders import AGE
from metavoxel.encoding.image import ImageEncoder
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.inference.ask import sample_given
from metavoxel.inference.samplers import Condition, one_evaluation
from metavoxel.linear_gaussian.given_scalars import GivenScalars
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.schema import parse_schema
from metavoxel.training.examples import Examples
from metavoxel.training.given_scalars import follow_scalars
from toy import all_subsets

SCALARS = ["age", "height", "weight"]
COVARIANCE = torch.tensor([[1, -0.3, 0.1], [-0.3, 1, 0.6], [0.1, 0.6, 1]], dtype=torch.float64)
SPREAD = torch.tensor([2.0, 0.5])  # variances of the first two components, in the mean record
N = 1500
IMAGE = {"kind": "image", "suffix": "T1w", "shape": [8, 8], "spacing": [1, 1]}


class Silent(nn.Module):
    """A network that predicts no correction of an image with one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        return {"image": torch.zeros_like(z["image"][:, :1])}


def model(follows: bool = True) -> MetaVoxel:
    torch.manual_seed(0)
    settings = {
        "encoding": {"kind": "identity", "covariance_rank": 2},
        "diffusion": {"image_follows_scalars": follows},
        "sampling": {"steps": 20},
        "denoiser": {"channels": [8, 8], "groups": 4, "head_channels": 8},
    }
    variables = parse_schema(
        {"variables": {"image": IMAGE, **{v: {**AGE, "range": [-6, 6]} for v in SCALARS}}},
        "schema",
    )
    scores = dict.fromkeys(SCALARS, NormalScores(-6, 6, ((1.0, 0.0, 1.0),)))
    prior = ScalarPrior([], [], [], [], [0, 0, 0], [[], [], []], COVARIANCE.tolist())
    made = MetaVoxel(variables, ModelConfig.model_validate(settings), scores, prior).eval()
    made.denoiser = Silent()  # type: ignore[assignment]  # in the U-Net's place
    of = encoder(made)
    shape = of.latent_mean.shape
    # So small beside [0, 1] that nothing is clamped.
    of.set_statistics(torch.zeros(shape), torch.full(shape, 0.1))
    if isinstance(of.given, GivenScalars):
        generator = torch.Generator().manual_seed(1)
        slopes, factors = 0.4 * torch.randn(2, 3, *shape, generator=generator)
        of.given.covariance[:3, :3] = COVARIANCE  # curves and products say nothing
        of.given.directions[:3, :3] = torch.linalg.inv(torch.linalg.cholesky(COVARIANCE))
        of.set_effects(slopes, factors[:2])
    return made


def encoder(made: MetaVoxel) -> ImageEncoder:
    of = made.autoencoders["image"]
    assert isinstance(of, ImageEncoder)
    return of


def moments(made: MetaVoxel, known: tuple[str, ...], values: Tensor) -> tuple[Tensor, Tensor]:
    """Of z of the image and of all scalars, given the known scalars' values, in closed form."""
    gaussian = encoder(made).gaussian()
    factors, own = gaussian.factors.flatten(1).double(), gaussian.unique.flatten().double()
    image = factors.T @ factors + torch.diag(own)
    between = factors[:3].T @ torch.linalg.cholesky(COVARIANCE).T
    total = torch.cat([torch.cat([image, between], 1), torch.cat([between.T, COVARIANCE], 1)])
    k = len(image)
    at = torch.tensor([k + SCALARS.index(v) for v in known], dtype=torch.long)
    gain = total[:, at] @ torch.linalg.inv(total[at][:, at])
    return gain @ values, total - gain @ total[at]


def assert_drawn(made: MetaVoxel, z: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Mean and covariance of images z (n, k) along their factors and two elements, and of scalars
    beside them, within five standard errors and 2 % of steps."""
    k = len(encoder(made).gaussian().unique.flatten())
    factors = encoder(made).gaussian().factors.flatten(1).double()
    along = factors[factors.norm(dim=1) > 0]
    along = torch.cat([along / along.norm(dim=1, keepdim=True), torch.eye(k).double()[:2]])
    project = torch.block_diag(along, torch.eye(z.shape[1] - k).double())
    x, expected = z @ project.T, project @ mean
    spread = project @ covariance @ project.T
    scale = spread.diagonal().sqrt()
    error = 5 / len(z) ** 0.5
    assert torch.allclose(x.mean(0) / scale, expected / scale, atol=error + 0.02)
    got = torch.cov(x.T) / scale[:, None] / scale
    assert torch.allclose(got, spread / scale[:, None] / scale, atol=error * 2**0.5 + 0.02)


@pytest.mark.parametrize("known", all_subsets(SCALARS))
@pytest.mark.parametrize("first", [True, False], ids=["scalars first", "scalars unknown"])
@torch.no_grad()
def test_what_is_drawn_of_an_image_is_its_conditional_distribution(
    known: tuple[str, ...], first: bool
) -> None:
    """Given every subset of the scalars: drawn after the others, jointly with them, or without."""
    made, generator = model(), torch.Generator().manual_seed(0)
    values = torch.tensor([0.8, -1.3, 1.1])[: len(known)].double()
    given = {v: torch.full((N, 1), float(x)) for v, x in zip(known, values, strict=True)}
    unknown = [v for v in SCALARS if v not in known] if first else []
    drawn = made.posterior(given, N, generator=generator).draw(1, generator)
    scalars = {v: drawn[v][:, 0] for v in unknown}
    settings = made.config.sampling
    image = sample_given(made, ["image"], given | scalars, {}, N, settings, generator)["image"]
    z = torch.cat([image.flatten(1), *scalars.values()], 1).double()
    mean, covariance = moments(made, known, values)
    k = len(mean) - 3
    at = torch.tensor([*range(k), *(k + SCALARS.index(v) for v in unknown)])
    assert_drawn(made, z, mean[at], covariance[at][:, at])


@torch.no_grad()
def test_one_evaluation_is_the_mean_given_what_is_known() -> None:
    made, values = model(), torch.tensor([[0.4, 0.1], [-0.2, 0.3]])
    known = {"age": values[:, :1], "weight": values[:, 1:]}
    generator = torch.Generator().manual_seed(0)
    said = one_evaluation(made.given(known, 2), made.process, Condition(2), ["image"], generator)
    for z, given in zip(said["image"].flatten(1).double(), values.double(), strict=True):
        mean, _ = moments(made, ("age", "weight"), given)
        assert torch.allclose(z, mean[: len(z)], atol=1e-4)


@torch.no_grad()
def test_the_spread_that_is_drawn_is_that_of_the_scalars() -> None:
    """Of two records, along two components: their variances times what is told of them."""
    made, n = model(), 3000
    of = encoder(made)
    assert isinstance(of.given, GivenScalars)
    of.given.log_variance[:, 0] = SPREAD.log()
    _, covariance = moments(made, ("age", "height", "weight"), torch.zeros(3).double())
    k = len(covariance) - 3
    factors = of.gaussian().factors.flatten(1).double()
    for age in (1.0, -1.0):
        given = {v: torch.full((n, 1), age * (v == "age")) for v in SCALARS}
        generator = torch.Generator().manual_seed(0)
        settings = made.config.sampling
        z = sample_given(made, ["image"], given, {}, n, settings, generator)["image"]
        changed = factors[-2:].T @ (SPREAD.double().pow(age) - 1).diag() @ factors[-2:]
        told = of.given(given, {v: torch.ones(n, dtype=torch.bool) for v in SCALARS})
        mean = told.mean[0] @ factors[: told.mean.shape[1]]
        assert_drawn(made, z.flatten(1).double(), mean, covariance[:k, :k] + changed)


def test_it_can_be_left_to_the_network() -> None:
    made = model(follows=False)
    assert encoder(made).given is None and encoder(made).effects is None
    assert not any(".given." in k or k.endswith("effects") for k in made.state_dict())


def test_what_a_cohort_follows_is_found_again_with_gaps() -> None:
    """2,000 records of the joint normal, a third of each scalar missing: the mean of z given every
    scalar alone, and given all."""
    made, found, n = model(), model(), 2000
    generator = torch.Generator().manual_seed(3)
    s = torch.randn(n, 3, generator=generator).double() @ torch.linalg.cholesky(COVARIANCE).T
    of, gaussian = encoder(made), encoder(made).gaussian()
    assert isinstance(of.given, GivenScalars)
    u = (s @ of.given.directions[:3, :3].T).float()
    z = u @ gaussian.factors[:3].flatten(1)
    z += torch.randn(n, 2, generator=generator) @ gaussian.factors[-2:].flatten(1)
    z += torch.randn(z.shape, generator=generator) * gaussian.unique.flatten().sqrt()
    there = torch.rand(n, 3, generator=generator) > 1 / 3
    seen = torch.where(there, s, 0).float()
    examples = Examples(
        {"image": z.view(1, n, *of.latent_mean.shape)},
        {v: seen[:, [i]] for i, v in enumerate(SCALARS)},
        {v: there[:, i] for i, v in enumerate(SCALARS)} | {"image": torch.ones(n).bool()},
    )
    follow_scalars(found, examples)
    for known in (("age",), ("height",), ("weight",), tuple(SCALARS)):
        values = torch.ones(len(known)).double()
        expected = moments(made, known, values)[0][: z.shape[1]]
        given = {v: torch.ones(1, 1) for v in known}
        with torch.no_grad():
            said = (
                one_evaluation(
                    found.given(given, 1), found.process, Condition(1), ["image"], generator
                )["image"]
                .flatten()
                .double()
            )
        assert float(torch.corrcoef(torch.stack([said, expected]))[0, 1]) > 0.95
        assert float((said @ expected) / (expected @ expected)) == pytest.approx(1, abs=0.1)
