"""The reader of known images: which records it reads, and what it knows of the rest."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from folders import scores
from metavoxel.denoiser.reader import Reader
from metavoxel.model import EVIDENCE, MetaVoxel
from metavoxel.model_config import ModelConfig
from metavoxel.model_folder import load_model, save_model
from metavoxel.schema import parse_schema

SCHEMA = {
    "variables": {
        "t1w": {"kind": "image", "shape": [8, 8], "spacing": [1, 1]},
        "flair": {"kind": "image", "shape": [8, 8], "spacing": [1, 1]},
        "age": {"kind": "continuous", "range": [0, 100]},
        "sex": {"kind": "categorical", "labels": ["F", "M"]},
    }
}
N = 4


def model(reader: bool = True) -> MetaVoxel:
    torch.manual_seed(0)
    sizes = {"channels": [16, 32], "groups": 8, "head_channels": 16, "scalar_head_channels": 16}
    config = ModelConfig.model_validate(
        {
            "encoding": {"kind": "identity"},
            "denoiser": sizes | {"reader": {"width": 8, "features": 8} if reader else None},
        }
    )
    made = MetaVoxel(parse_schema(SCHEMA, "x"), config, {"age": scores(0, 100)})
    return made.eval()


def record(
    network: MetaVoxel, **times: Tensor | int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Four records, the same at every call, and their times: by default nothing is known."""
    z = network.process.prior(N, torch.Generator().manual_seed(0))
    z |= {"age": torch.zeros(N, 1), "sex": torch.eye(2).repeat(2, 1)}
    T = network.process.T
    return z, {v: torch.ones(N, dtype=torch.long) * times.get(v, T) for v in network.schema}


def stirred(network: MetaVoxel) -> Reader:
    """Its reader, trained at random: before training it says nothing."""
    reader = network.denoiser.reader
    assert reader is not None
    for output in reader.outputs.values():
        torch.nn.init.normal_(output.get_parameter("weight"))
    return reader


@torch.no_grad()
def test_before_training_the_reader_says_nothing() -> None:
    with_reader, without = model(), model(reader=False)
    own = {k: x for k, x in with_reader.denoiser.state_dict().items() if "reader." not in k}
    without.denoiser.load_state_dict(own)
    z, t = record(with_reader, t1w=0, flair=0)
    asked = ["t1w", "flair", EVIDENCE]
    torch.testing.assert_close(
        with_reader.predicted(z, t, asked)[1], without.predicted(z, t, asked)[1]
    )


@torch.no_grad()
def test_it_reads_the_records_whose_images_are_all_known_and_no_others() -> None:
    network = model()
    z, t = record(network, t1w=torch.tensor([0, 0, 9, 9]), flair=torch.tensor([0, 9, 0, 9]))
    asked = ["t1w", "flair", EVIDENCE]
    before = network.predicted(z, t, asked)[1]
    stirred(network)
    after = network.predicted(z, t, asked)[1]
    same = (before[EVIDENCE] == after[EVIDENCE]).all(1)
    assert same.tolist() == [False, True, True, True]
    for v in ("t1w", "flair"):
        torch.testing.assert_close(before[v], after[v])


@torch.no_grad()
def test_a_known_scalar_is_read_with_the_images_and_a_marginalised_one_is_not() -> None:
    network = model()
    reader = stirred(network)
    z, t = record(network, t1w=0, flair=0)
    said = {}
    for name, time in (("known", 0), ("marginalised", network.process.T)):
        at = t | {"sex": torch.full((N,), time)}
        for label in (0, 1):
            sex = torch.eye(2)[torch.full((N,), label)]
            whole = z | {"sex": sex}
            shown = network._shown(network._noisy(whole, at, []), whole, at)
            scalars = torch.cat([shown["age"], shown["sex"]], 1)
            emb = network.denoiser.time(at)
            clean = network._clean(z, at, [EVIDENCE])
            assert clean is not None
            said[name, label] = reader(clean.images, scalars, emb, [EVIDENCE])[EVIDENCE]
    assert not torch.allclose(said["known", 0], said["known", 1])
    torch.testing.assert_close(said["marginalised", 0], said["marginalised", 1])


def test_it_is_trained_with_the_rest_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    network = model().train()
    z, t = record(network, t1w=0, flair=0)
    observed = {v: torch.ones(N, dtype=torch.bool) for v in z}
    loss, _ = network.loss(z, observed, torch.Generator().manual_seed(1), t)
    loss.backward()
    assert network.denoiser.reader is not None
    trained = network.denoiser.reader.outputs[EVIDENCE].weight.grad
    assert isinstance(trained, Tensor) and trained.abs().sum() > 0
    stirred(network.eval())
    save_model(network, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    with torch.no_grad():
        after, before = (x.predicted(z, t, [EVIDENCE])[1] for x in (loaded, network))
    torch.testing.assert_close(after, before)
