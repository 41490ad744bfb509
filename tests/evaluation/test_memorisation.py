"""Copies are found, strangers are not, and an attack on a loss knows what its losses know."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from folders import AGE, SEX, scores
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.membership import (
    answer_losses,
    image_losses,
    image_membership,
    membership,
)
from metavoxel.evaluation.memorisation import (
    LATENT,
    VOXELS,
    Memorisation,
    compare,
    memorisation,
    pairs_figure,
    preference,
)
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.schema import parse_schema

RNG = np.random.default_rng(0)
GRID = (8, 8)


@pytest.fixture(autouse=True)
def _the_same_draws_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(2).bit_generator.state


def model(seed: int = 0) -> MetaVoxel:
    torch.manual_seed(seed)
    image = {"kind": "image", "shape": [*GRID], "spacing": [2, 2]}
    schema = parse_schema({"variables": {"image": image, "age": AGE, "sex": SEX}}, "schema")
    small = {"channels": [16, 16], "groups": 4, "head_channels": 8, "scalar_head_channels": 8}
    config = ModelConfig.model_validate({"encoding": {"kind": "identity"}, "denoiser": small})
    return MetaVoxel(schema, config, {"age": scores(0, 100)}).eval()


def people(n: int) -> np.ndarray:
    return RNG.random((n, 1, *GRID), dtype=np.float32)


def near(images: np.ndarray) -> np.ndarray:
    return (images + 0.02 * RNG.normal(size=images.shape)).astype(np.float32)


def look_for(generated: np.ndarray, training: np.ndarray, mirror: int | None) -> Memorisation:
    return memorisation(model(), "image", training, people(20), generated, 0, mirror=mirror)


@pytest.mark.parametrize("space", [LATENT, VOXELS])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_generator_that_returns_its_training_images_is_flagged_entirely(
    space: str, flipped: bool
) -> None:
    training = people(40)
    copied = RNG.permutation(40)[:12]
    generated = near(np.flip(training, 3) if flipped else training)[copied]
    found = look_for(generated, training, 1 if flipped else None).spaces[space]
    assert {p.generated: p.training for p in found.copies} == dict(enumerate(copied))
    assert found.preference.share == 1
    assert found.preference.p < 0.01


def test_a_mirrored_copy_is_none_where_training_flips_nothing() -> None:
    training = people(40)
    found = look_for(near(np.flip(training, 3)), training, None)
    assert len(found.spaces[LATENT].copies) <= 5


def test_strangers_are_flagged_at_the_stated_rate_and_prefer_nobody() -> None:
    """The mean over 60 cohorts, whose standard error is small beside the bounds."""
    flagged, shares, ps = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        training, held_out, generated = (rng.normal(size=(n, 6)) for n in (60, 19, 40))
        found = compare([training], [held_out], generated, seed)
        assert found.false_alarm == pytest.approx(1 / 20)
        flagged.append(len(found.copies) / 40)
        shares.append(found.preference.share)
        ps.append(found.preference.p)
    assert np.mean(flagged) == pytest.approx(1 / 20, abs=0.02)
    assert np.mean(shares) == pytest.approx(60 / 79, abs=0.03)
    assert np.mean(np.array(ps) < 0.1) < 0.25


def test_smoother_images_are_nearer_to_everybody_and_copy_nobody() -> None:
    """At a quarter of their size, Gaussian images are at 0.73 of a stranger's distance."""
    rng = np.random.default_rng(0)
    training, held_out, generated = (rng.normal(size=(n, 200)) for n in (60, 60, 60))
    found = compare([training], [held_out], generated / 4, 0)
    assert len(found.copies) <= 5
    assert (found.generated.distance < found.held_out.distance.min()).all()
    assert found.preference.p > 0.05


def test_a_preference_by_hand() -> None:
    """Two of three images are nearest to the one training person: 1/2 by chance of two people."""
    said = preference(np.array([[1.0], [1], [3]]), np.array([[2.0], [2], [2]]), 0)
    assert (said.share, said.expected) == (2 / 3, 1 / 2)
    assert said.p == pytest.approx(1 / 2, abs=0.03)


