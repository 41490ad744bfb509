"""The demo's page: one HTML file with everything in it, light or dark, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from metavoxel.files.writing import atomic_write
from metavoxel.version import __version__

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fbfbf9; --soft: #6a7280;
        --line: #dfe3e8; --code: #eef2f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --paper: #15191f; --soft: #9aa4b2; --line: #2c333d; --code: #1e242c; }
}
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 2rem; margin: 0 0 .3rem; } h2 { margin: 2.6rem 0 .4rem; font-size: 1.3rem; }
.soft { color: var(--soft); } p { max-width: 46rem; }
code { background: var(--code); padding: .15rem .4rem; border-radius: 4px; font-size: .88em;
       overflow-wrap: anywhere; }
figure { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: 1rem; align-items: start; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px;
      background: white; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True, eq=False)
class Section:
    """A heading, a paragraph, the call that makes it, figures by file name, a table of rows."""

    title: str
    text: str
    call: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    rows: Sequence[Sequence[str]] = ()


def write_page(out: Path, sections: Sequence[Section], seconds: Mapping[str, float]) -> Path:
    """Write figures/*.png and report.html; return the page's path."""
    body = "\n".join(_section(section, out / "figures") for section in sections)
    times = [("part", "seconds"), *((k, f"{v:.0f}") for k, v in seconds.items())]
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MetaVoxel demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>
<body><main>
<h1>One model, any question</h1>
<p class="soft">MetaVoxel {__version__}: a joint diffusion model of a 3D scan and its
clinical variables, trained just now on a simulated cohort. Minutes of training on a small machine
show how it works, not how well it can.</p>
{body}
<h2>Time</h2>
{_table(times)}
<p class="soft">Simulated data: no subject is real. Not a medical device.</p>
</main></body></html>
"""
    path = out / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(text)
    return path


def _section(section: Section, folder: Path) -> str:
    pictures = "".join(_picture(name, fig, folder) for name, fig in section.figures.items())
    return "\n".join(
        [
            f"<h2>{html.escape(section.title)}</h2>",
            f"<p>{html.escape(section.text)}</p>",
            f"<p><code>{html.escape(section.call)}</code></p>",
            f"<figure>{pictures}</figure>" if pictures else "",
            _table(section.rows) if section.rows else "",
        ]
    )


def _picture(name: str, fig: Figure, folder: Path) -> str:
    path = folder / f"{name}.png"
    with atomic_write(path) as temporary:
        fig.savefig(temporary, dpi=110)
    plt.close(fig)
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in body]
    return f"<table><tr>{cells}</tr>{''.join(lines)}</table>"
