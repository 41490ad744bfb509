"""What an answer costs: one network evaluation beside the paper's protocol, in one run.

Times depend on the network's shape, not on its weights, so an untrained network is timed: that of
configs/ixi-cpu.yaml. The paper's protocol is 3 samples of 50 steps. The interleaved repetitions and
the medians are there because machines are shared and noisy; read the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from metavoxel.encoding.scalars import LinearScaling
from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel
from metavoxel.training.config import read_config

REPETITIONS = 5
CONFIG = Path(__file__).parents[1] / "configs" / "ixi-cpu.yaml"


def main() -> None:
    config = read_config(CONFIG)
    schema = config.variables
    assert schema is not None
    scalings = {v: LinearScaling(*(kind.range or (0, 1))) for v, kind in schema.continuous.items()}
    torch.manual_seed(0)
    model = MetaVoxel(schema, config.model, scalings).eval()
    image = torch.rand(1, 1, *next(iter(schema.images.values())).shape)
    asked, known = [*schema.scalars], {"image": image}
    exact = model.config.sampling
    paper = exact.model_copy(
        update={"conditioner": "repaint", "spacing": "uniform", "order": 1, "point": "samples"}
    )
    systems: dict[str, Callable[[], object]] = {
        "one evaluation": lambda: ask(model, asked, known, 1, 0, 0, exact),
        "3 samples x 50 steps, exact": lambda: ask(model, asked, known, 1, 3, 0, exact),
        "3 samples x 50 steps, repaint": lambda: ask(model, asked, known, 1, 3, 0, paper),
    }
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(REPETITIONS + 1):  # the first round warms up
        for name, answer in systems.items():
            start = time.perf_counter()
            answer()
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["one evaluation"][1:])
    print(f"All scalars given the image, {torch.get_num_threads()} threads, {CONFIG.name}")
    print(f"{'answer':32} {'seconds':>9} {'ratio':>7}")
    for name, times in seconds.items():
        median = statistics.median(times[1:])
        print(f"{name:32} {median:9.3f} {median / base:7.1f}")


if __name__ == "__main__":
    main()
