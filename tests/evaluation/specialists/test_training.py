"""Specialists: they learn what can be learnt, resume bit for bit, and answer in their unit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.specialists.config import SpecialistConfig
from metavoxel.evaluation.specialists.specialist import load_specialist
from metavoxel.evaluation.specialists.training import train_specialist
from metavoxel.schema import Categorical, Continuous, Image, Schema
from metavoxel.training.augment import NO_AUGMENTATION

NETWORKS = ("densenet", "vit", "resnet")
SMALL = {
    "densenet": {"init_features": 8, "growth_rate": 8, "blocks": (2, 2)},
    "vit": {"patch": 4, "hidden_size": 24, "layers": 2, "heads": 2},
    "resnet": {"layers": (1, 1, 1, 1), "width": 8, "joint_features": 16},
    "dropout": 0.0,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "ema_decay": 0.9,
    "augmentation": NO_AUGMENTATION,
}


def schema(*grid: int) -> Schema:
    return Schema(
        variables={
            "image": Image(shape=grid, spacing=(4.0,) * len(grid)),
            "age": Continuous(unit="years"),
            "sex": Categorical(labels=("F", "M")),
            "weight": Continuous(unit="kg"),
        }
    )


def table(n: int, seed: int, *grid: int) -> Table:
    """People of 30 to 80 years, who brighten with age on the left; men are bright on the right."""
    draw = np.random.default_rng(seed)
    age, sex = draw.uniform(30, 80, n), draw.integers(0, 2, n).astype(float)
    image = 0.2 * draw.random((n, 1, *grid), dtype=np.float32)
    half = grid[0] // 2
    for i in range(n):
        image[i, :, :half] += 0.7 * (age[i] - 30) / 50
        image[i, :, half:] += 0.4 * sex[i]
    names = tuple(f"sub-{i}" for i in range(n))
    scalars = {"age": age, "sex": sex, "weight": draw.normal(70, 10, n)}
    return Table({"image": image}, scalars, names, names)


def config(network: str, question: str, **changes: object) -> SpecialistConfig:
    settings = {**SMALL, "steps": 60, "validate_every": 10, **changes}
    return SpecialistConfig.model_validate({"network": network, "question": question, **settings})


@pytest.mark.parametrize("network", NETWORKS)
def test_a_number_that_the_image_shows_is_learnt(network: str, tmp_path: Path) -> None:
    """Mean absolute error below a third of the population mean's, 12.5 years."""
    settings, test = config(network, "age | image, sex"), table(40, 2, 16, 16)
    specialist = train_specialist(
        settings, schema(16, 16), table(64, 0, 16, 16), table(24, 1, 16, 16), tmp_path, 0
    )
    answers = specialist.answers(test)
    assert answers.points["age"].shape == (40,) and not answers.probabilities
    assert answers.seconds > 0
    assert np.abs(answers.points["age"] - test.scalars["age"]).mean() < 4


