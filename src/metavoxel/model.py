"""The MetaVoxel model: schema, encoders, forward process, network, and its loss (Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from metavoxel.denoiser.unet import Clean, JointUNet, Layout
from metavoxel.diffusion.categorical import CategoricalForward
from metavoxel.diffusion.forward import over_axes
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.joint import JointForward, State, Times, joint_loss
from metavoxel.diffusion.parameterization import (
    GaussianPrediction,
    LabelPrediction,
    Noisy,
    Parameterization,
)
from metavoxel.diffusion.preconditioning import Preconditioned
from metavoxel.diffusion.schedule import cosine
from metavoxel.diffusion.times import TimeSampler
from metavoxel.encoding.image import ImageEncoder, build_encoder
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.encoding.scalars import LinearScaling, OneHot
from metavoxel.errors import MetaVoxelError
from metavoxel.linear_gaussian.given_scalars import GivenScalars, ScalarFeatures
from metavoxel.linear_gaussian.images import Moments
from metavoxel.model_config import ModelConfig
from metavoxel.posterior.evidence import Evidence
from metavoxel.posterior.law import ScalarLaw, ScalarPosterior
from metavoxel.posterior.marginal import Marginal
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.schema import Schema

EVIDENCE = "(evidence)"  # the head that states the evidence of the images; no variable
SCALARS = "scalars"  # the loss of them all


class MetaVoxel(nn.Module):
    """The joint distribution of a record's variables: a diffusion model and a law of its scalars.

    Raw values are tensors by variable: images (B, C, *grid) in [0, 1], continuous (B,) in their
    unit, categorical (B,) label indices. Encoded, they are the z of the joint process. With `law`
    the scalars do not diffuse: the network states the images' likelihood, noisy or clean, for all
    of them at once, and Bayes' rule gives p(scalars | images, known scalars). Without it every
    variable diffuses (the paper).
    """

    def __init__(
        self,
        schema: Schema,
        config: ModelConfig,
        scalings: Mapping[str, NormalScores | LinearScaling],
        prior: ScalarPrior | None = None,
    ) -> None:
        super().__init__()
        config.check()
        _check_names(schema)
        self.schema, self.config, self.scalings = schema, config, dict(scalings)
        self.labels = {v: OneHot(kind.labels) for v, kind in schema.categorical.items()}
        counts = {v: len(kind.labels) for v, kind in schema.categorical.items()}
        has_law = config.diffusion.scalars == "posterior" and len(schema.scalars) > 0
        self.law = ScalarLaw([*schema.numbers], counts, prior) if has_law else None
        follows = config.diffusion.image_preconditioning and config.diffusion.image_follows_scalars
        features = ScalarFeatures((*schema.numbers,), counts) if has_law and follows else None
        self.autoencoders = nn.ModuleDict(
            {v: build_encoder(config.encoding, x, features) for v, x in schema.images.items()}
        )
        self.parameterizations = self._parameterizations()
        self.process = self._forward_process()
        self.denoiser = JointUNet(self._layout(), config.denoiser)
        if self.law is not None:
            # Noise about the means would first teach the variances to be large, where a logistic
            # function hardly moves any more.
            self.denoiser.heads[EVIDENCE].start_uninformed(self.law.widths[0])  # type: ignore[operator]  # a ModuleDict of heads
        self.times = config.diffusion.times.build()

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def forward(self, z: State, t: Times, asked: Collection[str] | None = None) -> State:
        """E[z_0 | z_t] of the asked variables (default: all that diffuse), of labels probabilities.

        With the law, the scalars in `z` are known where their t is 0, and unknown where it is T.
        """
        noisy, predictions = self.predicted(z, t, [*self.process] if asked is None else asked)
        return {v: noisy[v].denoised(x) for v, x in predictions.items()}

    def given(
        self, scalars: State, n: int, generator: torch.Generator | None = None
    ) -> Callable[[State, Times, Collection[str]], State]:
        """The denoiser of n records of which these encoded scalars (n, k) are known, no others."""
        z, t = self.corner(scalars, n, [*self.schema.scalars], generator)
        return lambda images, times, asked: self(z | images, t | times, asked)

    def evidence(self, z: State, t: Times) -> Evidence:
        """The evidence of the images z_t about all scalars, in one evaluation of the network."""
        assert self.law is not None
        return self.law.calibrated(self._stated(z, t))

    @torch.no_grad()
    def posterior(
        self,
        known: State,
        n: int,
        prior: ScalarPrior | None = None,
        generator: torch.Generator | None = None,
    ) -> ScalarPosterior:
        """p(scalars | known) of n records, of which known[name] (n, ...) is known, encoded: images
        and scalars. `prior` replaces the cohort's."""
        assert self.law is not None
        images = {v: x for v, x in known.items() if v in self.schema.images}
        scalars = {v: x for v, x in known.items() if v in self.schema.scalars}
        evidence = None
        if images:
            evidence = self.evidence(*self.corner(images, n, [*self.schema.images], generator))
        return self.law.posterior(evidence, scalars, n, generator, prior)

    def marginal(self, posterior: ScalarPosterior, name: str) -> Marginal:
        """The distribution of one continuous variable, in its unit."""
        scores = self.scalings[name]
        assert isinstance(scores, NormalScores)
        below = posterior.below(name, scores.knots)
        mass = below.diff(dim=1)
        mass[:, 0] += below[:, 0]
        mass[:, -1] += 1 - below[:, -1]
        return Marginal(scores.values(scores.knots).numpy(), mass.cpu().numpy())

    def stated(self, images: State, observed: Mapping[str, Tensor] | None = None) -> Evidence:
        """The evidence of clean images z_0 (n, ...), before calibration; `observed[name]` (n,) says
        which records have them (default: all)."""
        n = len(next(iter(images.values())))
        z, t = self.corner(images, n, [*self.schema.images], None)
        for v, there in (observed or {}).items():
            if v in images:
                t[v] = torch.where(there.to(self.device), 0, self.process.T)
        return self._stated(z, t)

    def _stated(self, z: State, t: Times) -> Evidence:
        """The evidence as it is trained: of the images alone, whatever else is in z_t."""
        n = len(next(iter(t.values())))
        scalars, unknown = self.corner({}, n, [*self.schema.scalars], None)
        z, t = z | scalars, t | unknown
        return self._read(self.predicted(z, t, [EVIDENCE])[1][EVIDENCE], t)

    def _read(self, output: Tensor, t: Times) -> Evidence:
        assert self.law is not None
        seen = torch.stack([t[v] < self.process.T for v in self.schema.images]).any(0)
        return self.law.read(output, seen)

    def corner(
        self, known: State, n: int, names: Collection[str], generator: torch.Generator | None
    ) -> tuple[State, Times]:
        """The state of the named variables in which some are known, at 0, and the others are not,
        at T."""
        z, t = {}, {}
        for v in names:
            t[v] = torch.full((n,), 0 if v in known else self.process.T, device=self.device)
            if v not in self.process:
                z[v] = known[v] if v in known else torch.zeros(n, self._states(v)).to(self.device)
            elif v in known:
                noise = self.process.noise(n, generator, [v])[v].to(self.device)
                z[v] = self.process.variables[v].noised(known[v], t[v], noise)
            else:
                z[v] = self.process.prior(n, generator, [v])[v].to(self.device)
        return z, t

    def predicted(
        self, z: State, t: Times, asked: Collection[str]
    ) -> tuple[dict[str, Noisy], State]:
        """What z_t is to the network, and f(z_t, t): its predictions of the asked variables, and of
        `EVIDENCE` if it is asked."""
        noisy = self._noisy(z, t, asked)
        shown = self._shown(noisy, z, t)
        return noisy, self.denoiser(shown, t, asked, self._clean(z, t, asked))

    def _noisy(self, z: State, t: Times, asked: Collection[str]) -> dict[str, Noisy]:
        return {
            v: x.at(z[v], t[v], self._known_of(v, z, t) if v in asked else None)
            for v, x in self.parameterizations.items()
        }

    def _known_of(self, image: str, z: State, t: Times) -> Moments | None:
        """What the scalars at t = 0 say of an image's factors, if images follow them."""
        given = self.autoencoders[image].given if image in self.autoencoders else None
        if not isinstance(given, GivenScalars):
            return None
        return given(z, {v: t[v] == 0 for v in self.schema.scalars})

    def _shown(self, noisy: Mapping[str, Noisy], z: State, t: Times) -> State:
        """The network's inputs at z_t."""
        shown = {v: x.network_input for v, x in noisy.items()}
        if self.law is None:
            return {v: shown[v] for v in self.schema}
        for v in self.schema.images:  # of an unknown image the noise is not shown either
            shown[v] = shown[v] * over_axes(t[v] < self.process.T, shown[v])
        for v in self.schema.scalars:
            nothing = 1 / self._states(v) if v in self.labels else 0.0
            shown[v] = torch.where((t[v] == 0)[:, None], z[v], nothing)
        return {v: shown[v] for v in self.schema}

    def _states(self, name: str) -> int:
        """The elements of an encoded scalar."""
        return len(self.labels[name].labels) if name in self.labels else 1

    @torch.no_grad()
    def _clean(self, z: State, t: Times, asked: Collection[str]) -> Clean | None:
        """The records that the network's reader may read, if it has one and a scalar is asked."""
        if self.config.denoiser.reader is None or not any(v in self.denoiser.heads for v in asked):
            return None
        known = torch.stack([t[v] == 0 for v in self.schema.images]).all(0)
        if not bool(known.any()):
            return None
        rows = known.nonzero()[:, 0]
        images = self.decode({v: z[v][rows] for v in self.schema.images})
        return Clean(rows, torch.cat([*images.values()], dim=1))

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
        loss of every variable that was asked; with the law, that of all scalars as `SCALARS`.
        """
        n, T = len(next(iter(z0.values()))), self.process.T
        times = self.drawn_times(n, generator) if times is None else times
        # Before anything is on the GPU, where every look at a value would have to wait for it.
        asked = [
            v
            for v in self.process
            if self.supports([v]) and bool((observed[v] & (times[v] > 0)).any())
        ]
        device = self.device
        observed = {v: x.to(device) for v, x in observed.items()}
        t = {v: torch.where(observed[v], times[v].to(device), T) for v in z0}
        noise = {v: x.to(device) for v, x in self.process.noise(n, generator).items()}
        diffusing = {v: z0[v] for v in self.process}
        zt = z0 | self.process.noised(diffusing, t, noise)
        if self.law is None:
            return joint_loss(*self.predicted(zt, t, asked), z0, t, noise, observed)
        t |= {v: torch.where(t[v] > 0, T, 0) for v in self.law.names}
        known = {v: t[v] == 0 for v in self.law.names}
        if not asked:  # the evidence is of the images alone, so that every record teaches it
            t |= {v: torch.full_like(t[v], T) for v in self.law.names}
        noisy, predictions = self.predicted(zt, t, [*asked, EVIDENCE])
        output = predictions.pop(EVIDENCE)
        total, parts = joint_loss(noisy, predictions, z0, t, noise, observed)
        if not self.supports([*self.law.names], [*self.schema.images]):
            return total, parts
        alone = torch.stack([t[v] == T for v in self.law.names]).all(0)
        scalars = self._scalar_loss(self._read(output, t), z0, observed, known, alone)
        return total.to(device) + scalars, parts | {SCALARS: scalars.detach()}

    def _scalar_loss(
        self,
        evidence: Evidence,
        z0: State,
        observed: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
        rows: Tensor,
    ) -> Tensor:
        """-log p(asked scalars | images, known), and squared errors of evidence means: the mean
        over a batch, of these `rows` (B,).

        The means are taught by the squared errors alone: the likelihood would teach the surest of
        them above all, and how sure they are before what they are (Stirn et al., 2023).
        """
        assert self.law is not None
        asked = {v: observed[v] & ~known[v] & rows for v in known}
        # Surer evidence costs the prior's couplings, which holds it back; with these as given,
        # 256 subjects of the demo were overfitted (1.13 for 0.84 on its validation subjects).
        likelihood = self.law.log_likelihood(evidence.of_fixed_means(), z0, known, asked)
        error = self.law.squared_error(evidence, z0, observed)
        return torch.where(rows, error - likelihood, 0).mean().float()

    def drawn_times(
        self, n: int, generator: torch.Generator, sampler: TimeSampler | None = None
    ) -> Times:
        """Training times of n records, on the CPU, by the model's own sampler or another."""
        images, scalars = [*self.schema.images], [*self.schema.scalars]
        return (sampler or self.times)(n, images, scalars, self.process.T, generator)

    def supports(self, asked: Collection[str], known: Collection[str] = ()) -> bool:
        """Whether the model's training is meant to teach the question `asked` | `known`."""
        return self.times.supports(asked, known, [*self.schema.images], [*self.schema.scalars])

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
            return self.autoencoders[name].encode(values)  # type: ignore[operator]  # a ModuleDict of encoders
        return (self.scalings.get(name) or self.labels[name]).encode(values)

    def _decode(self, name: str, z: Tensor) -> Tensor:
        if name in self.autoencoders:
            return self.autoencoders[name].decode(z)  # type: ignore[operator]  # a ModuleDict of encoders
        return (self.scalings.get(name) or self.labels[name]).decode(z)

    def _parameterizations(self) -> dict[str, Parameterization]:
        """Of every variable that diffuses."""
        config = self.config.diffusion
        out: dict[str, Parameterization] = {}
        forward = GaussianForward(config.schedule_of_images.build(config.T))
        for v in self.schema.images:
            encoder = self.autoencoders[v]
            assert isinstance(encoder, ImageEncoder)
            if config.image_preconditioning:
                out[v] = Preconditioned(forward, encoder.gaussian)
            else:
                out[v] = GaussianPrediction(
                    forward, config.image_prediction, clip=config.image_clip
                )
        if self.law is not None:
            return out
        forward = GaussianForward(config.schedule.build(config.T))
        target = config.continuous_prediction
        for v in self.schema.numbers:
            scaling = self.scalings[v]
            assert isinstance(scaling, LinearScaling)
            # The paper's loss is the plain squared error of the noise, whose variance is 1.
            std = 1.0 if target == "epsilon" else scaling.std
            out[v] = GaussianPrediction(forward, target, std, config.continuous_clip)
        for v in self.schema.categorical:
            out[v] = LabelPrediction(CategoricalForward(cosine(config.T), self._states(v)))
        return out

    def _forward_process(self) -> JointForward:
        shapes: dict[str, tuple[int, ...]] = {}
        for v in self.parameterizations:
            shapes[v] = (self._states(v),) if v in self.schema.scalars else self._latent_shape(v)
        return JointForward({v: x.forward for v, x in self.parameterizations.items()}, shapes)

    def _latent_shape(self, image: str) -> tuple[int, ...]:
        encoder = self.autoencoders[image]
        assert isinstance(encoder, ImageEncoder)
        return encoder.latent_channels, *encoder.latent_shape(self.schema.images[image].shape)

    def _layout(self) -> Layout:
        process, images = self.process, {}
        for v in self.schema.images:
            shown, predicted = self.parameterizations[v].widths
            channels = process.shapes[v][0]
            images[v] = shown * channels, predicted * channels
        if self.law is not None:
            scalars = {v: self._states(v) for v in self.schema.scalars}
            heads = {EVIDENCE: self.law.widths}
        else:
            widths = {v: self.parameterizations[v].widths for v in self.schema.scalars}
            scalars = {v: state for v, (state, _) in widths.items()}
            heads = {v: (out, 0) for v, (_, out) in widths.items()}
        grids = [process.shapes[v][1:] for v in self.schema.images]
        channels = sum(image.channels for image in self.schema.images.values())
        return Layout(images, scalars, heads, grids[0] if grids else (), channels)


def _check_names(schema: Schema) -> None:
    """PyTorch files modules under the variables' names, among its own. Raises MetaVoxelError."""
    taken = [v for v in schema if hasattr(nn.ModuleDict(), v)]
    if taken:
        raise MetaVoxelError(
            f'"{taken[0]}" cannot name a variable: PyTorch uses it itself. Rename the column, to '
            f'"{taken[0]}_" for one.'
        )


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
