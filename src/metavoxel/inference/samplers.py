"""Sampling any conditional of the joint distribution (section 3.3; Eq. 3).

Two conditioners, one loop. `exact` holds every known variable clean at its own t = 0 and every
marginalised one at T, and moves the asked ones from T to 0. `repaint` is the paper: one shared
time, at which the known variables are overwritten with their own forward-noised values.

Everything here works on encoded variables: z[name] (B, ...). A denoiser is any function
(z, t, asked) -> E[z_0 | z_t], of labels their probabilities, so that the samplers can be checked
with a network or a closed form.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.forward import Past
from metavoxel.diffusion.joint import JointForward, State, Times
from metavoxel.diffusion.schedule import Schedule

Denoiser = Callable[[State, Times, Collection[str]], State]
Watch = Callable[[Times, State, State], None]  # (times, z_t, E[z_0 | z_t]) at every step


@dataclass(frozen=True)
class Condition:
    """What is known of n records: whole variables, and parts of images.

    `known[name]` is z_0 of shape (n, ...). `held[name]` is (z_0, mask): where the mask (1 or
    broadcastable to z_0) is true, the image is known; the rest is asked (inpainting).
    """

    n: int
    known: State = field(default_factory=dict)
    held: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def time_grid(schedule: Schedule, steps: int, spacing: str) -> list[int]:
    """`steps` + 1 falling times from T to 0, fewer where T is too small to tell them apart.

    `uniform` takes equal steps of t; `angle` equal steps of arccos sqrt(alpha_bar), along which a
    DDIM trajectory turns at a constant rate. Either way steps cost spread, the narrower the answer
    the more; steps in the angle cost less (docs/explanation/sampling.md).
    """
    T, share = schedule.T, torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    if spacing == "uniform":
        times = (share * T).round().long()
    else:
        angle = schedule.table.sqrt().clamp(max=1).acos()
        times = torch.searchsorted(angle, share * angle[-1]).clamp(0, T)
        times[0], times[-1] = T, 0
    return [t for t, _ in itertools.groupby(times.tolist())]


def sample(
    denoise: Denoiser,
    process: JointForward,
    condition: Condition,
    asked: Collection[str],
    settings: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None = None,
) -> State:
    """Draw one sample of the asked variables for each of the condition's records.

    Returns the encoded z_0 of every asked variable, (n, ...). The variables that are neither known
    nor asked are marginalised.
    """
    run = _exact if settings.conditioner == "exact" else _repaint
    means: State = {}
    stop = min(settings.image_stop, process.T)

    def keep(t: Times, z: State, clean: State) -> None:
        """The images' means at `image_stop`; the trajectory goes on for the sake of the others."""
        for v, mean in clean.items():
            if v in process.images and int(t[v][0]) >= stop:
                means[v] = mean
        if watch is not None:
            watch(t, z, clean)

    watching = keep if stop else watch
    z = run(denoise, process, condition, asked, settings, generator, watching)
    if means:
        clean = {v: _full(condition, 0) for v in process}
        z = _hold(process, z | means, clean, condition, generator)
    return {v: z[v] for v in asked}


def one_evaluation(
    denoise: Denoiser,
    process: JointForward,
    condition: Condition,
    asked: Collection[str],
    generator: torch.Generator,
) -> State:
    """E[variable | known] of Gaussian variables and p(label | known), in one network evaluation.

    The known are at t = 0, everything else at t = T: the prediction of z_0 there is the conditional
    expectation itself. Needs zero terminal SNR.
    """
    return denoise(*_corner(process, condition, generator), asked)


def _corner(
    process: JointForward, condition: Condition, generator: torch.Generator
) -> tuple[State, Times]:
    """The state every question starts from: the known clean at t = 0, all others noise at T."""
    t = {v: _full(condition, 0 if v in condition.known else process.T) for v in process}
    z = _on(process.prior(condition.n, generator), condition.device)
    return z | forward_from_clean(process, condition.known, t, generator), t


