"""Numbers that stand for a missing value, as -999: which are taken so, and which only look it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

_SENTINELS = frozenset({-9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0})
_FAR = 3.0  # interquartile ranges from the quartiles: far out, as Tukey has it
_TWICE = 2  # a sentinel that stands once may be a slip of the pen
_FEW = 2  # negative numbers that differ: more are no codes of a missing value
_MEND = "If it means missing, write n/a, or list it under missing in the schema."


def sentinels(candidates: Sequence[float], numbers: Sequence[float]) -> tuple[list[str], list[str]]:
    """Those of the candidates that are missing, and what is to be said of others.

    It must be one of a few, far from all other numbers of the column, and stand twice or more.
    """
    counts = Counter(x for x in candidates if x in _SENTINELS)
    others = [x for x in numbers if x not in _SENTINELS]
    low, high = _fences(others) if others else (math.inf, -math.inf)  # of words, every number is
    found, notes = [], []
    for value, count in sorted(counts.items()):
        far = not low <= value <= high
        if far and count >= _TWICE:
            found.append(f"{value:g}")
        elif not others or not min(others) <= value <= max(others):
            why = "it stands once" if far else "it is near the other numbers"
            notes.append(f"{value:g} is kept as it is, since {why}. {_MEND}")
    return found, notes


def look_missing(candidates: Sequence[float], numbers: Sequence[float], labels: bool) -> list[str]:
    """What is to be said of numbers that are kept, and may stand for a missing value.

    Those that stand twice or more, and far from all others or negative where no other is; among
    labels (`labels`) those that are negative.
    """
    counts = Counter(x for x in candidates if x not in _SENTINELS)
    others = [x for x in numbers if x not in _SENTINELS]
    negative = {x for x in others if x < 0}
    alone = len(negative) <= _FEW and (labels or len(negative) < len({*others}))
    notes = []
    for value, count in sorted(counts.items()):
        if alone and value < 0 and (labels or count >= _TWICE):
            why = "only one other is negative" if len(negative) > 1 else "no other is negative"
        elif not labels and count >= _TWICE and _stands_out(value, others):
            why = "it is far from all others"
        else:
            continue
        cells = "1 cell" if count == 1 else f"{count} cells"
        notes.append(f"{value:g} ({cells}) is kept as it is, though {why}. {_MEND}")
    return notes


def _stands_out(value: float, numbers: Sequence[float]) -> bool:
    """Whether it is far from all the others, which are most and differ."""
    others = [x for x in numbers if x != value]
    if 2 * len(others) <= len(numbers):
        return False
    low, high = _fences(others)
    return low < high and not low <= value <= high


def _fences(numbers: Sequence[float]) -> tuple[float, float]:
    """What lies beyond these is far out."""
    first, third = np.percentile(np.array(numbers), [25, 75])
    width = _FAR * (third - first)
    return float(first - width), float(third + width)
