"""One record on its way from noise to a sample (the paper's Figure 2).

Where scalars diffuse, every variable moves at once. Where the law states them, they are drawn first
and the image after them; the figure then shows what p(scalars | image z_t) says on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metavoxel.diffusion.config import SamplingConfig
from metavoxel.diffusion.joint import State, Times
from metavoxel.evaluation.figures.images import inset, row_title, show, tile, value_text
from metavoxel.evaluation.figures.style import COLOURS, STYLE, WIDTH, variable_text
from metavoxel.inference.ask import ask
from metavoxel.inference.samplers import time_grid
from metavoxel.model import MetaVoxel
from metavoxel.posterior.law import ScalarPosterior
from metavoxel.posterior.marginal import Marginal
from metavoxel.schema import Schema

_LEFT, _RIGHT = 0.55, 0.6  # inches beside the columns, for the axes and for what is drawn last
_PANEL, _ABOVE = 0.52, 0.24  # inches of a scalar's panel, and of its name over it
_TOP, _BOTTOM = 0.22, 0.42


def trajectory(
    model: MetaVoxel,
    seed: int,
    given: Mapping[str, Tensor] | None = None,
    frames: int = 7,
    settings: SamplingConfig | None = None,
) -> Figure:
    """How one record is drawn: its noisy state and the prediction of z_0 at `frames` times.

    `given` holds raw values (1, ...), not of every variable that diffuses; all others are drawn as
    `ask` draws them for the seed. The frames are spread evenly over the steps and end in the
    sample. Over each stands the image's time; under them, at every step, what is said of each
    scalar: its own prediction, or p(scalar | image z_t, given) by the law. A model that takes its
    images from an earlier step (`image_stop`) shows that one's prediction as the sample.
    """
    settings, given = settings or model.config.sampling, given or {}
    asked = [v for v in model.schema if v not in given]
    images = [v for v in asked if v in model.schema.images]
    steps = _steps(model, [v for v in asked if v in model.process], settings)
    chosen = np.linspace(0, steps, min(frames, steps + 1)).round().astype(int)
    known = model.encode({v: x for v, x in given.items() if v in model.schema.scalars})
    record = _Record(model, known, images, set(chosen.tolist()))
    drawn = ask(model, asked, given, 1, 1, seed, settings, record).samples
    raw = {v: x[0] for v, x in drawn.items()}
    if model.law is not None:
        clean = model.encode({v: {**given, **raw}[v] for v in model.schema.images})
        t = {v: torch.zeros(1, dtype=torch.long, device=model.device) for v in clean}
        record.stated.append(stated_scalars(model, clean, t, known))
    return _Drawing(model, record, raw, chosen).figure()


@torch.inference_mode()
def stated_scalars(model: MetaVoxel, z: State, t: Times, known: State) -> ScalarPosterior:
    """p(scalars | images z_t, known scalars) of one record, by the law; all encoded."""
    assert model.law is not None
    return model.law.posterior(model.evidence(z, t), known, 1)


def _steps(model: MetaVoxel, asked: Collection[str], settings: SamplingConfig) -> int:
    """How many times a sampler visits before 0; repainting shares those of the first variable."""
    process = model.process.variables
    paced = asked if settings.conditioner == "exact" else [*process][:1]
    grids = [time_grid(process[v].schedule, settings.steps, settings.spacing) for v in paced]
    return max(map(len, grids)) - 1


@dataclass(eq=False)
class _Record:
    """What a sampler shows at every step: all of the scalars, and the images of the chosen steps.

    `known` are the given scalars, encoded; `stated` is what the law says of the others. A step that
    is repeated (resampling) counts once, as it was last.
    """

    model: MetaVoxel
    known: State
    images: Collection[str]
    chosen: Collection[int]
    times: list[dict[str, int]] = field(default_factory=list)
    noisy: list[State] = field(default_factory=list)
    clean: list[State] = field(default_factory=list)
    stated: list[ScalarPosterior] = field(default_factory=list)

    def __call__(self, t: Times, z: State, clean: State) -> None:
        times = {v: int(x[0]) for v, x in t.items()}
        if self.times and times == self.times[-1]:
            for each in (self.times, self.noisy, self.clean):
                each.pop()
        kept = len(self.times) in self.chosen
        self.times.append(times)
        for each, state in ((self.noisy, z), (self.clean, clean)):
            each.append({v: x for v, x in state.items() if kept or v not in self.images})
        if self.model.law is not None:
            self.stated.append(stated_scalars(self.model, z, t, self.known))


@dataclass(frozen=True, eq=False)
class _Drawing:
    """The figure of a record; `drawn` are the raw values (1, ...) of the sample it ends in."""

    model: MetaVoxel
    record: _Record
    drawn: Mapping[str, Tensor]
    chosen: np.ndarray

    @property
    def schema(self) -> Schema:
        return self.model.schema

    @property
    def steps(self) -> int:
        return len(self.record.times)

    def figure(self) -> Figure:
        across = (WIDTH - _LEFT - _RIGHT) / len(self.chosen)
        rows = {title: row for v in self.record.images for title, row in self._rows(v).items()}
        first = next(iter(rows.values()), [np.ones((1, 1))])[0]
        down = across * first.shape[0] / first.shape[1]
        scalars = [v for v in self.schema.scalars if v in self.drawn]
        height = _TOP + len(rows) * down + len(scalars) * (_PANEL + _ABOVE) + _BOTTOM
        with plt.rc_context(STYLE):
            fig = plt.figure(figsize=(WIDTH, height))
            for r, (title, pictures) in enumerate(rows.items()):
                top = _TOP + r * down
                row_title(fig, title, top, down)
                for i, picture in enumerate(pictures):
                    ax = inset(fig, (_LEFT + i * across, top, 0.96 * across, 0.985 * down))
                    show(ax, picture)
            self._titles(fig, across)
            top = _TOP + len(rows) * down
            panel = self._diffused if self.model.law is None else self._stated
            for v in scalars:
                top += _ABOVE
                ax = inset(fig, (_LEFT, top, len(self.chosen) * across, _PANEL))
                panel(ax, v)
                ax.set_title(variable_text(self.schema, v), loc="left", fontsize=8, pad=3)
                self._along(ax, last=v == scalars[-1])
                top += _PANEL
            self._legend(fig)
        return fig

    def _titles(self, fig: Figure, across: float) -> None:
        width, height = fig.get_size_inches()
        lead = next(iter(self.record.images), next(iter(self.drawn)))
        for i, step in enumerate(self.chosen):
            text = f"$t$ = {self.record.times[step][lead]}" if step < self.steps else "sample"
            x = _LEFT + (i + 0.48) * across
            fig.text(x / width, 1 - 0.8 * _TOP / height, text, ha="center", fontsize=8)

    def _legend(self, fig: Figure) -> None:
        """Over the first panel of a number."""
        lines = next((ax for ax in fig.axes if ax.get_lines()), None)
        if lines is not None:
            lines.legend(
                loc="lower right", bbox_to_anchor=(1, 0.95), ncols=3, fontsize=7.5, borderpad=0,
                handlelength=1.5,
            )  # fmt: skip

    def _rows(self, name: str) -> dict[str, list[np.ndarray]]:
        """The tiles of an image's noisy states and of the predictions of it; both end alike."""
        several = f"{name}, " if len(self.record.images) > 1 else ""
        return {
            f"{several}noisy $z_t$": self._pictures(name, self.record.noisy),
            f"{several}prediction of $z_0$": self._pictures(name, self.record.clean),
        }

    def _pictures(self, name: str, states: list[State]) -> list[np.ndarray]:
        """An image that waits for others to move is not predicted yet: nothing is shown."""
        blank = torch.ones_like(self.drawn[name])
        raw = [
            self.model.decode({name: states[step][name]})[name] if name in states[step] else blank
            for step in self.chosen[:-1]
        ]
        return [tile(x[0, 0].cpu().clamp(0, 1).numpy()) for x in (*raw, self.drawn[name])]

    def _stated(self, ax: Axes, name: str) -> None:
        """p(scalar | image z_t) at every step, and of the sample; the scalar was drawn before."""
        drawn, steps = float(self.drawn[name]), np.arange(self.steps + 1)
        if name in self.schema.numbers:
            stated = Marginal.joined([self.model.marginal(x, name) for x in self.record.stated])
            _distribution(ax, steps, stated, drawn, value_text(self.schema, name, drawn))
        else:
            shares = [x.probabilities(name).cpu().numpy() for x in self.record.stated]
            labels = self.schema.categorical[name].labels
            _labels(ax, steps, np.concatenate(shares), labels, int(drawn))

    def _diffused(self, ax: Axes, name: str) -> None:
        """The noisy scalar and its own prediction, from where it begins to move."""
        at = [i for i, clean in enumerate(self.record.clean) if name in clean]
        noisy = torch.cat([self.record.noisy[i][name] for i in at])
        clean = torch.cat([self.record.clean[i][name] for i in at])
        drawn, steps = float(self.drawn[name]), np.array([*at, self.steps])
        if name in self.schema.numbers:
            noisy, clean = (self.model.decode({name: z})[name].cpu() for z in (noisy, clean))
            paths = [np.append(x.numpy(), drawn) for x in (noisy, clean)]
            text = value_text(self.schema, name, drawn)
            _number(ax, steps, paths[0], paths[1], text)
        else:
            labels = self.schema.categorical[name].labels
            last = np.eye(len(labels))[[int(drawn)]]
            states = np.append(noisy.argmax(-1).cpu().numpy(), int(drawn))
            shares = np.concatenate([clean.cpu().numpy(), last])
            _labels(ax, steps, shares, labels, int(drawn))
            _strip(ax, steps, states, len(labels))

    def _along(self, ax: Axes, last: bool) -> None:
        """Steps below the columns that show them: a column is as wide as the steps between two."""
        half = self.steps / max(1, len(self.chosen) - 1) / 2
        ax.set_xlim(-half, self.steps + half)
        ax.set_xticks(self.chosen, self.chosen if last else [""] * len(self.chosen))
        ax.spines.bottom.set_bounds(0, self.steps)  # what is written beside it stays clear
        ax.tick_params(labelsize=7.5)
        if last:
            ax.set_xlabel("step", fontsize=8.5)


