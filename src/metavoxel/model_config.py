"""The configuration of a model: everything but its training."""

from __future__ import annotations

from pydantic import Field

from metavoxel.denoiser.config import DenoiserConfig
from metavoxel.diffusion.config import DiffusionConfig, SamplingConfig
from metavoxel.encoding.image import ImageEncoding, KLConfig
from metavoxel.errors import MetaVoxelError
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
        scalars_diffuse = diffusion.scalars == "diffusion" and diffusion.times.kind != "conditional"
        if self.sampling.conditioner == "repaint" and not scalars_diffuse:
            raise MetaVoxelError(
                "sampling: the repaint conditioner noises what is known, and this model's training "
                "shows no noisy scalar; set conditioner to exact."
            )
        if diffusion.scalars == "posterior" and diffusion.times.kind in ("shared", "independent"):
            raise MetaVoxelError(
                f"diffusion.times of kind {diffusion.times.kind} makes every variable diffuse; set "
                "diffusion.scalars to diffusion, or times to corners."
            )
        schedules = (diffusion.schedule, diffusion.schedule_of_images)
        in_one = self.sampling.point == "one_evaluation"
        if in_one and not all(schedule.ends_in_noise for schedule in schedules):
            raise MetaVoxelError(
                "sampling: an answer in one evaluation needs zero terminal SNR. Set "
                "schedule.zero_terminal_snr to true, or sampling.point to samples."
            )
