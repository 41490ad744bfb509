"""The autoencoder stage: it learns, resumes bit for bit, and refuses what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from monai.losses import JukeboxLoss
from torch import Tensor

from metavoxel.encoding.image import IdentityConfig, KLConfig, KLEncoder, build_encoder
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image
from metavoxel.training import autoencoder
from metavoxel.training.augment import NO_AUGMENTATION
from metavoxel.training.autoencoder import (
    AutoencoderTraining,
    SpectralLoss,
    build_discriminator,
    build_perceptual,
    forgive_clamped,
    kl_divergence,
    learning_rate,
    reconstruction_quality,
    train_autoencoder,
)

SMALL = KLConfig(channels=(8, 16), latent_channels=2, groups=4)
QUIET: dict[str, Any] = {
    "enable_progress_bar": False,
    "logger": False,
    "enable_model_summary": False,
}


def image(*grid: int, channels: int = 1) -> Image:
    return Image(shape=grid, spacing=(4.0,) * len(grid), channels=channels)


def volumes(n: int, *grid: int, channels: int = 1) -> Tensor:
    """Smooth blobs, uint8: something an autoencoder can learn."""
    noise = torch.rand(n, channels, *(size // 4 for size in grid), generator=torch.Generator())
    mode = "bilinear" if len(grid) == 2 else "trilinear"
    return (255 * torch.nn.functional.interpolate(noise, grid, mode=mode)).to(torch.uint8)


def new_encoder(config: KLConfig, of: Image) -> KLEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(config, of)
    assert isinstance(encoder, KLEncoder)
    return encoder


def l1(encoder: KLEncoder, x: Tensor) -> float:
    with torch.no_grad():
        return float((encoder.reconstruct(x / 255) - x / 255).abs().mean())


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("grid", [(16, 24), (16, 16, 8)], ids=str)
def test_training_improves_the_reconstruction(grid, shortcut):
    of, x = image(*grid), volumes(12, *grid)
    encoder = new_encoder(SMALL.model_copy(update={"shortcut": shortcut}), of)
    encoder.begin([x[:8] / 255])
    before = l1(encoder, x)
    settings = AutoencoderTraining(
        steps=25, warmup_steps=2, adversarial_weight=0, augmentation=NO_AUGMENTATION
    )
    train_autoencoder(encoder, of, x[:8], x[8:], settings, seed=0, **QUIET)
    assert l1(encoder, x) < 0.85 * before
    assert not any(p.requires_grad for p in encoder.parameters())


def test_only_what_clamping_makes_right_is_forgiven():
    x = torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0])
    recon = torch.tensor([-0.3, 0.2, 0.0, -0.1, 1.4, 0.9], requires_grad=True)
    loss = (forgive_clamped(recon, x) - x).abs().sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.2 + 0.6 + 0.1)
    assert recon.grad is not None
    assert recon.grad.tolist() == [0, 1, 0, -1, 0, -1]


def test_a_background_stays_dark_under_noise_of_the_latent():
    of, x = image(32, 32), volumes(12, 32, 32)
    dark = torch.ones(32, 32, dtype=torch.bool)
    dark[8:24, 8:24] = False
    x[..., dark] = 0
    encoder = new_encoder(SMALL, of)
    settings = AutoencoderTraining(
        steps=25, warmup_steps=2, adversarial_weight=0, augmentation=NO_AUGMENTATION
    )
    train_autoencoder(encoder, of, x[:8], x[8:], settings, seed=0, **QUIET)
    with torch.no_grad():
        z = encoder.encode(x / 255)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        drawn = encoder.decode(z + 0.2 * noise)
    assert drawn[..., dark].mean() < 0.003 * drawn[..., ~dark].mean()


class SaveAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object):
        if int(pl_module.get_buffer("step")) == self.step:
            trainer.save_checkpoint(self.path)


class KilledError(Exception):
    pass


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object):
        if int(pl_module.get_buffer("step")) == self.step:
            raise KilledError


@pytest.mark.parametrize("saved", [1, 3, 4, 5])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, saved):
    """With the GAN on from step 2, an average, augmentation, and two validations on the way."""
    of, x = image(16, 16, 8), volumes(7, 16, 16, 8)
    settings = AutoencoderTraining(
        steps=6, batch_size=2, adversarial_start=2, ema=0.9, validate_every=4, warmup_steps=1
    )

    def run(**more: Any) -> KLEncoder:
        encoder = new_encoder(SMALL, of)
        train_autoencoder(encoder, of, x[:5], x[5:], settings, seed=3, **QUIET, **more)
        return encoder

    whole = run()
    path = tmp_path / "last.ckpt"
    with pytest.raises(KilledError):
        run(callbacks=[SaveAt(saved, path), KillAt(saved)])
    torch.manual_seed(999)  # whatever the state of the process that resumes
    resumed = run(checkpoint=path)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_discriminator_is_untouched_before_its_step(monkeypatch):
    of, x = image(16, 16), volumes(6, 16, 16)
    built = []

    def remember(*args: Any):
        built.append(build_discriminator(*args))
        return built[-1]

    monkeypatch.setattr(autoencoder, "build_discriminator", remember)

    class Watch(Callback):
        def __init__(self) -> None:
            self.moved: dict[int, bool] = {}

        def on_train_start(self, *_: object) -> None:
            self.first = next(built[0].parameters()).clone()

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object):
            now = next(built[0].parameters())
            self.moved[int(pl_module.get_buffer("step"))] = not torch.equal(now, self.first)

    settings = AutoencoderTraining(steps=4, adversarial_start=2)
    watch = Watch()
    train_autoencoder(
        new_encoder(SMALL, of), of, x[:4], x[4:], settings, seed=0, callbacks=[watch], **QUIET
    )
    assert watch.moved == {1: False, 2: False, 3: True, 4: True}


def test_float_and_eight_bit_volumes_train_alike():
    of, x = image(16, 16), volumes(6, 16, 16)
    settings = AutoencoderTraining(steps=2, adversarial_weight=0)
    encoders = []
    for data in (x, x.float() / 255):
        encoders.append(new_encoder(SMALL, of))
        train_autoencoder(encoders[-1], of, data[:4], data[4:], settings, seed=0, **QUIET)
    for a, b in zip(encoders[0].parameters(), encoders[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_identity_encoder_is_only_given_its_statistics():
    of, x = image(16, 16, channels=2), volumes(6, 16, 16, channels=2)
    encoder = build_encoder(IdentityConfig(), of)
    train_autoencoder(encoder, of, x[:4], x[4:], AutoencoderTraining(), seed=0)
    unit = 2 * (x[:4].float() / 255) - 1
    torch.testing.assert_close(encoder.latent_mean, unit.mean(0))


def test_channels_and_no_validation_volumes_are_fine():
    of, x = image(16, 16, channels=3), volumes(4, 16, 16, channels=3)
    settings = AutoencoderTraining(steps=2, adversarial_start=1)
    train_autoencoder(new_encoder(SMALL, of), of, x, x[:0], settings, seed=0, **QUIET)


def test_kl_of_a_standard_normal_is_zero_and_agrees_with_torch():
    mu, sigma = torch.randn(3, 2, 4), torch.rand(3, 2, 4) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, sigma), normal(0.0, 1.0)).sum((1, 2))
    torch.testing.assert_close(kl_divergence(mu, sigma), expected.mean())
    assert float(kl_divergence(torch.zeros(1, 2), torch.ones(1, 2))) == 0


def test_the_learning_rate_rises_then_falls():
    settings = AutoencoderTraining(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(k, settings) for k in range(101)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(0.97, abs=0.03)
    assert rates.index(max(rates)) == 10 and rates[100] == pytest.approx(0.01)


def test_quality_of_a_known_error():
    x = torch.rand(2, 1, 16, 16) * 0.5
    quality = reconstruction_quality(x + 0.1, x)
    assert float(quality["l1"]) == pytest.approx(0.1, abs=1e-5)
    assert float(quality["psnr"]) == pytest.approx(20, abs=1e-3)
    assert float(reconstruction_quality(x, x)["ssim"]) == pytest.approx(1, abs=1e-5)


def test_a_perceptual_network_that_cannot_be_had_is_never_skipped(monkeypatch):
    def offline(**_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(autoencoder, "PerceptualLoss", offline)
    with pytest.raises(MetaVoxelError, match=r"squeeze cannot be loaded.*set perceptual to spect"):
        build_perceptual("squeeze", image(16, 16, 8))


def test_a_solid_network_is_refused_for_slices():
    with pytest.raises(MetaVoxelError, match="is for 3D images"):
        build_perceptual("medicalnet_resnet10_23datasets", image(16, 16))


def test_a_grid_too_small_for_the_discriminator_is_refused():
    settings = AutoencoderTraining(discriminator_layers=3)
    with pytest.raises(MetaVoxelError, match="too small for a discriminator of 3 layers"):
        build_discriminator(image(16, 16), settings)


@pytest.mark.parametrize("grid", [(8, 8), (8, 9, 8), (17, 16)], ids=str)
def test_every_grid_the_discriminator_accepts_works(grid):
    of = image(*grid)
    judged = build_discriminator(of, AutoencoderTraining())(torch.rand(1, 1, *grid))[-1]
    assert judged.shape[:2] == (1, 1)


def test_no_images_are_refused():
    of = image(16, 16)
    nothing = volumes(1, 16, 16)[:0]
    with pytest.raises(MetaVoxelError, match="No training subject has an image"):
        train_autoencoder(
            new_encoder(SMALL, of), of, nothing, nothing, AutoencoderTraining(), seed=0
        )


@pytest.mark.parametrize(
    ("shortcut", "message"), [(False, "not finite at step 0"), (True, "not finite numbers")]
)
def test_images_that_are_not_finite_stop_the_run(shortcut, message):
    of, x = image(16, 16), volumes(4, 16, 16).float() * float("nan")
    encoder = new_encoder(SMALL.model_copy(update={"shortcut": shortcut}), of)
    with pytest.raises(MetaVoxelError, match=message):
        train_autoencoder(encoder, of, x, x, AutoencoderTraining(steps=2), seed=0, **QUIET)


@pytest.mark.parametrize("shape", [(2, 1, 12, 10), (2, 1, 8, 6, 4)])
def test_the_spectral_loss_is_monai_s_and_has_a_gradient_at_amplitude_0(shape):
    generator = torch.Generator().manual_seed(0)
    x, recon = torch.rand(2, *shape, generator=generator)
    theirs = JukeboxLoss(spatial_dims=len(shape) - 2)
    torch.testing.assert_close(SpectralLoss()(recon, x), theirs(recon, x))
    flat = torch.full(shape, 0.5, requires_grad=True)  # every amplitude but the mean's is 0
    SpectralLoss()(flat, x).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
