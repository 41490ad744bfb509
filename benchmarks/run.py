"""What an answer and a training step cost, as ratios side by side in one run.

Times depend on the network's shape, not on its weights, so an untrained network is timed: that of
configs/ixi-cpu.yaml. The posterior of all scalars, from one network evaluation, and joint samples
of it, end to end and with the image encoded, stand beside the paper's protocol, 3 samples of 50
steps of scalars that diffuse; float32
beside weights that lie channels first and, where the processor has instructions for it, bfloat16.
The interleaved repetitions and the medians are there because machines are shared and noisy; read
the ratios.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from metavoxel.diffusion.config import DiffusionConfig
from metavoxel.encoding.normal_scores import NormalScores
from metavoxel.encoding.scalars import LinearScaling
from metavoxel.inference.ask import ask, ask_encoded
from metavoxel.model import MetaVoxel
from metavoxel.training.config import read_config
from metavoxel.training.precision import computes_in_bf16

REPETITIONS = 5
CONFIG = Path(__file__).parents[1] / "configs" / "ixi-cpu.yaml"


def main() -> None:
    config = read_config(CONFIG)
    schema = config.variables
    assert schema is not None
    ranges = {v: kind.range or (0, 1) for v, kind in schema.numbers.items()}
    diffusing = config.model.model_copy(update={"diffusion": DiffusionConfig(scalars="diffusion")})
    torch.manual_seed(0)
    model = MetaVoxel(
        schema,
        config.model,
        {v: NormalScores(a, b, ((1.0, (a + b) / 2, (b - a) / 4),)) for v, (a, b) in ranges.items()},
    )
    paper = MetaVoxel(schema, diffusing, {v: LinearScaling(a, b) for v, (a, b) in ranges.items()})
    native = "in hardware" if _bf16() else "would be emulated: not timed"
    print(f"{CONFIG.name}, {torch.get_num_threads()} threads, bfloat16 {native}")
    compare("a training step", training_steps(model, config.training.joint.batch_size))
    image = {"image": torch.rand(1, 1, *next(iter(schema.images.values())).shape)}
    for title, systems in joint_samples(model.eval(), image).items():
        compare(f"all scalars, {title}", systems, 6 * REPETITIONS)
    compare("all scalars given the image", protocols(model, paper.eval(), image))


def joint_samples(
    model: MetaVoxel, known: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, Callable[[], object]]]:
    """The posterior alone and with draws, the image encoded within the answer or before it."""
    asked, z0 = [*model.schema.scalars], model.encode(known)
    return {
        "end to end": {
            "one evaluation": lambda: ask(model, asked, known, 1, 0, 0),
            "and 1,000 joint samples": lambda: ask(model, asked, known, 1, 1000, 0),
        },
        "with the image encoded": {
            "one evaluation": lambda: ask_encoded(model, asked, z0, 1, 0, 0),
            "and 1,000 joint samples": lambda: ask_encoded(model, asked, z0, 1, 1000, 0),
        },
    }


def protocols(
    model: MetaVoxel, diffusing: MetaVoxel, known: Mapping[str, torch.Tensor]
) -> dict[str, Callable[[], object]]:
    asked, exact = [*model.schema.scalars], model.config.sampling
    paper = exact.model_copy(
        update={"conditioner": "repaint", "spacing": "uniform", "order": 1, "point": "samples"}
    )
    return {
        "one evaluation": lambda: ask(model, asked, known, 1, 0, 0, exact),
        "3 samples x 50 steps, exact": lambda: ask(diffusing, asked, known, 1, 3, 0, exact),
        "3 samples x 50 steps, repaint": lambda: ask(diffusing, asked, known, 1, 3, 0, paper),
        "the image's encoding alone": lambda: model.encode(known),
    }


def training_steps(model: MetaVoxel, batch: int) -> dict[str, Callable[[], object]]:
    """Loss and gradient of one batch whose images are noised."""
    channels_first = copy.deepcopy(model)
    channels_first.denoiser.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]  # a form that torch's stubs lack
    generator = torch.Generator().manual_seed(0)
    unknown, _ = model.corner({}, batch, model.schema.scalars, generator)
    z0 = model.process.prior(batch, generator) | unknown
    observed = {v: torch.ones(batch, dtype=torch.bool) for v in z0}
    times = {v: torch.full((batch,), 500) for v in z0}

    def step(model: MetaVoxel, bf16: bool = False) -> None:
        model.denoiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model.loss(z0, observed, generator, times)[0].backward()

    steps: dict[str, Callable[[], object]] = {
        "float32": lambda: step(model),
        "float32, channels first": lambda: step(channels_first),
    }
    return steps | ({"bfloat16": lambda: step(model, bf16=True)} if _bf16() else {})


def _bf16() -> bool:
    return computes_in_bf16(torch.device("cpu"))


def compare(
    title: str, systems: Mapping[str, Callable[[], object]], repetitions: int = REPETITIONS
) -> None:
    """Time every system in turn, again and again; ratios are to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repetitions + 1):  # the first round warms up
        for name, run in systems.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    base = next(iter(medians.values()))
    print(f"\n{title:36} {'seconds':>9} {'ratio':>7}")
    for name, median in medians.items():
        print(f"{name:36} {median:9.3f} {median / base:7.2f}")


if __name__ == "__main__":
    main()
