"""What a derivative says of its scans: measures, oddity, failures. The oddest come first."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from metavoxel.data.description import DESCRIPTION, read_description
from metavoxel.data.scans import ScanFile, scan_files
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_object
from metavoxel.preprocess.derivative import mask_of
from metavoxel.preprocess.logs import LOGS, read_status
from metavoxel.preprocess.measures import outlier_scores

T = TypeVar("T", dict, list)


@dataclass(frozen=True)
class ScanSummary:
    """One scan. `status` is "prepared", or "failed" or "unfinished": then `brain` is None, and
    `reason` says why.

    `outlier_score` is in robust standard deviations from the cohort's median, of the measure
    `oddest`; infinite where a measure could not be taken.
    """

    name: str  # of the raw scan, as sub-01_ses-a_T1w
    subject: str
    session: str | None
    suffix: str
    status: str = "prepared"
    brain: Path | None = None
    mask: Path | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str = ""
    reason: str = ""
    seconds: float = math.nan
    peak_memory_mb: float = math.nan
    outlier_score: float = math.nan
    oddest: str = ""


def read_group(out: Path) -> list[ScanSummary]:
    """Every scan of a derivative, failures first, then the oddest. Raises MetaVoxelError."""
    if read_description(out) is None:
        raise MetaVoxelError(
            f"{out}: there is no derivative here (no {DESCRIPTION}). Give the folder that "
            "metavoxel preprocess wrote."
        )
    files = [f for f in scan_files(out) if f.entities.get("desc") == "brain" and f.suffix != "mask"]
    done = [s for s in (_prepared(out, file) for file in files) if s is not None]
    scored = [s for suffix in sorted({d.suffix for d in done}) for s in _scored(done, suffix)]
    names = {s.name for s in done}
    logs = sorted((out / LOGS).glob("sub-*.json"))
    failed = [_failed(out, log.stem) for log in logs if log.stem not in names]
    if not scored and not failed:
        raise MetaVoxelError(
            f"{out}: no scan has been prepared here yet. Run metavoxel preprocess BIDS {out} "
            "participant first."
        )
    ordered = sorted(scored, key=lambda s: (-s.outlier_score, s.name))
    return [*failed, *ordered]


def _prepared(out: Path, file: ScanFile) -> ScanSummary | None:
    """A brain and what stands beside it; None while it is being written (no sidecar yet)."""
    extension = ".nii.gz" if file.path.name.endswith(".nii.gz") else ".nii"
    sidecar = file.path.with_name(f"{file.path.name.removesuffix(extension)}.json")
    if not sidecar.is_file():
        return None
    facts, damaged = _facts(sidecar)
    status, unread = _status(out, file.raw_name)
    told = facts.get("MetaVoxel", {})
    return ScanSummary(
        name=file.raw_name,
        subject=file.subject,
        session=file.session,
        suffix=file.suffix,
        brain=file.path,
        mask=mask_of(file.path, file.suffix),
        measures={k: _number(x) for k, x in _part(told, "Measures", dict).items()},
        notes=tuple(map(str, _part(told, "Notes", list))),
        source=str(next(iter(_part(facts, "Sources", list)), "")),
        reason=damaged or unread,
        seconds=_number(status.get("seconds")),
        peak_memory_mb=_number(status.get("peak_memory_mb")),
    )


def _facts(sidecar: Path) -> tuple[dict[str, Any], str]:
    """What a sidecar says, and what is wrong with it."""
    with contextlib.suppress(MetaVoxelError):
        facts = read_object(sidecar)
        if isinstance(facts.get("MetaVoxel"), dict):
            return facts, ""
    return {}, f"{sidecar.name} cannot be read: prepare the scan again"


def _status(out: Path, name: str) -> tuple[dict[str, Any], str]:
    """What the log of a scan says, and what is wrong with it."""
    try:
        return read_status(out, name) or {}, ""
    except MetaVoxelError:
        return {}, "its log cannot be read: move it away, and run the preparation again"


def _part(told: Mapping[str, Any], key: str, kind: type[T]) -> T:
    found = told.get(key)
    return found if isinstance(found, kind) else kind()


def _failed(out: Path, name: str) -> ScanSummary:
    told, unread = _status(out, name)
    reason = unread or {
        "failed": str(told.get("reason", "no reason was written down")),
        "running": "its preparation is under way, or was interrupted: run it again",
        "ok": "it was prepared, but its files are gone: run the preparation again",
    }.get(str(told.get("status")), "its log is none of ours: move it away")
    *parts, suffix = name.split("_")
    session = next((p for p in parts if p.startswith("ses-")), None)
    status = "failed" if told.get("status") == "failed" else "unfinished"
    return ScanSummary(name, parts[0] if parts else name, session, suffix, status, reason=reason)


def _scored(done: Sequence[ScanSummary], suffix: str) -> list[ScanSummary]:
    """The scans of one suffix with their outlier scores. A missing measure is infinitely odd."""
    scans = [s for s in done if s.suffix == suffix]
    names = list(dict.fromkeys(name for s in scans for name in s.measures))
    lacking = {s.name: _lacks(s, names) for s in scans}
    whole = [s for s in scans if lacking[s.name] is None]
    scores = outlier_scores([{k: s.measures[k] for k in names} for s in whole])
    out = [
        replace(s, outlier_score=score, oddest=oddest)
        for s, (score, oddest) in zip(whole, scores, strict=True)
    ]
    odd = [s for s in scans if lacking[s.name] is not None]
    return out + [replace(s, outlier_score=math.inf, oddest=lacking[s.name] or "") for s in odd]


def _lacks(scan: ScanSummary, names: Sequence[str]) -> str | None:
    """The first measure that the scan does not have, if there is one."""
    if not scan.measures:
        return "all measures"
    return next((n for n in names if not math.isfinite(scan.measures.get(n, math.nan))), None)


def _number(x: Any) -> float:
    return float(x) if isinstance(x, (int, float)) else math.nan
