"""Images in rows, as data and as a model draws them: samples (B.1, B.2) and inpainting (B.3).

Rows are as wide as a page's text and are laid out in inches, so that their text is read at the size
at which it was set.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metavoxel.api import RESAMPLINGS
from metavoxel.evaluation.figures.style import STYLE, WIDTH, axes, unit_text
from metavoxel.inference.ask import IMAGES
from metavoxel.inference.inpaint import inpaint
from metavoxel.model import MetaVoxel
from metavoxel.schema import Schema

TITLE = 0.22  # inches left of a row for its title
_GAP = 0.04  # inches between two pictures
_LINE = 0.125  # inches of a line of a caption
_TEXT = 7.5  # points
_LARGEST = 1.4  # inches: few pictures are not blown up to fill the page


def planes(image: np.ndarray) -> list[np.ndarray]:
    """The middle sagittal, coronal and axial slices of a volume (x, y, z), upright; a 2D image as
    it is. The axial one lies a little above the middle, where the ventricles are."""
    if image.ndim == 2:
        return [image]
    x, y, z = (n // 2 for n in image.shape)
    cuts = (image[x + 1], image[:, y], image[:, :, z + image.shape[2] // 16])
    return [np.rot90(cut) for cut in cuts]


def tile(image: np.ndarray) -> np.ndarray:
    """The planes of an image in one picture, stacked."""
    cuts = planes(image)
    width = max(cut.shape[1] for cut in cuts)
    padded = []
    for cut in cuts:
        left = (width - cut.shape[1]) // 2
        padded.append(np.pad(cut, ((0, 0), (left, width - cut.shape[1] - left))))
    return np.concatenate(padded)


def montage(
    images: Mapping[str, Sequence[np.ndarray]], captions: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Images (x, y[, z]) in [0, 1] in rows by label, with a caption under each of them.

    A label without captions has none.
    """
    columns = max(map(len, images.values()))
    across = min(_LARGEST, (WIDTH - TITLE) / columns - _GAP)
    letters = max(8, int(across * 72 / (0.62 * _TEXT)))  # of the letters' mean width
    texts = {
        label: [textwrap.fill(text, letters) for text in (captions or {}).get(label, ())]
        for label in images
    }
    rows = [[tile(image) for image in row] for row in images.values()]
    down = across * rows[0][0].shape[0] / rows[0][0].shape[1]
    under = {
        label: _LINE * max((1 + text.count("\n") for text in row), default=0)
        for label, row in texts.items()
    }
    width = TITLE + columns * (across + _GAP)
    height = _GAP + len(rows) * (down + 2 * _GAP) + sum(under.values())
    with plt.rc_context(STYLE):
        fig, top = plt.figure(figsize=(width, height)), _GAP
        for (label, said), row in zip(texts.items(), rows, strict=True):
            row_title(fig, label, top, down)
            for i, picture in enumerate(row):
                ax = inset(fig, (TITLE + i * (across + _GAP), top, across, down))
                show(ax, picture)
                if i < len(said):
                    ax.text(
                        0.5, -_GAP / down, said[i], transform=ax.transAxes, ha="center", va="top",
                        fontsize=_TEXT, linespacing=1.05,
                    )  # fmt: skip
            top += down + 2 * _GAP + under[label]
    return fig


def difference(image: np.ndarray, other: np.ndarray, caption: str) -> Figure:
    """Where `other` is brighter (red) or darker (blue) than `image`, in their planes."""
    change = tile(other) - tile(image)
    limit = max(0.05, float(np.abs(change).max()))
    with axes(_LARGEST + 0.8, _LARGEST * change.shape[0] / change.shape[1] + 0.3) as (fig, ax):
        shown = ax.imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.axis("off")
        ax.set_title(caption, fontsize=9)
        fig.colorbar(shown, ax=ax, shrink=0.8)
    return fig


def captions(schema: Schema, scalars: Mapping[str, np.ndarray]) -> list[str]:
    """What to write under records (n,) of scalars, such as "F, 63 years".

    Words and numbers with a unit of their own speak for themselves; other labels (yes, no, digits)
    and numbers follow the variable's name. What is not known (NaN) is left out.
    """
    order = [v for v in (*schema.categorical, *schema.numbers) if v in scalars]

    def said(v: str, x: float) -> str:
        text = value_text(schema, v, x)
        return text if _speaks_for_itself(schema, v) else f"{v.replace('_', ' ')} {text}"

    return [
        ", ".join(said(v, scalars[v][i]) for v in order if not np.isnan(scalars[v][i]))
        for i in range(len(scalars[order[0]]))
    ]


def _speaks_for_itself(schema: Schema, name: str) -> bool:
    if name in schema.categorical:
        labels = schema.categorical[name].labels
        return not any(label in ("yes", "no") or label[:1].isdigit() for label in labels)
    kind = schema.numbers[name]
    units = [other.unit for other in schema.numbers.values()]
    return kind.codes is not None or (kind.unit is not None and units.count(kind.unit) == 1)


def value_text(schema: Schema, name: str, value: float) -> str:
    """A scalar's value as one would say it: its label, or its number with the unit."""
    if name in schema.categorical:
        return schema.categorical[name].labels[int(value)]
    kind = schema.numbers[name]
    if kind.codes is not None:
        return kind.label(value)
    number = (f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}").replace("-", "\N{MINUS SIGN}")
    return f"{number}\N{NO-BREAK SPACE}{unit_text(kind.unit)}" if kind.unit else number


@torch.inference_mode()
def inpainted(
    model: MetaVoxel, images: Tensor, seed: int, axis: int = 0, variable: str | None = None
) -> Figure:
    """Images (n, C, *grid) in [0, 1] whose second half along `axis` is hidden and drawn twice.

    In a volume in RAS+ and axis 0, the left half of the brain is kept; it lies left in the axial
    and coronal slices. The filled images are shown as the autoencoder decodes them throughout, so
    that no seam comes of its blur.
    """
    name = variable or next(iter(model.schema.images))
    mask = torch.zeros(images.shape[2:], dtype=torch.bool)
    mask.narrow(axis, mask.shape[axis] // 2, mask.shape[axis] - mask.shape[axis] // 2).fill_(True)
    settings = model.config.sampling.model_copy(update={"resamplings": RESAMPLINGS})
    drawn = torch.stack(
        [inpaint(model, name, x, mask, {}, 2, seed + i, settings) for i, x in enumerate(images)]
    )
    seen = torch.cat(
        [model.decode(model.encode({name: part}))[name].cpu() for part in images.split(IMAGES)]
    )
    filled = torch.where(mask, drawn, seen[:, None])
    rows = {
        "real": images,
        "known": images.masked_fill(mask, 0.5),  # grey, as no air is
        "filled": filled[:, 0],
        "filled again": filled[:, 1],
    }
    return montage({title: [*x[:, 0].clamp(0, 1).numpy()] for title, x in rows.items()})


def inset(fig: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes in a box (left, top, width, height) of inches from the figure's upper left corner."""
    left, top, width, height = box
    w, h = fig.get_size_inches()
    return fig.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def show(ax: Axes, picture: np.ndarray) -> None:
    """A picture in [0, 1], without axes."""
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.axis("off")


def row_title(fig: Figure, title: str, top: float, height: float) -> None:
    """Upright at the left of a row, `top` and `height` in inches."""
    w, h = fig.get_size_inches()
    fig.text(
        0.6 * TITLE / w, 1 - (top + height / 2) / h, title, rotation=90, ha="center", va="center",
        fontsize=8.5,
    )  # fmt: skip
