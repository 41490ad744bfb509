"""One network for every question about scalars: it uses what is known, whatever that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.specialists.config import MultitaskConfig
from metavoxel.evaluation.specialists.encoding import fit_flagged_inputs
from metavoxel.evaluation.specialists.multitask import (
    MultitaskSpecialist,
    _Records,
    load_multitask,
    train_multitask,
)
from metavoxel.evaluation.specialists.spread import with_validation_spread
from metavoxel.evaluation.systems import SystemAnswers
from metavoxel.inference.query import parse_question
from metavoxel.schema import Categorical, Continuous, Image, Schema
from metavoxel.training.augment import NO_AUGMENTATION

SCHEMA = Schema(
    variables={
        "image": Image(shape=(16, 16), spacing=(4.0, 4.0)),
        "age": Continuous(unit="years"),
        "group": Categorical(labels=("A", "B", "C")),
        "weight": Continuous(unit="kg"),
    }
)


def table(n: int, seed: int) -> Table:
    """The image shows the age; the weight follows from the group, which it does not show."""
    draw = np.random.default_rng(seed)
    age, group = draw.uniform(30, 80, n), draw.integers(0, 3, n).astype(float)
    image = 0.2 * draw.random((n, 1, 16, 16), dtype=np.float32)
    image += (0.7 * (age - 30) / 50)[:, None, None, None].astype(np.float32)
    weight = 50 + 20 * group + draw.normal(0, 2, n)
    names = tuple(f"sub-{i}" for i in range(n))
    return Table({"image": image}, {"age": age, "group": group, "weight": weight}, names, names)


def config(**changes: object) -> MultitaskConfig:
    settings = {
        "steps": 150,
        "validate_every": 25,
        "resnet": {"layers": (1, 1, 1, 1), "width": 8, "joint_features": 32},
        "dropout": 0.0,
        "batch_size": 32,
        "learning_rate": 5e-3,
        "ema_decay": 0.9,
        "augmentation": NO_AUGMENTATION,
    }
    return MultitaskConfig.model_validate({**settings, **changes})


def trained(folder: Path, people: Table | None = None, **changes: object) -> MultitaskSpecialist:
    return train_multitask(
        config(**changes), SCHEMA, people or table(128, 0), table(32, 1), folder, 0
    )


def error(specialist: MultitaskSpecialist, question: str, test: Table) -> float:
    """Mean absolute error of the first variable that is asked."""
    asked = parse_question(question)
    said = specialist.answers(asked, test)
    v = asked.asked[0]
    return float(np.abs(said.points[v] - test.scalars[v]).mean())


def test_what_is_known_is_used_and_what_is_not_is_not(tmp_path: Path) -> None:
    """Of the weight the group says all but 2 kg, and the image nothing: the mean errs by 13 kg."""
    specialist, test = trained(tmp_path, table(512, 0), dropout=0.2), table(100, 2)
    assert error(specialist, "age | image", test) < 4
    assert error(specialist, "weight | image, group", test) < 8
    assert error(specialist, "weight | image", test) > 10
    assert error(specialist, "group | image, weight", test) < 0.25
    said = specialist.answers(parse_question("group, weight | image"), test)
    assert said.probabilities["group"].shape == (100, 3)
    np.testing.assert_allclose(said.probabilities["group"].sum(1), 1)
    assert set(said.points) == {"group", "weight"}


def test_a_known_value_that_is_missing_is_not_known(tmp_path: Path) -> None:
    specialist, test = trained(tmp_path, steps=2, validate_every=1), table(10, 2)
    given, asked = (parse_question(q) for q in ("age | image, weight", "age | image"))
    before = specialist.answers(given, test).points["age"]
    test.scalars["weight"][:] = np.nan
    after = specialist.answers(given, test).points["age"]
    np.testing.assert_array_equal(after, specialist.answers(asked, test).points["age"])
    assert np.abs(after - before).max() > 1e-4


def test_every_number_of_known_scalars_is_drawn_alike() -> None:
    """0 to 3 of three scalars, a quarter of the records each; the rest that is there is asked."""
    people = table(4000, 0)
    people.scalars["age"][::2] = np.nan
    records = _Records.of(people, fit_flagged_inputs(SCHEMA, people), 1)
    inputs, (_, asked) = records.drawn(torch.arange(4000), torch.Generator().manual_seed(0))
    assert not asked[::2, 0].any()
    counts = asked[1::2].sum(1).bincount(minlength=4) / 2000
    assert (counts - 0.25).abs().max() < 4 * (0.25 * 0.75 / 2000) ** 0.5
    flags = inputs[:, [1, 5, 7]] > 0  # age and its flag, three labels and theirs, weight and its
    assert torch.equal(flags[1::2], ~asked[1::2])
    assert not flags[::2, 0].any()


class KilledError(Exception):
    pass


def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    changes = {"steps": 10, "validate_every": 4, "checkpoint_every": 2, "dropout": 0.3}
    settings = config(augmentation={}, **changes)
    data = SCHEMA, table(40, 0), table(8, 1)

    def die(done: int, of: int) -> None:
        if done == 7:
            raise KilledError

    with pytest.raises(KilledError):
        train_multitask(settings, *data, tmp_path / "killed", 3, die)
    train_multitask(settings, *data, tmp_path / "killed", 3)
    train_multitask(settings, *data, tmp_path / "whole", 3)
    for name in ("weights.safetensors", "best.json", "specialist.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    test, question = table(5, 2), parse_question("age | image, group")
    read = load_multitask(tmp_path / "whole").answers(question, test)
    again = train_multitask(settings, *data, tmp_path / "whole", 3).answers(question, test)
    np.testing.assert_array_equal(read.points["age"], again.points["age"])
    with pytest.raises(MetaVoxelError, match="specialist of other seed"):
        train_multitask(settings, *data, tmp_path / "whole", 4)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("age | group", "the multi-task specialist reads every image. Add image"),
        ("image | age", "the multi-task specialist answers scalars. Ask for age, group, weight"),
    ],
)
def test_a_question_that_it_cannot_answer_is_refused(
    question: str, sentence: str, tmp_path: Path
) -> None:
    specialist = trained(tmp_path, steps=1, validate_every=1)
    with pytest.raises(MetaVoxelError, match=sentence):
        specialist.answers(parse_question(question), table(4, 2))


def test_records_without_any_scalar_are_refused(tmp_path: Path) -> None:
    people = table(4, 0)
    for values in people.scalars.values():
        values[:] = np.nan
    with pytest.raises(MetaVoxelError, match="No training record has any of age, group, weight"):
        trained(tmp_path, people)


def test_the_spread_is_that_of_the_validation_residuals() -> None:
    """Residuals of 3, -3 and 6 years and one unknown: a variance of 18."""
    people = table(4, 0)
    people.scalars["age"][3] = np.nan
    residuals = np.array([3.0, -3.0, 6.0, 1.0])
    held_out = SystemAnswers(
        {"age": people.scalars["age"] + residuals, "group": people.scalars["group"]}
    )
    said = SystemAnswers(
        {"age": np.arange(5.0), "group": np.zeros(5)}, probabilities={"group": np.ones((5, 3)) / 3}
    )
    spread = with_validation_spread(said, held_out, people).spreads
    assert set(spread) == {"age"}
    np.testing.assert_allclose(spread["age"], np.full(5, np.sqrt(18)))
