"""What describes slices, which slices, and the references that keep it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.images.extractors import as_extractor
from metavoxel.evaluation.images.gist import GAIN, Gist, quadrature_filters
from metavoxel.evaluation.images.pretrained import Network, radimagenet
from metavoxel.evaluation.images.reference import (
    Reference,
    load_reference,
    make_reference,
    save_reference,
)
from metavoxel.evaluation.images.scores import score_against, score_images
from metavoxel.evaluation.images.slices import shown_slices

_ODD = torch.rand(5, 1, 24, 31, generator=torch.Generator().manual_seed(0))


def test_gist_is_deterministic_and_one_slice_does_not_depend_on_the_others():
    once = Gist()(_ODD)
    assert once.dtype == np.float64
    assert once.shape == (5, (4 * 4 + 1) * 9)
    assert np.array_equal(once, Gist()(_ODD))
    assert np.allclose(once[3:4], Gist()(_ODD[3:4]), atol=1e-6)


def test_gist_of_a_constant_is_its_mean_and_nothing_else():
    features = Gist()(torch.full((1, 1, 40, 56), 0.6))
    assert features[0, :9] == pytest.approx(0.6 * GAIN, rel=1e-5)
    assert np.abs(features[0, 9:]).max() < 1e-4


@pytest.mark.parametrize("k", range(4))
def test_a_wave_is_seen_by_the_filter_of_its_orientation(k: int):
    """A wave of amplitude 1 has energy 1 there, less elsewhere, and less at the next scale."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    angle = torch.tensor(torch.pi * k / 4)
    wave = (2 * torch.pi / 3.5 * (x * angle.cos() + y * angle.sin())).cos()[None, None]
    middle = Gist()(wave)[0, 9:].reshape(4, 4, 3, 3)[:, :, 1, 1] / GAIN
    assert middle[0].argmax() == k
    assert middle[0, k] == pytest.approx(1, abs=0.15)
    assert middle[1].max() < 0.5 * middle[0, k]


def test_filters_do_not_see_a_constant():
    assert quadrature_filters(6).sum((1, 2, 3)).abs().max() < 1e-6


def test_an_unknown_extractor_is_refused_with_the_names_of_the_others():
    with pytest.raises(MetaVoxelError, match="gist, imagenet, radimagenet"):
        as_extractor("inception")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="it is installed")
def test_without_torchvision_the_imagenet_extractor_says_what_to_do():
    with pytest.raises(MetaVoxelError, match="pip install torchvision"):
        as_extractor("imagenet")


def test_weights_that_cannot_be_had_are_said_so(tmp_path, monkeypatch: pytest.MonkeyPatch):
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetaVoxelError, match=r"cannot be had .*gist"):
        radimagenet()


def test_a_network_is_given_three_channels_of_at_least_128_pixels():
    seen = []

    def maps(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x[:, :, ::32, ::32]

    features = Network("own", "1", maps, lambda x: x)(_ODD)
    assert seen == [(5, 3, 128, 165)]
    assert features.shape == (5, 3)


def test_slices_are_chosen_on_the_real_images_by_visible_area():
    real = np.zeros((4, 1, 24, 24, 24), dtype=np.float32)
    real[..., 4:20, 4:20, 4:10] = 0.5
    real[..., 4:12, 4:11, 10] = 0.5  # less than a quarter of the fullest axial slice
    chosen = shown_slices(real)
    assert chosen["axial"].tolist() == [4, 5, 6, 7, 8, 9]
    assert chosen["sagittal"].tolist() == list(range(4, 20))
    wide = np.ones((4, 1, 40, 24, 24), dtype=np.float32)
    picks = shown_slices(wide)["sagittal"]
    assert len(picks) == 16
    assert (picks[0], picks[-1]) == (0, 39)


@pytest.fixture
def real() -> np.ndarray:
    return np.random.default_rng(0).random((9, 1, 24, 20), dtype=np.float32)


@pytest.fixture
def saved(tmp_path: Path, real: np.ndarray) -> Path:
    save_reference(make_reference(real, Gist()), tmp_path / "real.npz")
    return tmp_path / "real.npz"


def test_scores_against_a_saved_reference_are_those_against_the_images(
    saved: Path, real: np.ndarray
):
    generated = real[:6] ** 2
    reference: Reference = load_reference(saved, Gist(), real)
    assert score_against(generated, reference, Gist()) == score_images(generated, real)


def test_a_reference_of_other_images_is_refused(saved: Path, real: np.ndarray):
    other = real.copy()
    other[0, 0, 3, 3] += 0.001
    with pytest.raises(MetaVoxelError, match="of other images"):
        load_reference(saved, Gist(), other)


def test_a_reference_of_another_extractor_is_refused(saved: Path):
    with pytest.raises(MetaVoxelError, match=r"3 levels.*Make it again"):
        load_reference(saved, Gist(levels=3))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not a reference"])
def test_a_damaged_reference_is_refused(saved: Path, content: bytes):
    saved.write_bytes(content)
    with pytest.raises(MetaVoxelError, match="damaged, or not arrays"):
        load_reference(saved, Gist())


def test_a_reference_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(MetaVoxelError, match="there is no such file"):
        load_reference(tmp_path / "none.npz", Gist())
