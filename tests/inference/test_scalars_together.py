"""A model whose scalars speak of one another by their joint distribution where no image is seen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from folders import AGE, SEX, schema
from metavoxel.diffusion.together import JointNormal
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.errors import MetaVoxelError
from metavoxel.inference.ask import ask
from metavoxel.inference.spread import stated_spread
from metavoxel.inference.temper import fit_shares
from metavoxel.model import MetaVoxel, ModelConfig
from metavoxel.model_files import write_checksums
from metavoxel.model_folder import load_model, save_model

HEIGHT = {"kind": "continuous", "unit": "cm", "range": [100, 200]}
# Of age, height and whether it is a man, in the units in which they are encoded.
CORRELATION = np.array([[1, -0.3, 0.1], [-0.3, 1, 0.6], [0.1, 0.6, 1]])
STD = np.array([0.5, 0.2, 0.5])
MEAN = np.array([0.1, 0.3, 0.5])


def joint_normal() -> JointNormal:
    elements = np.array([[1, 0, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])  # a man is no woman
    covariance = elements @ (np.outer(STD, STD) * CORRELATION) @ elements.T
    covariance += np.diag([0, 0, 1e-4, 1e-4])
    mean = elements @ MEAN + [0, 0, 1, 0]
    return JointNormal({"age": 1, "height": 1, "sex": 2}, mean.tolist(), covariance.tolist())


def model(together: JointNormal | None, says_something: bool = False) -> MetaVoxel:
    torch.manual_seed(0)
    settings = {
        "encoding": {"kind": "identity"},
        "denoiser": {
            "channels": [8, 8], "groups": 4, "head_channels": 8, "scalar_head_channels": 8
        },
    }  # fmt: skip
    scalings = {
        v: LinearScaling(low, high, std, ((1.0, mean, std),))
        for v, low, high, std, mean in (
            ("age", 0, 100, STD[0], MEAN[0]),
            ("height", 100, 200, STD[1], MEAN[1]),
        )
    }
    variables = schema(age=AGE, height=HEIGHT, sex=SEX)
    made = MetaVoxel(variables, ModelConfig.model_validate(settings), scalings, together).eval()
    for v, head in made.denoiser.heads.items():
        for weight in head.parameters():
            torch.nn.init.zeros_(weight)
        with torch.no_grad():
            silent = torch.tensor([0.0, 0.0] if v == "sex" else [0.0, 30.0])
            loud = torch.tensor([2.0, -2.0] if v == "sex" else [0.5, -3.0])
            head.skip.bias.copy_(loud if says_something else silent)
    return made


def test_scalars_that_are_drawn_of_nobody_depend_on_each_other_as_the_cohort_s_do() -> None:
    """By a network that adds nothing: the numbers' correlation, and what a label shifts them by,
    which for one label as likely as the other is that of the point-biserial correlation."""
    n = 4000
    drawn = ask(model(joint_normal()), ["age", "height", "sex"], {}, n, 1, seed=0).samples
    found = np.corrcoef([drawn[v][:, 0].numpy() for v in ("age", "height", "sex")])
    # A linear discriminant's odds are logistic; as near to the linear ones as 0.02 here.
    assert found == pytest.approx(CORRELATION, abs=4 / math.sqrt(n) + 0.02)


def test_of_nothing_known_the_network_says_nothing() -> None:
    for says_something in (False, True):
        said = model(joint_normal(), says_something)
        point = ask(said, ["age", "sex"], {}, 1, 1, seed=0).point
        assert float(point["age"]) == pytest.approx(50 * (1 + MEAN[0]), abs=0.1)
        assert point["sex"][0].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
        spread = stated_spread(said, ["age"], {}, 1, seed=0)["age"]
        assert float(spread) == pytest.approx(50 * STD[0], rel=1e-3)


def test_the_share_of_the_normal_is_that_which_held_out_people_find_right() -> None:
    """People drawn of the normal, and people who are as the network says they are."""
    truth = model(joint_normal())
    drawn = ask(truth, ["age", "height", "sex"], {}, 200, 1, seed=3).samples
    people = {v: x[:, 0].float() for v, x in drawn.items()}
    observed = {v: torch.ones(200, dtype=torch.bool) for v in people}
    observed["image"] = torch.zeros(200, dtype=torch.bool)
    loud = model(joint_normal(), True)

    def share(values: dict[str, torch.Tensor]) -> float:
        z0 = loud.encode(values) | {"image": torch.zeros(200, 1, 8, 8, 8)}
        without, beside = fit_shares(loud, z0, observed)
        # Nobody has an image: the prior's mean.
        assert beside == pytest.approx(dict.fromkeys(people, 0.25), abs=0.02)
        return without

    assert share(people) > 0.95
    alike = {"age": 75 + 4 * torch.randn(200), "height": 175 + 2 * torch.randn(200)}
    assert share(alike | {"sex": torch.zeros(200)}) < 0.3  # against the prior
    observed |= {v: torch.zeros(200, dtype=torch.bool) for v in people}
    assert share(people) == pytest.approx(0.8, abs=0.02)  # the prior's mean
    assert loud.together is not None and loud.together.share == 1


def test_beside_images_each_scalar_has_a_share_of_its_own() -> None:
    """The network says that all are old women; their heights are as the normal has them."""
    loud, n = model(joint_normal(), True), 200
    drawn = ask(model(joint_normal()), ["height"], {}, n, 1, seed=3).samples
    people = {"height": drawn["height"][:, 0].float(), "sex": torch.zeros(n)}
    people["age"] = 75 + 4 * torch.randn(n, generator=torch.Generator().manual_seed(0))
    # Women's heights, lower than all people's.
    people["height"] -= 100 * CORRELATION[1, 2] * STD[1] / 2
    z0 = loud.encode(people) | {"image": torch.zeros(n, 1, 8, 8, 8)}
    _, beside = fit_shares(loud, z0, {v: torch.ones(n, dtype=torch.bool) for v in z0})
    assert beside["age"] < 0.5 and beside["height"] > 0.8


def test_a_share_weighs_the_two_and_an_image_leaves_the_network_alone() -> None:
    known = {"height": torch.tensor([185.0])}

    def age(share: float, given: dict[str, torch.Tensor]) -> tuple[float, float]:
        made = model(joint_normal(), True)
        assert made.together is not None
        made.together.share = share
        point = ask(made, ["age"], given, 1, 1, seed=0).point["age"]
        return float(point), float(stated_spread(made, ["age"], made.encode(given), 1, 0)["age"])

    slope = CORRELATION[0, 1] * STD[0] / STD[1]
    foretold = 50 * (1 + MEAN[0] + slope * (0.7 - MEAN[1]))
    assert age(1.0, known) == pytest.approx((foretold, 50 * STD[0] * (1 - 0.3**2) ** 0.5), rel=1e-3)
    image = {"image": torch.rand(1, 1, 8, 8, 8)}
    alone = ask(model(None, True), ["age"], image, 1, 1, seed=0).point["age"]
    assert age(1.0, image)[0] == pytest.approx(float(alone), rel=1e-4)
    assert foretold < age(0.5, known)[0] < age(0.0, known)[0]


def test_it_is_kept_in_the_model_folder_and_older_folders_have_none(tmp_path: Path) -> None:
    folder, made = tmp_path / "model", model(joint_normal(), True)
    save_model(made, folder)
    known = {"height": torch.tensor([185.0])}
    before, after = (
        ask(m, ["age", "sex"], known, 1, 1, seed=0).point for m in (made, load_model(folder))
    )
    assert all(torch.equal(before[v], after[v]) for v in before)
    plain = model(None, True)
    save_model(plain, tmp_path / "older")
    config = yaml.safe_load((tmp_path / "older" / "config.yaml").read_text())
    del config["diffusion"]["scalars_together"]
    config["denoiser"]["scalars_alone"] = False  # a setting that is gone
    (tmp_path / "older" / "config.yaml").write_text(yaml.safe_dump(config))
    write_checksums(tmp_path / "older")
    older = load_model(tmp_path / "older")
    assert older.together is None and not older.config.diffusion.scalars_together
    encoding = json.loads((folder / "encoding.json").read_text())
    encoding["scalars"]["covariance"] = encoding["scalars"]["covariance"][:2]
    (folder / "encoding.json").write_text(json.dumps(encoding))
    write_checksums(folder)
    with pytest.raises(MetaVoxelError, match=r"encoding\.json, key scalars: .*as many elements"):
        load_model(folder)
