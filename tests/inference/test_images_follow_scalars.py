"""Images and scalars that are jointly normal, of a network that adds nothing: every subset, known
exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from folders import AGE
from metavoxel.diffusion.together import JointNormal
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.inference.samplers import Condition, one_evaluation, sample
from metavoxel.model import MetaVoxel, ModelConfig
from metavoxel.schema import parse_schema
from metavoxel.training.examples import Examples, fit_images_effects
from metavoxel.training.statistics import fit_normal
from toy import all_subsets

SCALARS = ["age", "height", "weight"]
STD = torch.tensor([0.5, 0.2, 0.4], dtype=torch.float64)
CORRELATION = torch.tensor([[1, -0.3, 0.1], [-0.3, 1, 0.6], [0.1, 0.6, 1]], dtype=torch.float64)
COVARIANCE = STD[:, None] * CORRELATION * STD
N = 1500
IMAGE = {"kind": "image", "suffix": "T1w", "shape": [8, 8], "spacing": [1, 1]}


def model(follows: bool = True) -> MetaVoxel:
    torch.manual_seed(0)
    settings = {
        "encoding": {"kind": "identity", "covariance_rank": 2},
        "diffusion": {"image_follows_scalars": follows},
        "sampling": {"steps": 20},
        "denoiser": {
            "channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8
        },
    }  # fmt: skip
    number = {**AGE, "range": [-1, 1]}
    scalings = {
        v: LinearScaling(-1, 1, float(std), ((1.0, 0.0, float(std)),))
        for v, std in zip(SCALARS, STD, strict=True)
    }
    variables = parse_schema(
        {"variables": {"image": IMAGE, **dict.fromkeys(SCALARS, number)}}, "schema"
    )
    together = JointNormal(dict.fromkeys(SCALARS, 1), [0, 0, 0], COVARIANCE.tolist())
    made = MetaVoxel(variables, ModelConfig.model_validate(settings), scalings, together).eval()
    for head in made.denoiser.heads.values():
        for weight in head.parameters():
            torch.nn.init.zeros_(weight)
        with torch.no_grad():
            head.skip.bias.copy_(torch.tensor([0.0, 30.0]))
    encoder = made.autoencoders["image"]
    shape = encoder.latent_mean.shape
    generator = torch.Generator().manual_seed(1)
    # So small beside [0, 1] that nothing is clamped.
    encoder.set_statistics(torch.zeros(shape), torch.full(shape, 0.1))
    if follows:
        slopes, factors = 0.4 * torch.randn(2, 3, *shape, generator=generator)
        encoder.set_effects(slopes, factors[:2])
    return made


def moments(made: MetaVoxel, known: tuple[str, ...], values: Tensor) -> tuple[Tensor, Tensor]:
    """Of z of the image and of all scalars, given the known scalars' values, in closed form."""
    variance, axes = torch.linalg.eigh(COVARIANCE)
    root = axes @ torch.diag(variance.sqrt()) @ axes.T
    encoder = made.autoencoders["image"]
    effects = encoder.effects.flatten(1).double()
    gaussian = encoder.gaussian()
    factors, own = gaussian.factors.flatten(1).double(), gaussian.own.flatten().double()
    image = factors.T @ factors + torch.diag(own)
    between = effects.T @ root
    total = torch.cat([torch.cat([image, between], 1), torch.cat([between.T, COVARIANCE], 1)])
    k = len(image)
    at = torch.tensor([k + SCALARS.index(v) for v in known], dtype=torch.long)
    gain = total[:, at] @ torch.linalg.inv(total[at][:, at])
    return gain @ values, total - gain @ total[at]


@pytest.mark.parametrize("known", all_subsets(SCALARS))
@torch.no_grad()
def test_what_is_drawn_of_an_image_is_its_conditional_distribution(known: tuple[str, ...]) -> None:
    """Given every subset of the scalars, images with what is drawn of the other scalars: mean and
    covariance of the image along its factors, and with the scalars, within five standard errors and
    2 % of steps."""
    made = model()
    values = torch.tensor([0.4, -0.3, 0.5])[: len(known)].double()
    given = {v: torch.full((N, 1), float(x)) for v, x in zip(known, values, strict=True)}
    asked = ["image", *(v for v in SCALARS if v not in known)]
    condition, settings = Condition(N, given), made.config.sampling
    drawn = sample(made, made.process, condition, asked, settings, torch.Generator().manual_seed(0))
    z = drawn["image"].flatten(1).double()
    mean, covariance = moments(made, known, values)
    k = z.shape[1]
    factors = made.autoencoders["image"].gaussian().factors.flatten(1).double()
    along = factors / factors.norm(dim=1, keepdim=True)
    directions = torch.cat([along, torch.eye(k).double()[:2]])
    unknown = [v for v in SCALARS if v not in known]
    at = [k + SCALARS.index(v) for v in unknown]
    project = torch.zeros(len(directions) + len(at), k + 3).double()
    project[: len(directions), :k] = directions
    project[range(len(directions), len(project)), at] = 1
    x = torch.cat([z @ directions.T, *(drawn[v].double() for v in unknown)], 1)
    expected, spread = project @ mean, project @ covariance @ project.T
    scale = spread.diagonal().sqrt()
    error = 5 / N**0.5
    assert torch.allclose(x.mean(0) / scale, expected / scale, atol=error + 0.02)
    got = torch.cov(x.T) / scale[:, None] / scale
    assert torch.allclose(got, spread / scale[:, None] / scale, atol=error * 2**0.5 + 0.02)