def _number(
    ax: Axes, steps: np.ndarray, noisy: np.ndarray, predicted: np.ndarray, drawn: str
) -> None:
    """The path of a number, z_t behind its prediction; axes for the prediction, and some room."""
    ax.plot(steps, noisy, color="0.72", lw=1, label="noisy $z_t$")
    ax.plot(steps, predicted, color=COLOURS[0], lw=1.6, label="prediction of $z_0$")
    _mark(ax, steps[-1], predicted[-1], drawn)
    ax.margins(y=0.15)


def _distribution(ax: Axes, steps: np.ndarray, stated: Marginal, value: float, drawn: str) -> None:
    """What is stated of a number at every step, and the value that was drawn before."""
    ends, dashed = steps[[0, -1]], (0, (4, 3))
    ax.plot(ends, [value] * 2, color="0.6", lw=1, ls=dashed, label="drawn before the image")
    ax.fill_between(steps, *stated.interval(), color=COLOURS[0], alpha=0.2, lw=0, label="90 %")
    ax.plot(steps, stated.mean, color=COLOURS[0], lw=1.6, label="mean given $z_t$")
    _mark(ax, steps[-1], value, drawn)
    ax.margins(y=0.15)


def _mark(ax: Axes, step: float, value: float, text: str) -> None:
    """A dot at the end, and the drawn value beside it."""
    ax.plot(step, value, "o", color=COLOURS[0], ms=4, clip_on=False)
    ax.annotate(
        text, (step, value), (6, 0), textcoords="offset points", va="center", fontsize=8,
        annotation_clip=False,
    )  # fmt: skip


