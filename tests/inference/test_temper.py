"""Tempers: spreads that are wrong by a known factor are made right, samples included."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from folders import AGE, SEX, schema
from metavoxel.diffusion.readout import GaussianReadOut
from metavoxel.diffusion.temper import Temper, known_share
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.inference.ask import ask_encoded
from metavoxel.inference.spread import stated_spread
from metavoxel.inference.temper import LOG_FACTORS, fit_tempers, shrunk_factors
from metavoxel.model import MetaVoxel, ModelConfig
from metavoxel.model_files import write_checksums
from metavoxel.model_folder import load_model, save_model

SURE, SURER, LABELS = 1.5, 3.0, 2.0  # by how much the toy is too sure: little known, the image, sex
AGE_STD, OWN_STD, ODDS = 0.5, 0.3, 1.2
ELEMENTS = 8**3


class TooSure(nn.Module):
    """The exact read-outs of a toy, but for spreads that are too small by known factors.

    An element of the image is u + noise of variance 1, with u ~ N(0, 1); age is AGE_STD u + noise
    of OWN_STD; the log-odds of sex are ODDS u where the image is clean, and else 0.
    """

    def __init__(self, age: GaussianReadOut) -> None:
        super().__init__()
        self.still = nn.Parameter(torch.zeros(()))
        self.age = age

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], *_: object) -> dict:
        a = self.age.schedule.alpha_bar(t["image"])[:, None]
        # The elements' mean is sqrt(a) u + noise of variance 1 / ELEMENTS, whatever a.
        precision = 1 + a * ELEMENTS
        u = a.sqrt() * z["image"].flatten(1).mean(1, keepdim=True) * ELEMENTS / precision
        variance = AGE_STD**2 / precision + OWN_STD**2
        known = known_share(a)
        stated = variance / (SURE ** (1 - known) * SURER**known)
        relative = stated.log() - 2 * math.log(self.age.process.data_std)
        logit = LABELS * ODDS * u / 2
        return {"age": torch.cat([AGE_STD * u, relative], 1), "sex": torch.cat([-logit, logit], 1)}


def too_sure() -> MetaVoxel:
    settings = {"encoding": {"kind": "identity"}, "diffusion": {"image_preconditioning": False}}
    config = ModelConfig.model_validate({**settings, "denoiser": {"channels": [32, 32]}})
    model = MetaVoxel(schema(age=AGE, sex=SEX), config, {"age": LinearScaling(0, 100, 0.6)})
    age = model.process.processes["age"]
    assert isinstance(age, GaussianReadOut)
    model.denoiser = TooSure(age)  # type: ignore[assignment]
    return model.eval()


def people(n: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(n, 1, generator=g)
    image = u.view(n, 1, 1, 1, 1) + torch.randn(n, 1, 8, 8, 8, generator=g)
    age = AGE_STD * u + OWN_STD * torch.randn(n, 1, generator=g)
    male = (torch.rand(n, generator=g) < (ODDS * u[:, 0]).sigmoid()).long()
    z0 = {"image": image, "age": age, "sex": nn.functional.one_hot(male, 2).float()}
    return z0, dict.fromkeys(z0, torch.ones(n, dtype=torch.bool))


def test_a_spread_that_is_too_small_by_a_known_factor_is_made_true() -> None:
    """Of the one evaluation and of the samples, whether the image is known or not."""
    model, n = too_sure(), 1500
    model.tempers = fit_tempers(model, *people(n, seed=1))
    error = (2 / n) ** 0.5  # of the logarithm of a variance
    age, sex = model.tempers["age"], model.tempers["sex"]
    assert age.images_known == pytest.approx(SURER, rel=4 * error)
    assert age.images_unknown == pytest.approx(SURE, rel=4 * error)
    assert sex.images_known == pytest.approx(LABELS, rel=0.25)
    z0, _ = people(400, seed=2)
    known = {"image": z0["image"]}
    spread = stated_spread(model, ["age"], known, 400, seed=0)["age"] / 50
    drawn = ask_encoded(model, ["age"], known, 400, 1, seed=0)
    residual = (drawn.point["age"] - 50) / 50 - z0["age"][:, 0]
    sampled = drawn.samples["age"] / 50 - 1 - z0["age"]
    chance = 4 * (2 / 400) ** 0.5
    assert float(spread.square().mean() / residual.square().mean()) == pytest.approx(1, abs=chance)
    # A sample misses the truth by the spread twice: its own, and the truth's about the mean.
    assert float(sampled.square().mean() / 2 / OWN_STD**2) == pytest.approx(1, abs=chance)
    anyone = ask_encoded(model, ["age"], {}, 400, 1, seed=0).samples["age"] / 50
    assert float(anyone.var() / (AGE_STD**2 + OWN_STD**2)) == pytest.approx(1, abs=chance)


def chi_square(n: Tensor, s2: Tensor) -> Tensor:
    """Log-likelihoods (V, G) of n residuals whose mean square is s2: scaled inverse chi-square."""
    theta = LOG_FACTORS
    return -n[:, None] / 2 * (theta + s2[:, None] * (-theta).exp())


def test_with_many_people_a_factor_is_their_mean_square() -> None:
    s2 = torch.tensor([0.3, 1.0, 4.0]).double()
    torch.testing.assert_close(
        shrunk_factors(chi_square(torch.full((3,), 5000.0).double(), s2), [1, 1, -1]),
        s2,
        rtol=0.02,
        atol=0,
    )


def test_with_few_people_scalars_lend_each_other_strength() -> None:
    """Seven scalars of 12 people, all of factor 2: each alone is off by 40 %, together by less."""
    g = torch.Generator().manual_seed(0)
    residuals = 2**0.5 * torch.randn(20, 7, 12, generator=g).double()
    s2 = residuals.square().mean(-1)
    n = torch.full((7,), 12.0).double()
    together = torch.stack([shrunk_factors(chi_square(n, row), [1] * 7) for row in s2])
    alone, shrunk = ((x / 2).log().square().mean().sqrt() for x in (s2, together))
    assert alone > 0.38
    assert shrunk < 0.6 * alone


def test_a_scalar_that_nobody_has_gets_what_the_others_share() -> None:
    n = torch.tensor([300.0, 300.0, 0.0]).double()
    factors = shrunk_factors(chi_square(n, torch.tensor([2.0, 2.0, 1.0]).double()), [1, 1, 1])
    assert float(factors[2]) == pytest.approx(2, rel=0.25)


def test_one_gross_error_does_not_widen_everybody() -> None:
    """Of 100 people one is entered as 40 standard deviations off."""
    z0, observed = people(100, seed=3)
    clean = fit_tempers(too_sure(), z0, observed)["age"]
    z0["age"][7] = 12.0
    soiled = fit_tempers(too_sure(), z0, observed)["age"]
    assert soiled.images_known == pytest.approx(clean.images_known, rel=0.05)


def test_tempers_travel_with_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {"encoding": {"kind": "identity"}, "denoiser": {"channels": [32, 32]}}
    )
    model = MetaVoxel(schema(age=AGE, sex=SEX), config, {"age": LinearScaling(0, 100, 0.5)}).eval()
    known = {"image": torch.rand(2, 1, 8, 8, 8)}
    plain = stated_spread(model, ["age"], known, 2, seed=0)["age"]
    model.tempers = {"age": Temper(4.0, 1.0)}
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.tempers == model.tempers
    spread = stated_spread(loaded, ["age"], known, 2, seed=0)["age"]
    torch.testing.assert_close(spread, 2 * plain, rtol=1e-5, atol=0)
    (tmp_path / "model" / "tempers.json").unlink()  # as in a folder of an older version
    write_checksums(tmp_path / "model")
    assert load_model(tmp_path / "model").tempers == {}


def test_a_tempered_model_is_not_tempered_again() -> None:
    model = too_sure()
    model.tempers = {"age": Temper(2.0, 1.0)}
    with pytest.raises(ValueError, match="once"):
        fit_tempers(model, *people(4, seed=0))


def test_the_factor_goes_from_one_question_to_the_other_with_the_image() -> None:
    temper = Temper(images_known=4.0, images_unknown=0.25)
    share = known_share(torch.tensor([0.0, 1.0, 1 / 101]))
    torch.testing.assert_close(share, torch.tensor([0.0, 1.0, 0.5]))
    torch.testing.assert_close(temper.factor(share)[:, 0], torch.tensor([0.25, 4.0, 1.0]))