@torch.no_grad()
def test_one_evaluation_is_the_mean_given_what_is_known() -> None:
    made, values = model(), torch.tensor([[0.4, 0.1], [-0.2, 0.3]])
    known = {"age": values[:, :1], "weight": values[:, 1:]}
    generator = torch.Generator().manual_seed(0)
    said = one_evaluation(made, made.process, Condition(2, known), ["image"], generator)
    for z, given in zip(said["image"].flatten(1).double(), values.double(), strict=True):
        mean, _ = moments(made, ("age", "weight"), given)
        assert torch.allclose(z, mean[: len(z)], atol=1e-4)


def test_it_can_be_left_to_the_network() -> None:
    made = model(follows=False)
    assert made.autoencoders["image"].effects is None
    assert not any(k.endswith("effects") for k in made.autoencoders.state_dict())


def test_the_effects_of_a_cohort_are_found_again_with_gaps() -> None:
    """2,000 records of the joint normal, a third of each scalar missing: the slopes of z, and what
    is left of the covariance beside them."""
    made, n = model(), 2000
    generator = torch.Generator().manual_seed(3)
    root = torch.linalg.cholesky(COVARIANCE)
    s = torch.randn(n, 3, generator=generator).double() @ root.T
    true = made.autoencoders["image"]
    variance, axes = torch.linalg.eigh(COVARIANCE)
    inverse = axes @ torch.diag(variance.rsqrt()) @ axes.T
    z = (s @ inverse).float() @ true.effects.flatten(1)
    gaussian = true.gaussian()
    factors = gaussian.factors[3:].flatten(1)
    z += torch.randn(n, 2, generator=generator) @ factors
    z += torch.randn(z.shape, generator=generator) * gaussian.own.flatten().sqrt()
    there = torch.rand(n, 3, generator=generator) > 1 / 3
    examples = Examples(
        {"image": z.view(1, n, *true.latent_mean.shape)},
        {v: torch.where(there[:, i], s[:, i], torch.nan).nan_to_num()[:, None].float()
         for i, v in enumerate(SCALARS)},
        {v: there[:, i] for i, v in enumerate(SCALARS)} | {"image": torch.ones(n).bool()},
    )  # fmt: skip
    before = true.effects.clone()
    fit_images_effects(made, examples)
    for was, now in zip(before.flatten(1), true.effects.flatten(1), strict=True):
        assert float(torch.corrcoef(torch.stack([was, now]))[0, 1]) > 0.97
        assert float((was @ now) / (was @ was)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("people", "shown"), [(1, False), (9, False), (10, True)])
def test_a_label_that_few_people_have_does_not_draw_their_scans(people: int, shown: bool) -> None:
    """Of 200 records, whose images differ by noise alone, but for those of one label, which are one
    and the same image far from all others."""
    n, labels = 200, ["A", "B", "C"]
    generator = torch.Generator().manual_seed(0)
    settings = {
        "encoding": {"kind": "identity", "covariance_rank": 0},
        "denoiser": {
            "channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8
        },
    }  # fmt: skip
    site = {"kind": "categorical", "labels": labels}
    variables = parse_schema({"variables": {"image": IMAGE, "site": site}}, "schema")
    of = torch.arange(n) % 2
    of[:people] = 2
    z0 = torch.nn.functional.one_hot(of, 3).float()
    mean, covariance = fit_normal(z0, torch.ones(n, 3, dtype=torch.bool))
    together = JointNormal({"site": 3}, mean.tolist(), covariance.tolist())
    made = MetaVoxel(variables, ModelConfig.model_validate(settings), {}, together).eval()
    latents = 0.1 * torch.randn(1, n, *made.process.shapes["image"], generator=generator)
    latents[:, :people] = torch.randn(latents.shape[2:], generator=generator)
    latents -= latents.mean(1, keepdim=True)
    everyone = torch.ones(n, dtype=torch.bool)
    fit_images_effects(
        made, Examples({"image": latents}, {"site": z0}, {"site": everyone, "image": everyone})
    )
    known = {"site": torch.eye(3)[[2]]}
    with torch.no_grad():
        drawn = one_evaluation(made, made.process, Condition(1, known), ["image"], generator)
    theirs = latents[0, 0].flatten()
    share = float(drawn["image"].flatten() @ theirs / (theirs @ theirs))
    assert share > 0.7 if shown else abs(share) < 0.05
