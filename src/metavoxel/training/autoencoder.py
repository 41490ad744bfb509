"""The first stage: the KL autoencoder, trained as in MAISI, then frozen (section 3.1)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from monai.losses import PatchAdversarialLoss, PerceptualLoss
from monai.networks.nets import PatchDiscriminator
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.image import structural_similarity_index_measure

from metavoxel.encoding.image import ImageEncoder, KLEncoder
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Image
from metavoxel.settings import Strict
from metavoxel.training.augment import Augmentation, augment
from metavoxel.training.checkpoint import fit
from metavoxel.training.seeds import generator, mixed, rows_of_step
from metavoxel.training.statistics import chunks, fit_statistics, unit_range

Perceptual = Literal[
    "spectral", "radimagenet_resnet50", "squeeze", "alex", "vgg", "medicalnet_resnet10_23datasets"
]


class AutoencoderTraining(Strict):
    """How the autoencoder is trained: L1 + light KL + perceptual + patch-GAN after a warm-up."""

    steps: int = Field(default=1200, ge=1, description="training steps")
    batch_size: int = Field(default=4, ge=1, description="images per step and device")
    learning_rate: float = Field(
        default=1e-3, gt=0, description="peak; cosine decay to a hundredth of it"
    )
    warmup_steps: int = Field(
        default=20, ge=0, description="steps of linear rise of the learning rate"
    )
    kl_weight: float = Field(
        default=3e-7, ge=0, description="weight of the KL term, summed over the latent as in MAISI"
    )
    perceptual: Perceptual = Field(
        default="spectral",
        description="perceptual loss: spectral needs no download (distance of Fourier amplitudes, "
        "as in Jukebox); the others load pretrained networks, on slices along all three "
        "axes (2.5D) except medicalnet, which is 3D",
    )
    perceptual_weight: float = Field(default=0.3, ge=0, description="weight of the perceptual loss")
    adversarial_weight: float = Field(
        default=0.01, ge=0, description="weight of the patch-GAN; 0 is none"
    )
    adversarial_start: int = Field(
        default=800,
        ge=0,
        description="step at which the discriminator begins to train and to count",
    )
    discriminator_learning_rate: float = Field(default=5e-4, gt=0, description="constant")
    discriminator_channels: int = Field(
        default=32, ge=1, description="width of its first convolution"
    )
    discriminator_layers: int = Field(
        default=1,
        ge=1,
        description="convolutions after the first; 1 judges patches of 16 voxels, 2 of 34",
    )
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of an average of the weights, kept instead of the last",
    )
    augmentation: Augmentation = Field(default_factory=Augmentation)
    validate_every: int = Field(default=200, ge=1, description="steps between two validations")


class AutoencoderModule(L.LightningModule):
    """Trains a KLEncoder in place.

    An epoch is the steps between two validations. All that is random at step k is drawn from
    (seed, k) and the step is a buffer, so that a run resumed from a Lightning checkpoint is
    bit-identical to one never interrupted. (Lightning's own `global_step` counts the steps of both
    optimisers.) The last weights are kept: the learning rate ends near zero, and in validation the
    reconstruction keeps improving to the end.

    Volumes are (N, C, *grid), uint8 in [0, 255] or float in [0, 1].
    """

    step: Tensor

    def __init__(
        self,
        encoder: KLEncoder,
        image: Image,
        training: Tensor,
        validation: Tensor,
        settings: AutoencoderTraining,
        seed: int,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder = encoder
        self.average = None if settings.ema is None else deepcopy(encoder).requires_grad_(False)
        self.discriminator = build_discriminator(image, settings) if _has_gan(settings) else None
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.image, self.settings, self.seed, self.bf16 = image, settings, seed, bf16
        self.adversarial = PatchAdversarialLoss(
            criterion="least_squares", no_activation_leastsq=True
        )
        # In tuples, so that neither the data nor a frozen network enters the checkpoint.
        self._volumes = (training, validation)
        self._perceptual = (build_perceptual(settings.perceptual, image),)

    # Lightning's hooks

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        s = self.settings
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(self.encoder.parameters(), s.learning_rate)
        ]
        if self.discriminator is not None:
            parameters = self.discriminator.parameters()
            rate = s.discriminator_learning_rate
            optimizers.append(torch.optim.Adam(parameters, rate, betas=(0.5, 0.9)))
        return optimizers

    def train_dataloader(self) -> DataLoader[int]:
        # A step makes its own batch from its number: see training_step.
        return DataLoader(range(self.settings.validate_every), batch_size=None)  # type: ignore[arg-type]  # a range is a map of indices

    def val_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(len(self._volumes[1])), batch_size=self.settings.batch_size)  # type: ignore[arg-type]  # as above

    def on_fit_start(self) -> None:
        for network in self._perceptual:
            network.to(self.device)

    def training_step(self, batch: int, batch_idx: int) -> None:
        step = int(self.step)
        if step >= self.settings.steps:
            self.trainer.should_stop = True
            return
        x = self._training_batch(step)
        # The latent noise, dropout and the slices of a 2.5D perceptual loss.
        torch.manual_seed(mixed(self.seed, 6, step))
        optimizers = self.optimizers()
        first, *rest = optimizers if isinstance(optimizers, list) else [optimizers]
        against = step >= self.settings.adversarial_start and self.discriminator is not None
        for group in first.param_groups:
            group["lr"] = learning_rate(step, self.settings)
        recon = self._improve_encoder(x, first, against)
        if against:
            self._improve_discriminator(x, recon, rest[0])
        if self.average is not None:
            self._average(step)
        self.step += 1
        if int(self.step) >= self.settings.steps:
            self.trainer.should_stop = True

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """L1, PSNR (dB) and SSIM of the reconstructions, over whole images."""
        x = unit_range(self._volumes[1][batch.cpu()]).to(self.device)
        with self._autocast():
            recon = self.result.reconstruct(x).float()
        for name, value in reconstruction_quality(recon, x).items():
            self.log(
                f"validation/{name}",
                value,
                prog_bar=True,
                on_epoch=True,
                batch_size=len(x),
            )

    # The two players

    @property
    def result(self) -> KLEncoder:
        """The encoder to keep: the average if there is one, else the last weights."""
        return self.encoder if self.average is None else self.average

    def _training_batch(self, step: int) -> Tensor:
        volumes, size = self._volumes[0], self.settings.batch_size
        rows = rows_of_step(len(volumes), size, step, self.seed)
        x = unit_range(volumes[rows]).to(self.device)
        draw = generator(self.seed, 5, step)
        return augment(x, self.image.spacing, self.settings.augmentation, draw)

    def _improve_encoder(self, x: Tensor, optimizer: Any, against: bool) -> Tensor:
        """One step of the autoencoder. Returns its reconstructions, detached."""
        s = self.settings
        with self._autocast():
            mu, sigma = self.encoder.posterior(x)
            recon = self.encoder.render(mu + sigma * torch.randn_like(sigma)).float()
        recon = forgive_clamped(recon, x)
        losses = {"l1": (recon - x).abs().mean(), "kl": kl_divergence(mu.float(), sigma.float())}
        loss = losses["l1"] + s.kl_weight * losses["kl"]
        if s.perceptual_weight > 0:
            losses["perceptual"] = self._perceptual[0](channels_apart(recon), channels_apart(x))
            loss = loss + s.perceptual_weight * losses["perceptual"]
        if against and self.discriminator is not None:
            self.discriminator.requires_grad_(False)
            with self._autocast():
                judged = self.discriminator(recon)[-1].float()
            self.discriminator.requires_grad_(True)
            losses["adversarial"] = self.adversarial(judged, True, for_discriminator=False)
            loss = loss + s.adversarial_weight * losses["adversarial"]
        self._descend(loss, self.encoder, optimizer)
        self._log(loss=loss, **losses)
        return recon.detach()

    def _improve_discriminator(self, x: Tensor, recon: Tensor, optimizer: Any) -> None:
        assert self.discriminator is not None
        with self._autocast():
            real, fake = self.discriminator(x)[-1], self.discriminator(recon)[-1]
        loss: Tensor = 0.5 * (
            self.adversarial(real.float(), True, for_discriminator=True)
            + self.adversarial(fake.float(), False, for_discriminator=True)
        )
        self._descend(loss, self.discriminator, optimizer)
        self._log(discriminator=loss)

    def _descend(self, loss: Tensor, network: nn.Module, optimizer: Any) -> None:
        if not bool(loss.isfinite()):
            raise MetaVoxelError(
                f"The autoencoder's loss is not finite at step {int(self.step)}. Lower "
                "autoencoder.learning_rate, or check the images for values that are not numbers."
            )
        optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), self.settings.gradient_clip)
        optimizer.step()

    def _average(self, step: int) -> None:
        assert self.average is not None and self.settings.ema is not None
        weight = 1 - min(self.settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.encoder.parameters(), strict=True)
            for averaged, current in pairs:
                averaged.lerp_(current, weight)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _log(self, **losses: Tensor) -> None:
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "l1")


def train_autoencoder(
    encoder: ImageEncoder,
    image: Image,
    training: Tensor,
    validation: Tensor,
    settings: AutoencoderTraining,
    *,
    seed: int,
    bf16: bool = False,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
    **trainer: Any,
) -> ImageEncoder:
    """Train an encoder in place and fit its latent statistics. Returns it, frozen.

    `training` (N, C, *grid) and `validation` hold uint8 in [0, 255] or float in [0, 1]. An encoder
    that has nothing to learn is only given its statistics. `checkpoint` is where this stage goes on
    from, if it is there; `trainer` are further arguments of Lightning's Trainer. Raises
    MetaVoxelError.
    """
    if len(training) == 0:
        raise MetaVoxelError("No training subject has an image. Check the schema's suffix.")
    if isinstance(encoder, KLEncoder):
        device = encoder.latent_mean.device
        encoder.begin(chunks(training, device))
        module = AutoencoderModule(encoder, image, training, validation, settings, seed, bf16)
        loop = L.Trainer(
            max_epochs=-1,  # the module stops at its last step
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            limit_val_batches=1.0 if len(validation) else 0,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
            log_every_n_steps=min(20, settings.validate_every),
            **{"enable_checkpointing": False, **trainer},
        )
        with warnings.catch_warnings():
            # A step makes its own batch from its number: there is no loader to rewind.
            warnings.filterwarnings("ignore", message=".*dataloader is not resumable")
            fit(loop, module, checkpoint)
        encoder.load_state_dict(module.result.state_dict())
        encoder.to(device)  # Lightning leaves it on the CPU
    fit_statistics(encoder, training)
    return encoder.requires_grad_(False).eval()


def learning_rate(step: int, settings: AutoencoderTraining) -> float:
    """Linear warm-up, then a cosine from the peak to a hundredth of it."""
    rise = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / settings.steps))
    return settings.learning_rate * rise * (0.01 + 0.99 * fall)


def forgive_clamped(recon: Tensor, x: Tensor) -> Tensor:
    """recon, with x in its place where clamping to [0, 1] makes the two equal.

    Decoded images are clamped. A decoder that had to hit a background of 0 exactly would turn any
    noise of the latent into specks, as clamping keeps its positive half alone; one that may fall
    below 0 there keeps a margin.
    """
    return torch.where(recon.clamp(0, 1) == x, x, recon)


def kl_divergence(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)), summed over the latent, mean over the batch."""
    terms = mu.square() + sigma.square() - 2 * sigma.clamp_min(1e-12).log() - 1
    return 0.5 * terms.flatten(1).sum(1).mean()


