"""The face of a model: every kind of question, on an untrained network, and the model folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import metavoxel as mv
from folders import blob, scores, write_nifti
from metavoxel.cli import main
from metavoxel.data.images import read_scan
from metavoxel.data.synthetic import samples_folder, write_samples
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.errors import MetaVoxelError
from metavoxel.inference import limits
from metavoxel.inference.answers import ContinuousAnswer
from metavoxel.inference.counterfactual import counterfactual
from metavoxel.inference.selftest import selftest_failures, selftest_record
from metavoxel.info import describe
from metavoxel.model import MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_files import json_text, write_checksums
from metavoxel.model_folder import load_model, save_model
from metavoxel.schema import parse_schema
from metavoxel.training.config import read_config

VARIABLES = {
    "image": {"kind": "image", "shape": [16, 16, 16], "spacing": [8, 8, 8]},
    "age": {"kind": "continuous", "unit": "years", "range": [20, 90]},
    "sex": {"kind": "categorical", "labels": ["F", "M"]},
    "group": {"kind": "categorical", "labels": ["a", "b", "c"]},
}
SMALL = {
    "encoding": {"kind": "kl", "factor": 4, "patch": 2, "channels": [16, 16], "latent_channels": 4},
    "denoiser": {
        "channels": [16, 32],
        "groups": 8,
        "head_channels": 16,
        "scalar_head_channels": 16,
    },
    "sampling": {"steps": 3, "samples": 5},
}
AFFINE = np.array([[-4.0, 0, 0, 60], [0, 4, 0, -64], [0, 0, 5, -60], [0, 0, 0, 1]])
GREY = np.linspace(0, 1, 16**3, dtype=np.float32).reshape(16, 16, 16)
HALF = np.arange(16**3).reshape(16, 16, 16) < 16**3 // 2


def build(**changes: object) -> MetaVoxel:
    schema = parse_schema({"variables": VARIABLES}, "test")
    torch.manual_seed(0)
    config = ModelConfig.model_validate({**SMALL, **changes})
    diffuse = config.diffusion.scalars == "diffusion"
    age = LinearScaling(20, 90, 0.5) if diffuse else scores(20, 90)
    return MetaVoxel(schema, config, {"age": age}).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(build(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def model(folder: Path) -> mv.Model:
    return mv.load(folder)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).random((32, 32, 26), dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def status(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `metavoxel WORDS` in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["metavoxel", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_saved_model_is_the_model(folder: Path) -> None:
    model = build()
    for a, b in ((model, load_model(folder)), (load_model(folder), load_model(folder))):
        state = b.state_dict()
        assert all(torch.equal(x, state[k]) for k, x in a.state_dict().items())
    names = {p.name for p in folder.iterdir()}
    assert {"schema.json", "config.yaml", "encoding.json"} < names


def test_scalars_given_a_scan(model: mv.Model, scan: Path) -> None:
    """The whole distribution, in one evaluation; samples where they are asked for."""
    answer = model.ask(f"age, sex | image={scan}")
    assert 0 <= answer["sex"].probabilities["F"] <= 1
    assert sum(answer["sex"].probabilities.values()) == pytest.approx(1)
    age = answer["age"]
    assert age.samples.shape == (0,) and age.unit == "years"
    low, high = age.interval(0.9)
    assert low < age.mean < high and age.std > 0
    assert age.cdf(high) - age.cdf(low) == pytest.approx(0.9, abs=1e-3)
    drawn = model.ask(f"age, sex | image={scan}", samples=4000)["age"]
    assert drawn.mean == age.mean
    assert drawn.samples.mean() == pytest.approx(age.mean, abs=4 * age.std / 4000**0.5)


def test_one_evaluation_needs_no_luck(model: mv.Model, scan: Path) -> None:
    first, second = (model.ask("age", {"image": scan}, seed=seed)["age"] for seed in (0, 1))
    assert (first.mean, first.std) == (second.mean, second.std)


def test_a_scalar_that_diffuses_has_a_spread_by_its_samples_alone(
    tmp_path: Path, scan: Path
) -> None:
    save_model(build(diffusion={"scalars": "diffusion"}), tmp_path / "model")
    model = mv.load(tmp_path / "model")
    first, second = (model.ask("age", {"image": scan}, samples=0, seed=0) for _ in range(2))
    assert first["age"].mean == second["age"].mean
    with pytest.raises(MetaVoxelError, match="0 samples"):
        _ = first["age"].std
    answer = model.ask(f"age, sex | image={scan}")["age"]
    assert answer.samples.shape == (5,)
    low, high = answer.interval(0.9)
    assert low <= np.median(answer.samples) <= high


def test_another_prior_changes_the_answer_by_bayes_rule(model: mv.Model, scan: Path) -> None:
    """The odds of a label change by as much as its frequency's."""
    said = model.ask("group", {"image": scan})["group"].probabilities
    stated = {"group": {"a": 0.8, "b": 0.15, "c": 0.05}}
    changed = model.ask("group", {"image": scan}, prior=stated)["group"].probabilities
    tilted = {k: p * stated["group"][k] * 3 for k, p in said.items()}
    total = sum(tilted.values())
    assert changed == pytest.approx({k: p / total for k, p in tilted.items()}, abs=1e-6)


