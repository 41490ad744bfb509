"""The group level: a table of every scan, and one page to look at them all."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from metavoxel.data.quality import UNDECIDED, last_decisions, read_decisions
from metavoxel.errors import MetaVoxelError
from metavoxel.files.html import Html, fill, write_page
from metavoxel.files.writing import atomic_write
from metavoxel.preprocess.derivative import declared_recipe
from metavoxel.preprocess.group import ScanSummary, read_group
from metavoxel.preprocess.logs import (
    Files,
    check_ours,
    digests,
    listed,
    read_status,
    write_json,
    write_status,
)
from metavoxel.preprocess.mosaic import Tile, read_brain, tile
from metavoxel.version import __version__

_LOG = "group"  # lists the files of the group level
_BODY, _SCRIPT = (Path(__file__).with_name(f"report.{kind}") for kind in ("html", "js"))
# What the columns of the table mean. Measures that are not here stand in it all the same.
MEASURES = {
    "brain_volume": ("Volume of the brain mask", "mL"),
    "template_overlap": ("Dice overlap of the brain mask with the template's", "1"),
    "template_correlation": ("Correlation with the template inside its brain", "1"),
    "tissue_contrast": ("White minus grey matter, in units of their spread", "1"),
    "symmetry": ("Correlation with the mirror image, smoothed by 4 mm", "1"),
    "edge_fraction": ("Share of the brain mask on the edge of the field of view", "1"),
}
_COLUMNS: dict[str, Any] = {
    "participant_id": {"Description": "Subject"},
    "session_id": {"Description": "Session"},
    "scan": {"Description": "Name of the raw scan, without extension"},
    "status": {
        "Description": "What became of the scan",
        "Levels": {
            "prepared": "It was prepared",
            "failed": "It could not be; see reason",
            "unfinished": "Its preparation did not end; see reason",
        },
    },
    "outlier_score": {
        "Description": "Distance of the oddest measure from the cohort's median, in robust "
        "standard deviations (1.4826 times the median absolute deviation); inf where a measure "
        "could not be taken"
    },
    "oddest_measure": {"Description": "The measure behind the outlier score"},
    "decision": {"Description": "The last decision in qc.tsv"},
    "seconds": {"Description": "Time that preparation took", "Units": "s"},
    "peak_memory_mb": {"Description": "Most memory that its process had held", "Units": "MB"},
    "notes": {"Description": "What preparation had to say"},
    "reason": {"Description": "Why it failed, or cannot be read"},
}


def run_group(out: Path, console: Console) -> None:
    """Write group_SUFFIX.tsv, .json and .html for every suffix (T1w) of a derivative.

    Raises MetaVoxelError if there is no derivative of ours, a file is in the way that the group
    level did not write, or the disk cannot take them. A scan that cannot be read has its sentence
    in them.
    """
    scans = read_group(out)
    declared_recipe(out)  # or it is not ours to write into
    decisions = {s: d.decision for s, d in last_decisions(read_decisions(out)).items()}
    for suffix in sorted({s.suffix for s in scans}):
        chosen = [s for s in scans if s.suffix == suffix]
        paths = [out / f"group_{suffix}.{kind}" for kind in ("tsv", "json", "html")]
        _begin(out, paths)
        columns = _columns(chosen)
        with atomic_write(paths[0]) as temporary:
            temporary.write_text(_table(chosen, columns, decisions), encoding="utf-8")
        write_json(paths[1], {name: _described(name) for name in columns})
        rows = track(chosen, f"Pictures of {suffix}", console=console, transient=True)
        data = [_row(scan, decisions) for scan in rows]
        body = _body(out, suffix, chosen, data)
        write_page(paths[2], f"Prepared {suffix} scans", [body], _SCRIPT.read_text())
        write_status(out, _LOG, status="ok", files={**_listed(out), **digests(paths, out)})
        console.print(
            f"{_counted(chosen)}: {escape(str(paths[0]))} and {escape(paths[2].name)}",
            highlight=False,
            soft_wrap=True,
        )


def _begin(out: Path, paths: Sequence[Path]) -> None:
    """List what is about to be written. Raises MetaVoxelError if a file of others is there."""
    check_ours(paths, out, _listed(out))
    begun = {path.relative_to(out).as_posix(): None for path in paths}
    write_status(out, _LOG, status="running", files={**_listed(out), **begun})


def _listed(out: Path) -> Files:
    return listed(read_status(out, _LOG)) or {}


def _columns(scans: Sequence[ScanSummary]) -> list[str]:
    first, last = [*_COLUMNS][:6], [*_COLUMNS][6:]
    return [*first, *_measures(scans), *last]


def _measures(scans: Sequence[ScanSummary]) -> list[str]:
    return list(dict.fromkeys(name for s in scans for name in s.measures))


def _described(column: str) -> dict[str, Any]:
    if column in MEASURES:
        description, unit = MEASURES[column]
        return {"Description": description, "Units": unit}
    return _COLUMNS.get(column, {"Description": column.replace("_", " ")})


def _table(scans: Sequence[ScanSummary], columns: list[str], decisions: dict[str, str]) -> str:
    lines = ["\t".join(columns)]
    for s in scans:
        cells = {
            "participant_id": s.subject,
            "session_id": s.session or "",
            "scan": s.name,
            "status": s.status,
            "outlier_score": _cell(s.outlier_score),
            "oddest_measure": s.oddest,
            **{name: _cell(x) for name, x in s.measures.items()},
            "decision": decisions.get(s.name, UNDECIDED),
            "seconds": _cell(s.seconds),
            "peak_memory_mb": _cell(s.peak_memory_mb),
            "notes": "; ".join(s.notes),
            "reason": s.reason,
        }
        lines.append("\t".join(" ".join(cells.get(c, "").split()) or "n/a" for c in columns))
    return "\n".join(lines) + "\n"


def _cell(x: float) -> str:
    return "n/a" if math.isnan(x) else f"{x:.5g}"


def _row(scan: ScanSummary, decisions: dict[str, str]) -> dict[str, Any]:
    """A scan as the page needs it."""
    picture, reason = _tile_or_reason(scan)
    score = scan.outlier_score
    return {
        "scan": scan.name,
        "status": scan.status,
        "score": None if math.isnan(score) else min(score, 1e9),  # JSON has no infinity
        "oddest": scan.oddest,
        "measures": {k: None if math.isnan(x) else x for k, x in scan.measures.items()},
        "decision": decisions.get(scan.name, UNDECIDED),
        "seconds": None if math.isnan(scan.seconds) else scan.seconds,
        "notes": "; ".join(scan.notes),
        "reason": reason,
        "tile": picture and [picture.picture, picture.outline, picture.width, picture.height],
    }


def _tile_or_reason(scan: ScanSummary) -> tuple[Tile | None, str]:
    if scan.brain is None or scan.mask is None:
        return None, scan.reason
    try:
        return tile(*read_brain(scan.brain, scan.mask)), scan.reason
    except MetaVoxelError as error:
        return None, str(error)


def _counted(scans: Sequence[ScanSummary]) -> str:
    count = Counter(s.status for s in scans)
    said = f"{count['prepared']} scans are prepared, {count['failed']} failed"
    return said + (f", {count['unfinished']} unfinished" if count["unfinished"] else "")


def _body(out: Path, suffix: str, scans: Sequence[ScanSummary], rows: list[dict[str, Any]]) -> Html:
    # "<" inside a script could end it; as an escape in a string it cannot.
    data = {"rows": rows, "measures": {k: _described(k) for k in _measures(scans)}}
    packed = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    lead, recipe = _lead(scans), _recipe(out)
    return fill(
        _BODY, SUFFIX=suffix, VERSION=__version__, LEAD=lead, RECIPE=recipe, DATA=Html(packed)
    )


def _lead(scans: Sequence[ScanSummary]) -> str:
    said = [f"{_counted(scans)}."]
    seconds = [s.seconds for s in scans if math.isfinite(s.seconds)]
    if seconds:
        total = sum(seconds) / 60
        spent = f"{total / 60:.1f} hours" if total >= 60 else f"{total:.0f} minutes"
        worst = max((s.peak_memory_mb for s in scans if math.isfinite(s.peak_memory_mb)), default=0)
        said.append(
            f"A scan took {statistics.median(seconds):.0f} s (median; at most "
            f"{max(seconds):.0f} s), all of them {spent} of one core; a worker held at most "
            f"{worst / 1000:.1f} GB."
        )
    return " ".join(said)


def _recipe(out: Path) -> str:
    """The recipe that the derivative declares, in a line."""
    recipe = declared_recipe(out)
    parts = {**recipe["settings"], **recipe["tools"]}
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in parts.items())