def _shades(count: int) -> np.ndarray:
    return colormaps["viridis"](np.linspace(0.12, 0.95, count))


def _strip(ax: Axes, steps: np.ndarray, states: np.ndarray, count: int) -> None:
    """The label in z_t, below the probabilities; white where masked."""
    strip = np.vstack([_shades(count), [[1, 1, 1, 1]]])[states]
    ax.bar(steps, 0.12, 1, bottom=-0.2, color=strip, lw=0)
    ax.set(ylim=(-0.2, 1))
    ax.annotate(
        "$z_t$", (steps[0], -0.14), (-4, 0), textcoords="offset points", fontsize=7.5, ha="right",
        va="center",
    )  # fmt: skip


def _labels(
    ax: Axes, steps: np.ndarray, shares: np.ndarray, labels: tuple[str, ...], drawn: int
) -> None:
    """Probabilities (m, K), stacked; the drawn label is set in bold."""
    ax.stackplot(steps, shares.T, colors=_shades(len(labels)), labels=labels, lw=0)
    ax.set(ylim=(0, 1), yticks=(0, 1))
    handles, names = ax.get_legend_handles_labels()
    legend = ax.legend(
        handles[::-1], names[::-1], fontsize=7, ncols=1 + (len(labels) - 1) // 4,
        loc="upper left", bbox_to_anchor=(1.01 * steps[-1], 1.1), bbox_transform=ax.transData,
        handlelength=0.8, handletextpad=0.4, labelspacing=0.15, columnspacing=0.6, borderpad=0,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names[::-1], strict=True):
        if name == labels[drawn]:
            text.set_fontweight("bold")