def test_what_is_shown_and_written_is_what_was_found(tmp_path) -> None:
    training = people(30)
    generated = np.concatenate([people(3), near(training[:2])])
    found = look_for(generated, training, None)
    written = json.loads(json.dumps(found.to_json()))
    latent = written["spaces"][LATENT]
    assert latent["flagged"] == 2
    assert {(c["generated"], c["training"]) for c in latent["copies"]} == {(3, 0), (4, 1)}
    fig = pairs_figure(found.spaces[LATENT], training, generated, 4)
    captions = [ax.texts[0].get_text() for ax in fig.axes[-4:]]
    assert [c.endswith("(flagged)") for c in captions] == [True, True, False, False]
    plt.close(fig)


@pytest.mark.parametrize(
    ("counts", "grid", "said"), [((1, 5, 5), GRID, "2 training"), ((5, 5, 5), (4, 8), "generated")]
)
def test_too_few_images_and_another_grid_are_refused(
    counts: tuple[int, int, int], grid: tuple[int, int], said: str
) -> None:
    n, m, g = counts
    with pytest.raises(MetaVoxelError, match=said):
        memorisation(model(), "image", people(n), people(m), np.zeros((g, 1, *grid)), 0)


def test_an_auc_is_the_share_of_pairs_in_which_the_training_record_has_the_smaller_loss() -> None:
    training, held_out = np.array([1.0, 2, 3]), np.array([2.0, 4, np.nan])
    won = [(a < b) + (a == b) / 2 for a in training for b in held_out[:2]]
    score = membership(training, held_out)
    assert score.value == pytest.approx(np.mean(won))
    assert score.n == 5


def test_equal_losses_tell_nothing() -> None:
    score = membership(np.ones(8), np.ones(5))
    assert (score.value, score.low, score.high) == (0.5, 0.5, 0.5)


def test_an_untrained_network_tells_nobody_apart() -> None:
    score = image_membership(model(), "image", people(40), people(40), 0)
    assert score.low < 0.5 < score.high


def test_everybody_meets_the_same_noise_whoever_else_is_asked_about() -> None:
    network, images = model(), people(3)
    together = image_losses(network, "image", images, 0)
    alone = image_losses(network, "image", images[1:2], 0)
    assert together[1] == pytest.approx(alone[0], rel=1e-4)
    same = image_losses(network, "image", images[[0, 0]], 0)
    assert same[0] == pytest.approx(same[1], rel=1e-5)


def test_a_network_overfitted_on_four_records_gives_them_away() -> None:
    network, training, held_out = model(), people(4), people(12)
    generator = torch.Generator().manual_seed(0)
    z0 = network.encode({"image": torch.from_numpy(training)})
    z0 |= network.encode({"age": torch.full((4,), 40.0), "sex": torch.zeros(4, dtype=torch.long)})
    unknown, known = torch.zeros(16, dtype=torch.bool), torch.ones(16, dtype=torch.bool)
    observed = {"image": known, "age": unknown, "sex": unknown}
    repeated = {v: x.repeat(4, *[1] * (x.ndim - 1)) for v, x in z0.items()}
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        t = {"image": torch.randint(1, network.process.T, (16,), generator=generator)}
        t |= {v: torch.full((16,), network.process.T) for v in ("age", "sex")}
        loss, _ = network.loss(repeated, observed, generator, t)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert image_membership(network, "image", training, held_out, 0).value > 0.95


def test_the_losses_of_answers_are_those_of_the_one_evaluation() -> None:
    """A network that says what it says of everyone: the loss is then that of the truth alone."""
    images = {"image": np.repeat(people(1), 3, axis=0)}
    table = Table(images, {"age": np.array([20.0, 80, np.nan]), "sex": np.array([0.0, 1, np.nan])})
    losses = answer_losses(model(), table, 0)
    a, b = np.sqrt(losses["age"][:2])
    assert a + b == pytest.approx(60, rel=1e-3)  # the answer lies between the two
    assert np.exp(-losses["sex"][:2]).sum() == pytest.approx(1, rel=1e-3)  # p(F) + p(M)
    assert np.isnan(losses["age"][2])
    assert np.isnan(losses["sex"][2])
