"""What steps cost an answer's spread, and what overwriting costs its slope: no network, no data.

Every variable is Gaussian, so the perfect denoiser is known in closed form and takes the network's
place in the real samplers; whatever is wrong in these numbers is wrong with the sampling alone. The
default noise schedule of 1000 times is used, but where another is named.

Spread: a trajectory is then linear in its noise, so that one record tells the variance
of all samples, without Monte-Carlo error. Slope: the samples' regression on E[age | evidence] over
random records, 1 where nothing shrinks, with twice its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from metavoxel.diffusion.config import DiffusionConfig, SamplingConfig, ScheduleConfig
from metavoxel.diffusion.gaussian import GaussianForward
from metavoxel.diffusion.joint import JointForward, State, Times
from metavoxel.inference.samplers import Condition, Denoiser, sample

SPREADS = (1.0, 0.5, 0.3, 0.2, 0.1)
STEPS = (10, 25, 50, 100)
NARROW = (0.2, 0.1, 0.05)
DEFAULT = ScheduleConfig()
SCHEDULES = {
    "scaled_linear": ScheduleConfig(kind="scaled_linear", beta_start=0.0015, beta_end=0.0205),
    "linear (default)": DEFAULT,
}
RECORDS = 40_000
SETTINGS = {
    "repaint, order 1 (the paper)": SamplingConfig(
        conditioner="repaint", spacing="uniform", order=1
    ),
    "repaint, order 2": SamplingConfig(conditioner="repaint", spacing="uniform"),
    "exact, order 1": SamplingConfig(order=1),
    "exact, order 2 (default)": SamplingConfig(),
}
# (what is known, its number, the correlation of each with age; those of several also correlate)
EVIDENCE = (("one scalar", 1, 0.8), ("16 scalars", 16, 0.7))


def perfect_denoiser(process: JointForward, cov: Tensor) -> Denoiser:
    """E[z_0 | z_t] for scalars ~ N(0, cov), in the order of the process, one time for each."""
    schedule = next(iter(process.variables.values())).schedule

    def denoise(z: State, t: Times, asked: Collection[str]) -> State:
        alpha_bar = torch.stack([schedule.table[t[v][0]] for v in process])  # alike in all records
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = signal[:, None] * cov * signal + torch.diag(noise**2)
        zt = torch.cat([z[v] for v in process], 1).double()
        z0 = zt @ torch.linalg.solve(noisy, signal[:, None] * cov)
        return {v: z0[:, [i]].float() for i, v in enumerate(process) if v in asked}

    return denoise


def make_process(names: Collection[str], schedule: ScheduleConfig) -> JointForward:
    gaussian = GaussianForward(schedule.build(DiffusionConfig().T))
    return JointForward(dict.fromkeys(names, gaussian), dict.fromkeys(names, (1,)))


def variance_ratio(
    spread: float, settings: SamplingConfig, schedule: ScheduleConfig = DEFAULT
) -> float:
    """Variance of the samples of N(0, spread^2) over the truth."""
    process = make_process(["age"], schedule)
    denoise = perfect_denoiser(process, torch.tensor([[spread**2]]).double())
    start = process.prior(1, torch.Generator().manual_seed(0))["age"]
    generator = torch.Generator().manual_seed(0)  # the sampler starts from the same noise
    end = sample(denoise, process, Condition(1), ["age"], settings, generator)["age"]
    return float(end / start / spread) ** 2


def slope(
    evidence: int, correlation: float, settings: SamplingConfig
) -> tuple[float, float, float]:
    """Slope on E[age | evidence], twice its standard error, and the variance about it over p's."""
    known, size = [f"marker{i}" for i in range(evidence)], evidence + 1
    cov = torch.full((size, size), correlation).double().fill_diagonal_(1)
    cov[-1, :-1] = cov[:-1, -1] = correlation
    process, generator = make_process([*known, "age"], DEFAULT), torch.Generator().manual_seed(0)
    drawn = torch.randn((RECORDS, size), generator=generator).double()
    drawn = drawn @ torch.linalg.cholesky(cov).T
    condition = Condition(RECORDS, {v: drawn[:, [i]].float() for i, v in enumerate(known)})
    denoise = perfect_denoiser(process, cov)
    age = sample(denoise, process, condition, ["age"], settings, generator)["age"][:, 0].double()
    gain = torch.linalg.solve(cov[:-1, :-1], cov[:-1, -1])
    mean, variance = drawn[:, :-1] @ gain, 1 - cov[-1, :-1] @ gain
    fitted = float((age * mean).mean() / mean.square().mean())
    residual = (age - fitted * mean).square().mean()
    error = math.sqrt(residual / mean.square().sum())
    return fitted, 2 * error, float(residual / variance)


def main() -> None:
    torch.set_num_threads(1)
    print_spread_by_steps()
    print_spread_by_schedule()
    print_slopes()


def print_spread_by_steps() -> None:
    print("Variance of the samples over the truth, steps equal in the angle\n")
    print_header("order", "posterior std", *[f"{n} steps" for n in STEPS])
    for order in (1, 2):
        for spread in SPREADS:
            settings = [SamplingConfig(order=order, steps=n) for n in STEPS]
            print_row(order, spread, *[f"{variance_ratio(spread, s):.3f}" for s in settings])


def print_spread_by_schedule() -> None:
    """Every time is visited, so that what is lost is lost to the schedule's first beta."""
    print("\nVariance of the samples over the truth, all 1000 steps\n")
    print_header("schedule", "beta at t = 1", "order", *[f"posterior std {s}" for s in NARROW])
    for name, schedule in SCHEDULES.items():
        for order in (1, 2):
            every = SamplingConfig(order=order, steps=DiffusionConfig().T, spacing="uniform")
            ratios = [f"{variance_ratio(s, every, schedule):.3f}" for s in NARROW]
            print_row(name, schedule.beta_start, order, *ratios)


def print_slopes() -> None:
    print("\nSlope on E[age | evidence], and variance about it over the truth, 50 steps\n")
    print_header("evidence", "sampler", "slope", "variance ratio")
    for what, number, correlation in EVIDENCE:
        for name, settings in SETTINGS.items():
            fitted, error, ratio = slope(number, correlation, settings)
            print_row(what, name, f"{fitted:.2f} ± {error:.2f}", f"{ratio:.2f}")


def print_header(*names: str) -> None:
    print_row(*names)
    print("|" + "---|" * len(names))


def print_row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