@pytest.mark.parametrize("network", NETWORKS)
def test_a_label_that_the_volume_shows_is_learnt(network: str, tmp_path: Path) -> None:
    settings, test = config(network, "sex | image, age", steps=40), table(40, 2, 8, 8, 8)
    specialist = train_specialist(
        settings, schema(8, 8, 8), table(64, 0, 8, 8, 8), table(24, 1, 8, 8, 8), tmp_path, 0
    )
    answers = specialist.answers(test)
    probabilities = answers.probabilities["sex"]
    assert probabilities.shape == (40, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(answers.points["sex"], probabilities.argmax(1))
    assert (answers.points["sex"] == test.scalars["sex"]).mean() > 0.9


class KilledError(Exception):
    pass


@pytest.mark.parametrize("network", NETWORKS)
def test_a_killed_training_goes_on_bit_for_bit(network: str, tmp_path: Path) -> None:
    changes = {"steps": 12, "validate_every": 4, "checkpoint_every": 2, "dropout": 0.3}
    settings = config(network, "age | image, sex", augmentation={}, **changes)
    data = schema(16, 16), table(20, 0, 16, 16), table(8, 1, 16, 16)

    def die(done: int, of: int) -> None:
        if done == 7:
            raise KilledError

    with pytest.raises(KilledError):
        train_specialist(settings, *data, tmp_path / "killed", 3, die)
    steps: list[int] = []
    train_specialist(settings, *data, tmp_path / "killed", 3, lambda done, of: steps.append(done))
    train_specialist(settings, *data, tmp_path / "whole", 3)
    assert steps[0] == 7
    for name in ("weights.safetensors", "best.json", "specialist.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_that_someone_sent_runs_no_code(tmp_path: Path) -> None:
    """Nor is one taken that is damaged; what is there stays."""
    settings = config("resnet", "age | image", steps=4, validate_every=2, checkpoint_every=2)
    data = schema(16, 16), table(8, 0, 16, 16), table(4, 1, 16, 16)

    def die(done: int, of: int) -> None:
        if done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_specialist(settings, *data, tmp_path, 0, die)
    checkpoint = tmp_path / "last.ckpt"
    whole = torch.load(checkpoint, weights_only=True)

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    for sent in (Hostile(), whole | {"hparams_name": Hostile()}):
        torch.save(sent, checkpoint)
        with pytest.raises(MetaVoxelError, match=r"last\.ckpt: damaged, or not a checkpoint"):
            train_specialist(settings, *data, tmp_path, 0)
        assert not (tmp_path / "made").exists()
    torch.save(whole, checkpoint)
    train_specialist(settings, *data, tmp_path, 0)
    (tmp_path / "specialist.json").write_text('{"config": 3}')
    with pytest.raises(MetaVoxelError, match=r"specialist\.json, key config"):
        train_specialist(settings, *data, tmp_path, 0)


def test_a_finished_training_is_read_and_one_of_other_settings_refused(tmp_path: Path) -> None:
    settings = config("resnet", "age | image", steps=2, validate_every=1)
    people, others = table(8, 0, 16, 16), table(4, 1, 16, 16)
    first = train_specialist(settings, schema(16, 16), people, others, tmp_path, 0)

    def never(done: int, of: int) -> None:
        raise AssertionError("it trains again")

    again = train_specialist(settings, schema(16, 16), people, others, tmp_path, 0, never)
    last = load_specialist(tmp_path, "last").answers(others).points["age"]
    assert np.isfinite(last).all()
    np.testing.assert_array_equal(
        first.answers(others).points["age"], again.answers(others).points["age"]
    )
    slower = settings.model_copy(update={"learning_rate": 1e-5})
    with pytest.raises(MetaVoxelError, match="specialist of other settings"):
        train_specialist(slower, schema(16, 16), people, others, tmp_path, 0)
    with pytest.raises(MetaVoxelError, match="specialist of other seed"):
        train_specialist(settings, schema(16, 16), people, others, tmp_path, 1)
    with pytest.raises(MetaVoxelError, match="specialist of other data"):
        train_specialist(settings, schema(16, 16), others, others, tmp_path, 0)


def test_records_without_the_target_change_nothing(tmp_path: Path) -> None:
    settings = config("resnet", "age | image", steps=3, validate_every=1)
    people, others = table(8, 0, 16, 16), table(4, 1, 16, 16)
    longer = table(8, 0, 16, 16)
    longer.scalars["age"][5:] = np.nan
    shorter = Table(
        {"image": people.images["image"][:5]},
        {v: x[:5] for v, x in people.scalars.items()},
        people.records[:5],
        people.subjects[:5],
    )
    for name, training in {"longer": longer, "shorter": shorter}.items():
        train_specialist(settings, schema(16, 16), training, others, tmp_path / name, 0)
    weights = [tmp_path / name / "weights.safetensors" for name in ("longer", "shorter")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("network", NETWORKS)
def test_a_missing_known_number_counts_as_the_training_mean(network: str, tmp_path: Path) -> None:
    settings = config(network, "age | image, weight", steps=2, validate_every=1)
    people, others = table(8, 0, 16, 16), table(4, 1, 16, 16)
    specialist = train_specialist(settings, schema(16, 16), people, others, tmp_path, 0)
    said = []
    for value in (np.nan, people.scalars["weight"].mean(), 150.0):
        others.scalars["weight"][:] = value
        said.append(specialist.answers(others).points["age"])
    np.testing.assert_allclose(said[0], said[1], rtol=1e-6)
    assert np.abs(said[0] - said[2]).max() > 1e-4  # the known number is read at all


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("age, sex | image", "a specialist answers one scalar"),
        ("image | age", "a specialist answers one scalar"),
        ("age | sex", "a specialist reads an image. Add image"),
        ("age | scan", 'There is no variable "scan"'),
    ],
)
def test_a_question_for_no_specialist_is_refused(
    question: str, sentence: str, tmp_path: Path
) -> None:
    people = table(4, 0, 16, 16)
    with pytest.raises(MetaVoxelError, match=sentence):
        train_specialist(
            config("vit", question), schema(16, 16), people, people, tmp_path / "new", 0
        )
    assert not (tmp_path / "new").exists()


def test_a_target_that_nobody_has_is_refused(tmp_path: Path) -> None:
    people, others = table(4, 0, 16, 16), table(4, 1, 16, 16)
    others.scalars["age"][:] = np.nan
    with pytest.raises(MetaVoxelError, match="No validation record has age"):
        train_specialist(config("vit", "age | image"), schema(16, 16), people, others, tmp_path, 0)


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    settings = config("resnet", "age | image", steps=1, validate_every=1)
    people = table(4, 0, 16, 16)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_specialist(settings, schema(16, 16), people, people, tmp_path, 0)
    assert torch.equal(torch.rand(3), expected)
