"""The demo's page: what was done, call by call, with its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metavoxel.evaluation.figures.style import axes, save_png
from metavoxel.files.html import Html, element, picture, table, write_page
from metavoxel.version import __version__


@dataclass(frozen=True, eq=False)
class Section:
    """A heading, a paragraph, the call that makes it, figures by file name, a table of rows."""

    title: str
    text: str
    call: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    rows: Sequence[Sequence[str]] = ()


def write_demo_page(out: Path, sections: Sequence[Section], seconds: Mapping[str, float]) -> Path:
    """Write figures/*.png and report.html; return the page's path."""
    about = (
        f"MetaVoxel {__version__}: a joint diffusion model of a 3D scan and its clinical "
        "variables, trained just now on a simulated cohort. Minutes of training on a small machine "
        "show how it works, not how well it can."
    )
    body = [
        element("h1", "One model, any question"),
        element("p", about, class_="soft"),
        *(part for section in sections for part in _section(section, out / "figures")),
        element("h2", "Time"),
        table(["part", "seconds"], [(k, f"{v:.0f}") for k, v in seconds.items()]),
        element("p", "Simulated data: no subject is real. Not a medical device.", class_="soft"),
    ]
    path = out / "report.html"
    write_page(path, "MetaVoxel demo", body)
    return path


def _section(section: Section, folder: Path) -> Iterator[Html]:
    yield element("h2", section.title)
    yield element("p", section.text)
    yield element("p", element("code", section.call))
    paths = {name: folder / f"{name}.png" for name in section.figures}
    for name, path in paths.items():
        save_png(section.figures[name], path)
    if paths:
        pictures = [picture(name, path.read_bytes()) for name, path in paths.items()]
        yield element("div", *pictures, class_="row")
    if section.rows:
        yield table(section.rows[0], section.rows[1:])


def training_curves(logs: Path, tags: Mapping[str, str]) -> Figure:
    """Scalars of a run's TensorBoard logs, by label; a label never logged has no curve."""
    curves = _curves(logs)
    with axes(7, 3.4) as (fig, ax):
        logged = {label: tag for label, tag in tags.items() if tag in curves}
        for label, tag in logged.items():
            ax.plot(*curves[tag], "o-", ms=3, label=label)
        ax.set(xlabel="step", ylabel="held-out loss")
        ax.legend(ncols=2)
    return fig


def _curves(logs: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every scalar in a folder of TensorBoard logs."""
    events = EventAccumulator(str(logs))
    events.Reload()
    return {
        tag: ([e.step for e in events.Scalars(tag)], [e.value for e in events.Scalars(tag)])
        for tag in events.Tags()["scalars"]
    }