def channels_apart(x: Tensor) -> Tensor:
    """(B, C, *grid) -> (B * C, 1, *grid): the perceptual networks look at one channel."""
    return x.flatten(0, 1)[:, None]


def reconstruction_quality(recon: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Mean L1, PSNR (dB) and SSIM of recon against x, both (B, C, *grid) in [0, 1]."""
    error = (recon - x).square().flatten(1).mean(1).clamp_min(1e-10)
    # The Gaussian window of SSIM spans 11 voxels: smaller images take a smaller one.
    width = max(0.3, min(1.5, (min(x.shape[2:]) - 1) / 7))
    ssim = structural_similarity_index_measure(recon, x, data_range=1.0, sigma=width)
    return {
        "l1": (recon - x).abs().mean(),
        "psnr": (-10 * error.log10()).mean(),
        "ssim": ssim if isinstance(ssim, Tensor) else ssim[0],
    }


class SpectralLoss(nn.Module):
    """Mean squared distance of the Fourier amplitudes of images (B, 1, *grid).

    MONAI's JukeboxLoss, but for an amplitude of exactly 0, where the gradient of its square root is
    not a number. In bfloat16 that happens by chance: the reconstruction takes few distinct values.
    """

    def forward(self, recon: Tensor, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        said, true = (torch.fft.fftn(i, dim=axes, norm="ortho").abs() for i in (recon, x))
        return F.mse_loss(said, true)


def build_perceptual(kind: Perceptual, image: Image) -> nn.Module:
    """The perceptual loss. Raises MetaVoxelError if its weights or its package cannot be had.

    "spectral" compares the amplitudes of the Fourier transform (Jukebox; Dhariwal 2020), which
    punishes missing fine detail wherever it lies, and needs no pretrained network.
    """
    dims = image.spatial_dims
    if kind == "spectral":
        return SpectralLoss()
    solid = kind.startswith("medicalnet")
    if solid and dims == 2:
        raise MetaVoxelError(f"autoencoder.perceptual: {kind} is for 3D images; choose spectral.")
    try:
        network = PerceptualLoss(spatial_dims=dims, network_type=kind, is_fake_3d=not solid)
    except Exception as error:  # each network fails in its own way without package or connection
        raise MetaVoxelError(
            f"autoencoder.perceptual: {kind} cannot be loaded ({str(error).splitlines()[0]}). "
            'Install its packages (pip install "metavoxel[perceptual]") and connect once to '
            "fetch the weights, or set perceptual to spectral, which needs neither."
        ) from None
    return network.requires_grad_(False).eval()


def build_discriminator(image: Image, settings: AutoencoderTraining) -> PatchDiscriminator:
    """The patch discriminator. Raises MetaVoxelError if the image is too small for it."""
    network = PatchDiscriminator(
        spatial_dims=image.spatial_dims,
        channels=settings.discriminator_channels,
        in_channels=image.channels,
        num_layers_d=settings.discriminator_layers,
        norm="INSTANCE",  # as in MAISI: the batches of a 3D model are too small for batch norm
    )
    smallest = min(image.shape) // 2**settings.discriminator_layers
    if smallest < 4:
        raise MetaVoxelError(
            f"The image grid {list(image.shape)} is too small for a discriminator of "
            f"{settings.discriminator_layers} layers. Lower autoencoder.discriminator_layers, or "
            "set adversarial_weight to 0."
        )
    return network


def _has_gan(settings: AutoencoderTraining) -> bool:
    return settings.adversarial_weight > 0 and settings.adversarial_start < settings.steps