def _exact(
    denoise: Denoiser,
    process: JointForward,
    condition: Condition,
    asked: Collection[str],
    settings: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None,
) -> State:
    grids = {
        v: time_grid(process.variables[v].schedule, settings.steps, settings.spacing) for v in asked
    }
    pasts = _Pasts(settings, condition)
    z, t = _corner(process, condition, generator)
    for i in range(max(map(len, grids.values())) - 1):
        # A shorter grid (few distinct times) waits at T, so that all arrive at 0 together.
        late = {v: i - (max(map(len, grids.values())) - len(g)) for v, g in grids.items()}
        moving = [v for v in asked if late[v] >= 0]
        t_next = {v: _full(condition, grids[v][late[v] + 1]) for v in moving}
        for again in reversed(range(_repetitions(condition, settings))):
            z = _hold(process, z, t, condition, generator)
            z = z | _reverse(denoise, process, z, t, t_next, pasts, settings, generator, watch)
            if again:
                z = z | _forward(process, z, t_next, t, generator)
                pasts.clear()
        t = t | t_next
    return _hold(process, z, t, condition, generator)


def _repaint(
    denoise: Denoiser,
    process: JointForward,
    condition: Condition,
    asked: Collection[str],
    settings: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None,
) -> State:
    unknown = [v for v in process if v not in condition.known]
    reference = next(iter(process.variables.values())).schedule
    grid = time_grid(reference, settings.steps, settings.spacing)
    pasts = _Pasts(settings, condition)
    z = _on(process.prior(condition.n, generator), condition.device)
    for now, then in itertools.pairwise(grid):
        t = {v: _full(condition, now) for v in process}
        s = {v: _full(condition, then) for v in unknown}
        for again in reversed(range(settings.resamplings)):
            z = z | forward_from_clean(process, condition.known, t, generator)  # Eq. 3
            z = _hold(process, z, t, condition, generator)
            z = z | _reverse(denoise, process, z, t, s, pasts, settings, generator, watch)
            if again:
                z = z | _forward(process, z, s, t, generator)
                pasts.clear()
    return _hold(process, z, {v: _full(condition, 0) for v in process}, condition, generator)


def _reverse(
    denoise: Denoiser,
    process: JointForward,
    z: State,
    t: Times,
    s: Times,
    pasts: _Pasts,
    settings: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None,
) -> State:
    """z_s of the variables named in `s`, from z_t; `pasts` is brought up to date."""
    z0 = denoise(z, t, list(s))
    if watch is not None:
        watch(t, z, z0)
    out = {}
    for v in s:
        p = process.variables[v]
        out[v] = p.step(z0[v], z[v], t[v], s[v], generator, pasts.get(v))
        if pasts.keeps(v):
            pasts.keep(v, p.past(z0[v], z[v], t[v]))
    return out


class _Pasts(dict[str, Past]):
    """What second-order steps extrapolate from, by variable, for the length of one sampling.

    It stays empty for first-order steps, and for an image whose held part is overwritten at every
    step, which leaves no smooth trajectory to extrapolate. Resampling clears it.
    """

    def __init__(self, settings: SamplingConfig, condition: Condition) -> None:
        super().__init__()
        self._order, self._held = settings.order, set(condition.held)

    def keeps(self, name: str) -> bool:
        return self._order == 2 and name not in self._held

    def keep(self, name: str, past: Past | None) -> None:
        if past is not None:
            self[name] = past


def _forward(
    process: JointForward, z: State, s: Times, t: Times, generator: torch.Generator
) -> State:
    """z_t from z_s: forward again by the steps just taken back (RePaint's resampling)."""
    out = {}
    for v in s:
        noise = process.noise(len(s[v]), generator, [v])[v].to(z[v].device)
        out[v] = process.variables[v].renoised(z[v], s[v], t[v], noise)
    return out


def forward_from_clean(
    process: JointForward, z0: State, t: Times, generator: torch.Generator
) -> State:
    """z_t of what is known."""
    noise = {v: process.noise(len(t[v]), generator, [v])[v].to(z0[v].device) for v in z0}
    return process.noised(z0, {v: t[v] for v in z0}, noise)


def _hold(
    process: JointForward, z: State, t: Times, condition: Condition, generator: torch.Generator
) -> State:
    """Overwrite the held part of every image with its own value, noised to the image's time."""
    out = dict(z)
    for v, (z0, mask) in condition.held.items():
        noised = forward_from_clean(process, {v: z0}, t, generator)[v]
        out[v] = torch.where(mask, noised, z[v])
    return out


def _repetitions(condition: Condition, settings: SamplingConfig) -> int:
    """Resampling mends the seam that overwriting leaves; exact conditioning has none to mend."""
    return settings.resamplings if condition.held else 1


def _full(condition: Condition, t: int) -> Tensor:
    return torch.full((condition.n,), t, dtype=torch.long, device=condition.device)


def _on(z: State, device: torch.device) -> State:
    return {v: x.to(device) for v, x in z.items()}
