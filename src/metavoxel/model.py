"""The MetaVoxel model: schema, encoders, processes, denoiser, and its loss (Eq. 5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from metavoxel.denoiser.config import DenoiserConfig
from metavoxel.denoiser.unet import Clean, JointUNet, Layout
from metavoxel.diffusion.categorical import CategoricalProcess
from metavoxel.diffusion.config import DiffusionConfig, SamplingConfig
from metavoxel.diffusion.gaussian import GaussianProcess
from metavoxel.diffusion.joint import JointProcess, State, Times
from metavoxel.diffusion.mixture import MixtureReadOut
from metavoxel.diffusion.preconditioned import PreconditionedGaussian
from metavoxel.diffusion.process import Process
from metavoxel.diffusion.readout import CategoricalReadOut, GaussianReadOut, ReadOut
from metavoxel.diffusion.schedule import Schedule, cosine
from metavoxel.diffusion.temper import Temper, known_share
from metavoxel.diffusion.together import JointNormal, Measurement
from metavoxel.encoding.image import ImageEncoding, KLConfig, build_encoder
from metavoxel.encoding.scalars import LinearScaling, OneHot
from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Schema
from metavoxel.settings import Strict


class ModelConfig(Strict):
    """Everything that shapes the model and its answers, apart from its training."""

    encoding: ImageEncoding = Field(
        default_factory=KLConfig, description="how images are encoded before they diffuse"
    )
    diffusion: DiffusionConfig = Field(default_factory=DiffusionConfig)
    denoiser: DenoiserConfig = Field(default_factory=DenoiserConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)

    def check(self) -> None:
        """Refuse settings that contradict each other. Raises MetaVoxelError."""
        diffusion = self.diffusion
        for setting, prediction, schedule, needs in (
            ("continuous", diffusion.continuous_prediction, diffusion.schedule, ""),
            ("image", diffusion.image_prediction, diffusion.schedule_of_images,
             " and image_schedule to null"),
        ):  # fmt: skip
            if prediction == "epsilon" and schedule.ends_in_noise:
                raise MetaVoxelError(
                    f"diffusion.{setting}_prediction: epsilon-prediction cannot be used at zero "
                    "terminal SNR. Use v or x0, or set schedule.zero_terminal_snr to false with a "
                    f"linear schedule{needs}."
                )
        if self.sampling.conditioner == "repaint" and self.sampling.spacing != "uniform":
            raise MetaVoxelError(
                "sampling: the repaint conditioner shares one time; set spacing to uniform."
            )
        if self.sampling.conditioner == "repaint" and diffusion.times.kind == "conditional":
            raise MetaVoxelError(
                "sampling: the repaint conditioner noises what is known, and times of kind "
                "conditional never show a noisy scalar; set conditioner to exact."
            )
        schedules = (diffusion.schedule, diffusion.schedule_of_images)
        in_one = self.sampling.point == "one_evaluation"
        if in_one and not all(schedule.ends_in_noise for schedule in schedules):
            raise MetaVoxelError(
                "sampling: an answer in one evaluation needs zero terminal SNR. Set "
                "schedule.zero_terminal_snr to true, or sampling.point to samples."
            )


class MetaVoxel(nn.Module):
    """The joint distribution of a record's variables, as one diffusion model.

    Raw values are tensors by variable: images (B, C, *grid) in [0, 1], continuous (B,) in their
    unit, categorical (B,) label indices. Encoded, they are the z of the joint process. `together`
    is the joint distribution of the encoded scalars that has its share in answers, if any.
    """

    def __init__(
        self,
        schema: Schema,
        config: ModelConfig,
        scalings: Mapping[str, LinearScaling],
        together: JointNormal | None = None,
    ) -> None:
        super().__init__()
        config.check()
        _check_names(schema)
        self.schema, self.config, self.scalings = schema, config, dict(scalings)
        self.together = together
        self.labels = {v: OneHot(kind.labels) for v, kind in schema.categorical.items()}
        scalars = together.mean.numel() if together is not None and self.follows else 0
        self.autoencoders = nn.ModuleDict(
            {v: build_encoder(config.encoding, x, scalars) for v, x in schema.images.items()}
        )
        self.process = self._joint_process()
        self.denoiser = JointUNet(self._layout(), config.denoiser)
        self.times = config.diffusion.times.build()
        self.tempers: dict[str, Temper] = {}  # fitted once it is trained

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def forward(self, z: State, t: Times, asked: Collection[str] | None = None) -> State:
        """f(z_t, t): what the model predicts of the asked variables (default: all)."""
        predictions, known = self.network(z, t, asked), self.known(t)
        return self._tempered(self.pooled(predictions, z, t, known), known)

    def network(self, z: State, t: Times, asked: Collection[str] | None = None) -> State:
        """The network's prediction alone, as it is trained."""
        predictions = self.denoiser(self.process.seen(z, t), t, asked, self._clean(z, t, asked))
        return self._following(predictions, z, t) if self.follows else predictions

    @property
    def follows(self) -> bool:
        """Whether images follow the scalars in closed form."""
        return self.together is not None and self.config.diffusion.fits_effects

    def _following(self, predictions: State, z: State, t: Times) -> State:
        """The predictions, those of images as corrections of an answer that knows the scalars."""
        assert self.together is not None
        images = [v for v in self.schema.images if v in predictions]
        if not images:
            return predictions
        scalars, out = self.together.standardised(self.measured(z, t)), dict(predictions)
        for v in images:
            process = self.process.processes[v]
            assert isinstance(process, PreconditionedGaussian)
            out[v] = process.informed(predictions[v], z[v], t[v], scalars)
        return out

    def pooled(self, predictions: State, z: State, t: Times, known: Mapping[str, Tensor]) -> State:
        """The network's predictions, together with what scalars say of one another by their joint
        distribution, if there is one."""
        if self.together is None:
            return predictions
        measured, out = self.measured(z, t), dict(predictions)
        for v in self.read_outs.keys() & predictions.keys():
            said, cohort = self.together.evidence(v, measured), self.together.marginal(v)
            own, others = self.together.voices(v, said, known, self._seen(known))
            out[v] = self.read_outs[v].pooled(predictions[v], own, said.weighed(others), cohort)
        return out

    @property
    def read_outs(self) -> dict[str, ReadOut]:
        """The processes of the scalars that are read out by Bayes' rule."""
        return {v: p for v, p in self.process.processes.items() if isinstance(p, ReadOut)}

    def measured(self, z: State, t: Times) -> dict[str, Measurement]:
        """What the noisy values of the scalars measure of the clean ones."""
        assert self.together is not None
        cohort = {v: self.together.marginal(v) for v in self.read_outs}
        return {v: p.measured(z[v], t[v], cohort[v]) for v, p in self.read_outs.items()}

    def known(self, t: Times) -> dict[str, Tensor]:
        """The share (B,) of what it would say that every variable still says at its time."""
        signal = {v: self.process.processes[v].schedule.alpha_bar(t[v]) for v in self.schema}
        return {v: known_share(a) if v in self.schema.images else a for v, a in signal.items()}

    def _seen(self, known: Mapping[str, Tensor]) -> Tensor:
        """The share (B,) of the images that is seen."""
        return torch.stack([known[v] for v in self.schema.images]).mean(0)

    @torch.no_grad()
    def _clean(self, z: State, t: Times, asked: Collection[str] | None) -> Clean | None:
        """The records that the network's reader may read, if it has one and a scalar is asked."""
        scalars = [v for v in self.schema.scalars if asked is None or v in asked]
        if self.config.denoiser.reader is None or not scalars:
            return None
        known = torch.stack([t[v] == 0 for v in self.schema.images]).all(0)
        if not bool(known.any()):
            return None
        rows = known.nonzero()[:, 0]
        images = self.decode({v: z[v][rows] for v in self.schema.images})
        return Clean(rows, torch.cat([*images.values()], dim=1))

    def _tempered(self, predictions: State, known: Mapping[str, Tensor]) -> State:
        """The predictions, as sure as held-out people found that they may be."""
        if not self.tempers:
            return predictions
        seen, out = self._seen(known), dict(predictions)
        for v in self.tempers.keys() & predictions.keys():
            process = self.process.processes[v]
            assert isinstance(process, ReadOut)
            out[v] = process.tempered(predictions[v], self.tempers[v].factor(seen))
        return out

    def loss(
        self,
        z0: State,
        observed: Mapping[str, Tensor],
        generator: torch.Generator,
        times: Times | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 5 on a batch. A missing value enters as pure noise at t = T and carries no loss.

        z0[name] (B, ...) and, on the CPU, observed[name] (B,) bool; where a value is not observed,
        z0 may hold anything finite. `times` are on the CPU, too. Returns the total and the mean
        loss of every variable that was asked.
        """
        n = len(next(iter(z0.values())))
        if times is None:
            times = self.times(
                n, [*self.schema.images], [*self.schema.scalars], self.process.T, generator
            )
        # Before anything is on the GPU, where every look at a value would have to wait for it.
        asked = [v for v in z0 if self.learns([v]) and bool((observed[v] & (times[v] > 0)).any())]
        device = self.device
        observed = {v: x.to(device) for v, x in observed.items()}
        t = {v: torch.where(observed[v], times[v].to(device), self.process.T) for v in z0}
        noise = {v: x.to(device) for v, x in self.process.noise(n, generator).items()}
        zt = self.process.noised(z0, t, noise)
        return self.process.loss(self.network(zt, t, asked), z0, t, noise, observed)

    def learns(self, asked: Collection[str], known: Collection[str] = ()) -> bool:
        """Whether the model's training is meant to teach the question `asked` | `known`."""
        return self.times.learns(asked, known, [*self.schema.images], [*self.schema.scalars])

    @torch.no_grad()
    def encode(self, values: Mapping[str, Tensor]) -> State:
        """Raw values to z_0."""
        return {v: self._encode(v, x.to(self.device)) for v, x in values.items()}

    @torch.no_grad()
    def decode(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z_0 to raw values."""
        return {v: self._decode(v, x) for v, x in z.items()}

    def _encode(self, name: str, values: Tensor) -> Tensor:
        if name in self.autoencoders:
            return self.autoencoders[name].encode(values)  # type: ignore[operator]
        return (self.scalings.get(name) or self.labels[name]).encode(values)

    def _decode(self, name: str, z: Tensor) -> Tensor:
        if name in self.autoencoders:
            return self.autoencoders[name].decode(z)  # type: ignore[operator]
        return (self.scalings.get(name) or self.labels[name]).decode(z)

    def _joint_process(self) -> JointProcess:
        config = self.config.diffusion
        gaussian = config.schedule.build(config.T)
        of_images = config.schedule_of_images.build(config.T)
        processes: dict[str, Process] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for v, image in self.schema.images.items():
            encoder = self.autoencoders[v]
            processes[v] = (
                PreconditionedGaussian(
                    GaussianProcess(of_images, "x0"),
                    encoder.gaussian,  # type: ignore[arg-type]
                    config.image_loss_relative,
                )
                if config.image_preconditioning
                else GaussianProcess(of_images, config.image_prediction, clip=config.image_clip)
            )
            shapes[v] = (encoder.latent_channels, *encoder.latent_shape(image.shape))  # type: ignore
        for v in self.schema.continuous:
            processes[v] = _continuous(config, gaussian, self.scalings[v])
            shapes[v] = (1,)
        for v, kind in self.schema.categorical.items():
            K = len(kind.labels)  # noqa: N806
            discrete = CategoricalProcess(cosine(config.T), K, config.categorical_kernel)
            reads_out = config.categorical_prediction == "read_out"
            processes[v] = CategoricalReadOut(discrete) if reads_out else discrete
            shapes[v] = (K,)
        return JointProcess(processes, shapes)

    def _layout(self) -> Layout:
        process, fields = self.process, {}
        for v in self.schema.images:
            shown, predicted = process.processes[v].widths
            channels = process.shapes[v][0]
            fields[v] = shown * channels, predicted * channels
        scalars = {v: process.processes[v].widths for v in self.schema.scalars}
        grids = [process.shapes[v][1:] for v in self.schema.images]
        channels = sum(image.channels for image in self.schema.images.values())
        return Layout(fields, scalars, grids[0] if grids else (), channels)


def _check_names(schema: Schema) -> None:
    """PyTorch files modules under the variables' names, among its own. Raises MetaVoxelError."""
    taken = [v for v in schema if hasattr(nn.ModuleDict(), v)]
    if taken:
        raise MetaVoxelError(
            f'"{taken[0]}" cannot name a variable: PyTorch uses it itself. Rename the column, to '
            f'"{taken[0]}_" for one.'
        )


def _continuous(config: DiffusionConfig, schedule: Schedule, scaling: LinearScaling) -> Process:
    prediction, std = config.continuous_prediction, scaling.std
    if prediction == "read_out":
        velocity = GaussianProcess(schedule, "v", std)
        if not (config.fits_mixtures and scaling.mixture):
            return GaussianReadOut(velocity)
        both = config.variance_learns_from == "likelihood and velocity"
        return MixtureReadOut(velocity, scaling.mixture, both)
    # The paper's loss is the plain squared error of the noise, whose variance is 1.
    scale = 1.0 if prediction == "epsilon" else std
    return GaussianProcess(schedule, prediction, scale, config.continuous_clip)


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