def test_generated_images_carry_the_grid_of_the_schema(model: mv.Model) -> None:
    people = model.sample(2, given={"age": 80, "sex": "F"})
    assert people["image"].samples.shape == (2, 1, 16, 16, 16)
    assert people["image"].samples.min() >= 0 and people["image"].samples.max() <= 1
    assert set(people) == {"image", "group"}
    assert np.allclose(np.diag(people["image"].affine), [8, 8, 8, 1])


def test_the_same_seed_gives_the_same_samples_and_another_does_not(model: mv.Model) -> None:
    a, b, c = (model.sample(1, seed=s)["image"].samples for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_inpainting_keeps_every_voxel_outside_the_mask(model: mv.Model) -> None:
    image = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    mask = np.zeros((16, 16, 16), bool)
    mask[8:] = True
    filled = model.inpaint(image, mask, given={"sex": "F"}, samples=2)
    assert np.array_equal(filled.samples[:, 0, :8], np.stack([image[:8]] * 2))
    assert not np.array_equal(filled.samples[0, 0, 8:], filled.samples[1, 0, 8:])


def test_images_come_back_on_the_scan_s_own_grid(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oblique LAS scan of 4 x 4 x 5 mm, half of it filled: what was given is as it was, to the
    voxel and in its own intensities, and what was drawn is in them, too."""
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-4.0, 4, 5])
    affine[:3, 3] = -affine[:3, :3] @ [15.5, 15.5, 12.5]
    at = np.array([24.0, 8, -12])
    voxels = np.round(900 * blob((32, 32, 26), affine, at, 12)).astype(np.int16)
    scan = write_nifti(tmp_path / "las.nii.gz", voxels, affine)
    left = np.zeros((32, 32, 26), np.uint8)
    left[20:] = 1  # the first axis runs to the left, the blob lies on the right
    mask = write_nifti(tmp_path / "mask.nii.gz", left, affine)
    arguments = ["inpaint", folder, scan, mask, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["metavoxel", *map(str, arguments)])
    with pytest.raises(SystemExit, match="0"):
        main()
    filled: Any = nib.load(tmp_path / "out" / "inpainted-01.nii.gz")
    assert filled.shape == (32, 32, 26)
    np.testing.assert_allclose(filled.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(filled.get_fdata()[left == 0], voxels[left == 0])
    drawn = filled.get_fdata()[left == 1]
    assert 10 < drawn.max() <= 900  # of an untrained model, about half of the brightest


def test_a_counterfactual_of_nothing_changed_is_the_reconstruction(model: mv.Model) -> None:
    """Abduction and prediction under the same values undo each other, but for the step size."""
    image = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    network = model.network
    known = {"age": torch.tensor([50.0]), "sex": torch.tensor([0]), "group": torch.tensor([0])}
    settings = model.sampling.model_copy(update={"steps": 200})
    same = counterfactual(network, "image", image, known, {"age": known["age"]}, settings)
    kept = network.decode(network.encode({"image": image}))["image"]
    assert (same - kept).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.ask("image", samples=0), "can only be sampled"),
        (lambda m: m.ask("age", samples=1, colour=3), 'no sampling setting "colour"'),
        (lambda m: m.ask("age", {"image": np.zeros((3, 3))}), "shape"),
        (lambda m: m.ask("age", {"image": np.full((16,) * 3, 255)}), "must lie in"),
        (lambda m: m.ask("age", {"image": 0 * GREY}), "image: every voxel is 0"),
        (lambda m: m.inpaint(0 * GREY + 0.5, HALF), "image: every voxel is 0.5"),
        (lambda m: m.ask("age", {"image": object()}), "a file path or an array"),
        (lambda m: m.ask("age | sex=F", {"sex": "M"}), "given twice"),
        (lambda m: m.ask("age", samples=-1), "0 or more"),
        (lambda m: m.ask("age", conditioner="repaint"), "set spacing to uniform"),
        (lambda m: m.ask("age", conditioner="repaint", spacing="uniform"), "no noisy scalar"),
        (lambda m: m.ask("age", prior={"sex": {"F": 0.5, "M": 0.6}}), "sex"),
        (lambda m: m.ask("age", prior={"sex": {"F": 1.0, "X": 0.0}}), "sex"),
        (lambda m: m.ask("age", prior={"age": {"F": 1.0}}), "age"),
        (lambda m: m.ask("age", {"image": "nowhere.nii.gz"}), "no such file"),
        (lambda m: m.inpaint(GREY, np.zeros((16,) * 3)), "every voxel is 0"),
        (lambda m: m.inpaint(GREY, np.ones((16,) * 3)), "marks every voxel"),
        (lambda m: m.inpaint(GREY, 0.3 * HALF), "is no label"),
        (lambda m: m.counterfactual({"age": 3}, {"age": 50}), "starts from a record with image"),
        (lambda m: m.sample(1, {"age": 200}), "outside the range"),
        (lambda m: m.ask("age", samples=10**12), "1,000,000,000,000; at most 100,000"),
        (lambda m: m.ask("age", samples=2.5), 'samples is "2.5". Give a whole number'),
        (lambda m: m.ask("age", seed=-1), "A seed is"),
        (lambda m: m.ask("age", seed=2**63), "A seed is"),
        (lambda m: m.ask("age", steps=10**12), "steps is 1,000,000,000,000"),
        (lambda m: m.ask("age", steps=0), "steps"),
        (lambda m: m.sample(10**12), "at most 100,000"),
        (lambda m: m.inpaint(GREY, HALF, samples=10**12), "at most 100,000"),
        (lambda m: m.inpaint(GREY, HALF, samples=0), "ask for 1 or more"),
        (lambda m: m.inpaint(GREY, HALF, resamplings=10**9), "resamplings is 1,000,000,000"),
        (lambda m: m.inpaint(GREY, np.where(HALF, np.nan, 0)), "NaN"),
        (lambda m: m.inpaint(GREY, np.full((16,) * 3, "x")), "must hold numbers"),
        (lambda m: m.counterfactual({"image": GREY, "age": 50}, {}), "Nothing is set"),
        (
            lambda m: m.counterfactual({"image": GREY, "age": 50}, {"age": 50.0}),
            "age=50 is what is",
        ),
        (lambda m: m.counterfactual({"image": GREY}, {"height": 80}), 'no variable "height"'),
    ],
)
def test_a_mistake_is_one_sentence(model: mv.Model, call, says: str) -> None:
    with pytest.raises(MetaVoxelError, match=says) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_the_self_test_passes_and_notices_a_change(folder: Path) -> None:
    model = load_model(folder)
    record = selftest_record(model)
    assert selftest_failures(load_model(folder), record) == []
    with torch.no_grad():
        next(model.denoiser.parameters()).add_(0.1)
    assert selftest_failures(model, record)


def test_the_paper_engine_answers_from_its_samples(tmp_path: Path) -> None:
    diffusion = {
        "schedule": {"kind": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0205,
                     "zero_terminal_snr": False},
        "image_schedule": None,
        "image_prediction": "epsilon",
        "scalars": "diffusion",
        "continuous_prediction": "epsilon",
        "times": {"kind": "shared"},
    }  # fmt: skip
    sampling = {
        "conditioner": "repaint", "spacing": "uniform", "point": "samples", "steps": 3,
        "order": 1, "samples": 3,
    }  # fmt: skip
    save_model(build(diffusion=diffusion, sampling=sampling), tmp_path / "paper")
    answer = mv.load(tmp_path / "paper").ask("age, sex | group=a")
    assert answer["age"].point is None
    assert answer["age"].mean == pytest.approx(answer["age"].samples.mean())
    shares = np.array(list(answer["sex"].probabilities.values())) * 3
    assert np.allclose(shares, shares.round())


@pytest.mark.parametrize("text", ["", "diffusion:\n", "- 1\n", "diffusion: {T: many}\n"])
def test_damaged_settings_of_a_model_are_no_traceback(tmp_path: Path, text: str) -> None:
    save_model(build(), tmp_path / "model")
    (tmp_path / "model" / "config.yaml").write_text(text)
    write_checksums(tmp_path / "model")
    with pytest.raises(MetaVoxelError, match=r"config\.yaml"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("variable", ["image", "continuous"])
def test_noise_is_not_predicted_where_nothing_else_is_left(variable: str) -> None:
    with pytest.raises(MetaVoxelError, match=f"^diffusion.{variable}_prediction: epsilon"):
        build(diffusion={f"{variable}_prediction": "epsilon"})


def test_a_model_from_before_the_law_is_refused_in_a_sentence(folder: Path) -> None:
    """Its folder has another format: its network states something else."""
    schema = json.loads((folder / "schema.json").read_text())
    (folder / "schema.json").write_text(json.dumps({**schema, "format": 1}))
    (folder / "posterior.json").unlink()
    write_checksums(folder)
    for read in (mv.load, describe):
        with pytest.raises(MetaVoxelError, match=r"another version of metavoxel; train it again\."):
            read(folder)


def test_more_fillings_than_go_through_the_network_together(
    model: mv.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metavoxel.inference.inpaint.BATCH", 2)
    mask = np.zeros((16, 16, 16), bool)
    mask[8:] = True
    filled = model.inpaint(GREY, mask, samples=5).samples
    assert len(filled) == 5
    assert len(np.unique(filled.reshape(5, -1), axis=0)) == 5


def test_one_image_of_two_is_changed_or_filled_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = {"t1w": VARIABLES["image"], "flair": {**VARIABLES["image"], "suffix": "FLAIR"}}
    schema = parse_schema({"variables": {**both, "age": VARIABLES["age"]}}, "test")
    config = ModelConfig.model_validate(SMALL)
    save_model(MetaVoxel(schema, config, {"age": scores(20, 90)}), tmp_path / "model")
    grid = np.diag([8.0, 8, 8, 1])
    voxels = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, grid)
    half = np.zeros((16, 16, 16), np.uint8)
    half[8:] = 1
    mask = write_nifti(tmp_path / "mask.nii.gz", half, grid)
    for command in (["inpaint", scan, mask], ["counterfactual", scan, "--set", "age=80"]):
        name, *rest = command
        words = [name, tmp_path / "model", *rest, "--steps", "2", "--out", tmp_path / name]
        assert status(monkeypatch, *words) == 2
        assert "Name the image" in capsys.readouterr().err
        assert status(monkeypatch, *words, "--variable", "flair") == 0
        assert len([*(tmp_path / name).glob("*.nii.gz")]) == 1


def test_labels_are_written_as_people_where_a_folder_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One evaluation would answer; but who names a folder wants draws."""
    out = tmp_path / "out"
    words = ["ask", folder, "sex | age=50", "--steps", "2", "--out", out]
    assert status(monkeypatch, *words) == 0
    assert len((out / "participants.tsv").read_text().splitlines()) == 1 + 5


def test_a_name_that_pytorch_has_taken_is_refused() -> None:
    variables = {"image": VARIABLES["image"], "type": VARIABLES["sex"]}
    schema = parse_schema({"variables": variables}, "test")
    with pytest.raises(MetaVoxelError, match='"type" cannot name a variable'):
        MetaVoxel(schema, ModelConfig.model_validate(SMALL), {})


def test_the_paper_s_system_is_built_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """configs/paper.yaml at its full size; it leaves no setting to a default."""
    for draw in ("kaiming_uniform_", "uniform_", "normal_"):  # memory never written is never taken
        monkeypatch.setattr(torch.nn.init, draw, lambda x, *_, **__: x)
    path = Path(__file__).parents[1] / "configs" / "paper.yaml"
    config = read_config(path)
    assert config.variables is not None
    model = MetaVoxel(config.variables, config.model, {"age": LinearScaling(18, 103)})
    assert model.process.shapes == {"image": (4, 20, 24, 20), "age": (1,), "sex": (2,)}
    assert sum(p.numel() for p in model.denoiser.parameters()) > 500e6
    written = yaml.safe_load(path.read_text())
    assert not _left_open(written, config.model_dump(mode="json", include={"model", "training"}))


def _left_open(written: dict[str, Any], settings: dict[str, Any], at: str = "") -> list[str]:
    """The settings, at any depth, that a file does not give."""
    missing = [f"{at}{k}" for k in settings.keys() - written.keys()]
    for k, value in settings.items():
        if isinstance(value, dict) and isinstance(written.get(k), dict):
            missing += _left_open(written[k], value, f"{at}{k}.")
    return missing


def test_a_mask_says_where_whatever_its_labels(folder: Path, tmp_path: Path) -> None:
    """Labels 1 and 3 are both filled; a mask that lies elsewhere is refused."""
    model, grid = mv.load(folder), np.diag([8.0, 8, 8, 1])
    voxels = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, grid)
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[2:5], labels[10:13] = 1, 3
    mask = write_nifti(tmp_path / "mask.nii.gz", labels, grid)
    filled = model.inpaint(scan, mask).samples[0, 0]
    kept = filled == read_scan(scan, model.schema.images["image"]).array[0]
    assert np.array_equal(~kept, labels > 0)
    far = grid.copy()
    far[:3, 3] = 500
    elsewhere = write_nifti(tmp_path / "elsewhere.nii.gz", labels, far)
    with pytest.raises(MetaVoxelError, match="does not lie on the scan's grid"):
        model.inpaint(scan, elsewhere)


def test_verify_notices_any_changed_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(folder)
    save_model(model, folder, {"selftest.json": json.dumps(selftest_record(model))})
    assert status(monkeypatch, "verify", folder) == 0
    schema = folder / "schema.json"
    schema.write_text(schema.read_text().replace('"F"', '"x"').replace('"M"', '"F"'))
    assert status(monkeypatch, "verify", folder) == 2
    assert "schema.json is not the file that was saved" in capsys.readouterr().err


def test_what_lies_far_from_the_training_data_is_not_known(tmp_path: Path) -> None:
    """A schema without a range must not make the model answer for people of 500 years."""
    variables = {**VARIABLES, "age": {"kind": "continuous", "unit": "years"}}
    schema = parse_schema({"variables": variables}, "test")
    scalings = {"age": scores(20, 90)}
    save_model(MetaVoxel(schema, ModelConfig.model_validate(SMALL), scalings), tmp_path / "model")
    model = mv.load(tmp_path / "model")
    assert set(model.ask("sex | age=95")["sex"].probabilities) == {"F", "M"}
    with pytest.raises(MetaVoxelError, match="500 is far outside 20 to 90"):
        model.ask("sex | age=500")


def test_samples_do_not_replace_what_is_not_theirs(model: mv.Model, tmp_path: Path) -> None:
    schema, out = model.schema, tmp_path / "out"
    answers = model.ask("age, sex", samples=2)
    for _ in range(2):  # earlier samples are replaced
        with samples_folder(out) as folder:
            write_samples(answers, schema, {}, folder, "age, sex", 0)
    (out / "notes.txt").write_text("mine")
    with (
        pytest.raises(MetaVoxelError, match=r"notes\.txt: metavoxel ask did not write this"),
        samples_folder(out),
    ):
        pass
    assert (out / "notes.txt").read_text() == "mine"


DAMAGED = {
    "the denoiser": lambda network: network.denoiser,
    "the autoencoder": lambda network: network.autoencoders,
}


@pytest.mark.parametrize("part", DAMAGED)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_refused(
    part: str,
    value: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a model whose training diverged: its files are as they were saved, and worth nothing."""
    network = build()
    save_model(network, tmp_path / "model")
    model = mv.load(tmp_path / "model", device="cpu")
    with torch.no_grad():
        for x in DAMAGED[part](model.network).parameters():
            x.fill_(value)
    record = {"image": GREY, "age": 50}
    asked = [
        lambda: model.ask("image", samples=1),
        lambda: model.inpaint(GREY, HALF),
        lambda: model.counterfactual(record, {"age": 60}),
    ]
    if part == "the denoiser":
        asked += [
            lambda: model.ask("group | age=50", {"image": GREY}, samples=0),
            lambda: model.ask("age", {"image": GREY}, samples=0),
            lambda: model.ask("age, sex", {"image": GREY}, samples=3),
        ]
    for ask in asked:
        with pytest.raises(MetaVoxelError, match="is not a finite number: its training diverged"):
            ask()
    save_model(model.network, tmp_path / "diverged")
    words = ["ask", tmp_path / "diverged", "age, image", "--samples", 1, "--json"]
    assert status(monkeypatch, *words, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert "not a finite number" in printed.err and "NaN" not in printed.out


def test_an_answer_outside_the_range_is_marked(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In Python, as JSON and in the table: the mean, and how many of the samples."""
    answer = ContinuousAnswer("years", np.array([19.0, 20, 50, 90, 91]), 919.8, (20, 90))
    assert answer.outside
    assert answer.samples_outside.tolist() == [True, False, False, False, True]
    told = answer.summary()
    assert told["outside_range"] is True and told["range"] == [20, 90]
    assert (told["samples"], told["samples_outside_range"]) == (5, 2)
    assert not ContinuousAnswer("years", np.empty(0), 90.0, (20, 90)).outside
    assert not ContinuousAnswer(None, np.array([1e9]), 1e9).outside  # of no range

    values = NormalScores.values
    monkeypatch.setattr(NormalScores, "values", lambda self, x: values(self, x) + 900)
    monkeypatch.setenv("COLUMNS", "200")
    assert status(monkeypatch, "ask", folder, "age", "--samples", 3, "--json") == 0
    told = json.loads(capsys.readouterr().out)["age"]
    assert told["outside_range"] is True and told["samples_outside_range"] == 3
    assert status(monkeypatch, "ask", folder, "age", "--samples", 3) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(outside 20 to 90)" in printed
    assert "3 of 3 outside 20 to 90" in printed


def test_more_images_than_memory_holds_are_refused_with_what_they_would_take(
    model: mv.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory", lambda: 10**9)
    with pytest.raises(MetaVoxelError, match="50,000 samples of 16x16x16 voxels take 2 GB"):
        model.sample(50_000)
    monkeypatch.setattr(limits, "memory", lambda: None)  # where the system does not say
    limits.check_memory(50_000, model.schema.images["image"])


def test_too_many_samples_are_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("ask nowhere age", "inpaint nowhere a b --out out"):
        assert status(monkeypatch, *command.split(), "--samples", 10**12) == 2
        assert "at most 100,000 are drawn at once" in capsys.readouterr().err


def test_a_path_from_home_is_found(
    model: mv.Model, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    scan.rename(tmp_path / "a|b, c.nii.gz")
    same = [
        model.ask('age | image="~/a|b, c.nii.gz"', samples=0),
        model.ask("age", {"image": "~/a|b, c.nii.gz"}, samples=0),
        model.ask("age", {"image": tmp_path / "a|b, c.nii.gz"}, samples=0),
    ]
    assert len({answer["age"].mean for answer in same}) == 1
    mask = write_nifti(
        tmp_path / "mask.nii.gz", np.eye(32, dtype=np.uint8)[..., None].repeat(26, 2), AFFINE
    )
    assert model.inpaint("~/a|b, c.nii.gz", f"~/{mask.name}", steps=1).samples.shape[0] == 1


@pytest.mark.parametrize("part", ["mean", "left_right"])
def test_looks_of_other_images_are_said(part: str, scan: Path, tmp_path: Path) -> None:
    """What no list of keys can tell: statistics, or a mean image, of another kind of image."""
    few = {"mean": {"a": 0.0}, "spread": {"a": 1.0}, "mean_image": [0.0], "left_right": [0.0]}
    if part == "mean":
        few |= {"mean_image": [0.5] * 16**3, "left_right": [0.5] * 16**3}
    told = json_text({"declared": [], "fingerprints": {"image": few}})
    save_model(build(), tmp_path / "model", {"preprocessing.json": told})
    with pytest.raises(MetaVoxelError, match=r"preprocessing\.json does not fit its images"):
        mv.load(tmp_path / "model").ask("age", {"image": scan}, samples=0)


def test_a_change_that_changes_nothing_is_said(
    folder: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["counterfactual", folder, scan, "--out", tmp_path / "out", "--steps", 1]
    assert status(monkeypatch, *words, "--set", "") == 2
    assert "Nothing is set" in capsys.readouterr().err
    assert status(monkeypatch, *words, "--given", "age=50", "--set", "age=50.0") == 2
    assert "age=50 is what is given already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
