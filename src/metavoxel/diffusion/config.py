"""The settings of the diffusion. The paper's engine and ours differ in these alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from metavoxel.diffusion import schedule as schedules
from metavoxel.diffusion.parameterization import Target
from metavoxel.diffusion.schedule import Schedule
from metavoxel.diffusion.times import (
    ConditionalTimes,
    CornerTimes,
    IndependentTimes,
    SharedTimes,
    TimeSampler,
)
from metavoxel.settings import Strict


class ScheduleConfig(Strict):
    """The Gaussian noise schedule (Eq. 1)."""

    kind: Literal["linear", "scaled_linear", "cosine"] = Field(
        default="linear",
        description="how beta grows; the paper leaves it open. linear is DDPM's, whose small first "
        "beta narrow answers need; LDM takes scaled_linear, from 0.0015 to 0.0205",
    )
    beta_start: float = Field(
        default=0.0001,
        gt=0,
        lt=1,
        description="beta at t = 1 (not for cosine). It limits the spread of narrow answers: of a "
        "variance s^2 DDIM keeps at most s^2 / (s^2 + beta), whatever the steps; order 2 more",
    )
    beta_end: float = Field(default=0.02, gt=0, lt=1, description="beta at t = T (not for cosine)")
    zero_terminal_snr: bool = Field(
        default=True,
        description="rescale so that nothing of the data is left at T, as a cosine leaves nothing; "
        "needs x0 or v",
    )

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the data is left at T."""
        return self.zero_terminal_snr or self.kind == "cosine"

    def build(self, T: int) -> Schedule:
        if self.kind == "cosine":
            return schedules.cosine(T)
        make = {"linear": schedules.linear, "scaled_linear": schedules.scaled_linear}[self.kind]
        schedule = make(T, self.beta_start, self.beta_end)
        return schedules.rescale_zero_terminal_snr(schedule) if self.zero_terminal_snr else schedule


class SharedTimesConfig(Strict):
    """One time for all variables (the paper)."""

    kind: Literal["shared"] = "shared"

    def build(self) -> TimeSampler:
        return SharedTimes()


class IndependentTimesConfig(Strict):
    """One uniform time per variable."""

    kind: Literal["independent"] = "independent"

    def build(self) -> TimeSampler:
        return IndependentTimes()


class CornerTimesConfig(Strict):
    """One time per variable, with mass on the states that questions use."""

    kind: Literal["corners"] = "corners"
    known_images: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the batches whose images are known, clean at t = 0",
    )
    absent_images: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="share of the unknown images that are marginalised, at t = T",
    )
    corner: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of scalars that diffuse, share of the records whose unknown ones are all at T",
    )

    def build(self) -> TimeSampler:
        return CornerTimes(self.known_images, self.absent_images, self.corner)


class ConditionalTimesConfig(Strict):
    """Scalars are conditions, never asked; the images share one uniform time (the conditional LDM
    that the paper compares with)."""

    kind: Literal["conditional"] = "conditional"
    dropped: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the records that train without their scalars, so that the images can "
        "also be asked on their own; 0.1 is that of classifier-free guidance",
    )

    def build(self) -> TimeSampler:
        return ConditionalTimes(self.dropped)


TimesConfig = Annotated[
    SharedTimesConfig | IndependentTimesConfig | CornerTimesConfig | ConditionalTimesConfig,
    Field(discriminator="kind"),
]


class DiffusionConfig(Strict):
    """The joint process (Eq. 1-5)."""

    T: int = Field(default=1000, ge=2, le=10**6, description="number of time steps")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    image_schedule: ScheduleConfig | None = Field(
        default=ScheduleConfig(kind="cosine"),
        description="that of images; null: the same (the paper). Less than 2 % of an image is left "
        "at two fifths of the times of linear, at a tenth of those of cosine",
    )
    image_prediction: Target = Field(
        default="v",
        description="what the network predicts of an image without preconditioning: epsilon (the "
        "paper), x0 or v",
    )
    image_preconditioning: bool = Field(
        default=True,
        description="whether the network predicts the residual of the LMMSE estimate that the mean "
        "and covariance of the latents give, or predicts without it (the paper)",
    )
    image_follows_scalars: bool = Field(
        default=True,
        description="with preconditioning and the posterior of scalars, whether the LMMSE estimate "
        "is that given the scalars, too, by a regression of the latents on them",
    )
    scalars: Literal["posterior", "diffusion"] = Field(
        default="posterior",
        description="how scalars are answered: by one joint posterior, from the likelihood of the "
        "images that the network states and a prior fitted to the training set (posterior), or by "
        "diffusion, each as a variable like the images (the paper)",
    )
    continuous_prediction: Target = Field(
        default="v",
        description="what the network predicts of a continuous variable that diffuses: epsilon "
        "(the paper), x0 or v",
    )
    image_clip: float | None = Field(
        default=None,
        gt=0,
        description="largest size of the z_0 computed from an image's prediction, without "
        "preconditioning; latents have standard deviation 1. The paper leaves it open",
    )
    continuous_clip: float | None = Field(
        default=None,
        gt=0,
        description="the same of a continuous variable that diffuses; 1 is its range",
    )
    times: TimesConfig = Field(
        default_factory=CornerTimesConfig, description="distribution of the training times"
    )

    @property
    def schedule_of_images(self) -> ScheduleConfig:
        return self.image_schedule or self.schedule


class SamplingConfig(Strict):
    """How questions are answered, unless the caller says otherwise."""

    conditioner: Literal["exact", "repaint"] = Field(
        default="exact",
        description="known variables clean at their own t = 0 (exact), or overwritten with their "
        "noised values at a shared t (repaint, Eq. 3)",
    )
    steps: int = Field(
        default=50,
        ge=1,
        description="reverse steps from T to 0: of `order` for Gaussian variables, k-step for "
        "categorical ones (50 steps of T = 1000 are the paper's k = 20)",
    )
    spacing: Literal["uniform", "angle"] = Field(
        default="angle",
        description="steps equal in t (uniform), or in the angle arccos sqrt(alpha_bar) (angle)",
    )
    order: Literal[1, 2] = Field(
        default=2,
        description="of a deterministic step: 1 is DDIM (the paper), 2 extrapolates from the step "
        "before, which keeps far more of the spread of an answer at no further cost",
    )
    image_stop: int = Field(
        default=0,
        ge=0,
        description="an image is its mean given z_t at the last t of its trajectory that is not "
        "below this one: above 0, detail that the network has not learnt is smooth instead of "
        "noise, and its variance is lost",
    )
    resamplings: int = Field(
        default=1, ge=1, description="RePaint's repetitions of every step; 1 is plain overwriting"
    )
    samples: int = Field(
        default=32,
        ge=1,
        description="samples of an image, or of scalars that diffuse; the paper takes 3",
    )
    point: Literal["one_evaluation", "samples"] = Field(
        default="one_evaluation",
        description="where scalars diffuse: point estimates from one network evaluation, or from "
        "the mean / majority of the samples (the paper)",
    )
