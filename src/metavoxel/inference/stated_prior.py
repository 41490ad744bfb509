"""Another prior than the training set's: how frequent labels are where a question is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import SupportsFloat

from metavoxel.errors import MetaVoxelError
from metavoxel.schema import Schema

_HINT = 'Write it as "diagnosis: CN 0.8, MCI 0.15, AD 0.05; sex: F 0.5, M 0.5".'
_ROUNDING = 0.011  # by which shares that were rounded to two digits may miss a sum of 1

Shares = Mapping[str, Mapping[str, float]]


def parse_prior(text: str) -> dict[str, dict[str, float]]:
    """Shares by variable and label. Raises MetaVoxelError for text that says none."""
    out: dict[str, dict[str, float]] = {}
    for part in filter(str.strip, text.split(";")):
        name, colon, said = (x.strip() for x in part.partition(":"))
        if not (name and colon and said):
            raise MetaVoxelError(f'--prior: "{part.strip()}" states no variable. {_HINT}')
        if name in out:
            raise MetaVoxelError(f"--prior: {name} is stated twice. State it once.")
        out[name] = {}
        for item in said.split(","):
            label, _, share = item.strip().rpartition(" ")
            label = label.strip()
            if label in out[name]:
                raise MetaVoxelError(f"--prior: {label} of {name} is stated twice. State it once.")
            try:
                out[name][label] = float(share)
            except ValueError:
                raise MetaVoxelError(
                    f'--prior: "{item.strip()}" is not a label and its share. {_HINT}'
                ) from None
    if not out:
        raise MetaVoxelError(f"--prior is empty. {_HINT}")
    return out


def check_prior(stated: Shares, schema: Schema) -> dict[str, list[float]]:
    """The shares of every stated variable's labels, in the schema's order, with a sum of 1.

    Raises MetaVoxelError for what is no categorical variable, or shares that are no distribution
    over all of its labels.
    """
    if not isinstance(stated, Mapping):
        raise MetaVoxelError(
            'A prior is stated by variable and label, as in {"sex": {"F": 0.5, "M": 0.5}}.'
        )
    out = {}
    for v, shares in stated.items():
        schema[v]  # raises with the list of names
        if v not in schema.categorical:
            raise MetaVoxelError(f"A prior can be stated of categorical variables; {v} is none.")
        labels = schema.categorical[v].labels
        if not isinstance(shares, Mapping):
            raise MetaVoxelError(
                f"The prior of {v} is a share of each label, as in {{{labels[0]!r}: 0.8, ...}}."
            )
        other = [x for x in shares if x not in labels] + [x for x in labels if x not in shares]
        if other:
            raise MetaVoxelError(
                f'The prior of {v} must state a share of each of {", ".join(labels)}; "{other[0]}" '
                f"is {'missing' if other[0] in labels else 'none of them'}."
            )
        each = [_number(shares[x]) for x in labels]
        total = sum(each)
        if not all(math.isfinite(x) and x >= 0 for x in each) or abs(total - 1) > _ROUNDING:
            raise MetaVoxelError(
                f"The shares of {v} must be from 0 to 1 and have a sum of 1, not {total:g}."
            )
        out[v] = [x / total for x in each]
    return out


def _number(share: object) -> float:
    """A share; NaN if it is no number."""
    return float(share) if isinstance(share, SupportsFloat) else math.nan


def prior_text(stated: Shares) -> str:
    """The notation of `parse_prior`."""
    parts = (f"{v}: {', '.join(f'{k} {p:g}' for k, p in x.items())}" for v, x in stated.items())
    return "; ".join(parts)
