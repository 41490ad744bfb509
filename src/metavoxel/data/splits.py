"""Splits by subject, never by scan, from a seed, on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.files.writing import atomic_write
from metavoxel.model_files import SplitFile, json_text


@dataclass(frozen=True)
class Split:
    """Subjects to train on, to validate on, and never to touch. `made` says how it was drawn."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    made: str = ""


def fraction_split(
    subjects: Sequence[str], seed: int, fractions: tuple[float, float, float] = (0.89, 0.01, 0.10)
) -> Split:
    """Train / validation / test by fractions; the default is the paper's.

    Every fraction above zero gets at least one subject. Raises MetaVoxelError if there are too few.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise MetaVoxelError(f"The split's fractions {list(fractions)} must add up to 1.")
    order = _shuffled(subjects, seed)
    wanted = [max(1, round(f * len(order))) if f > 0 else 0 for f in fractions]
    validation, test = wanted[1], wanted[2]
    if len(order) - validation - test < 1:
        raise MetaVoxelError(
            f"{len(order)} subjects are too few for a split of {list(fractions)}. Add subjects, or "
            "lower the validation and test fractions."
        )
    made = f"fractions {list(fractions)}, seed {seed}"
    return _split(order, validation, test, made)


def fold_split(
    subjects: Sequence[str], folds: int, fold: int, seed: int, validation: float = 0.1
) -> Split:
    """Fold number `fold` of `folds` is the test set; a share of the rest is the validation set.

    The folds of one seed are disjoint and cover all subjects. Each has other validation subjects,
    as far as there are enough: what is chosen and calibrated on the same few subjects in all folds
    is off in all of them alike. Raises MetaVoxelError.
    """
    order = _shuffled(subjects, seed)
    if len(order) < folds:
        raise MetaVoxelError(
            f"{len(order)} subjects cannot make {folds} folds. Use at most {len(order)} folds."
        )
    if not 0 <= fold < folds:
        raise MetaVoxelError(f"There is no fold {fold}; {folds} folds are numbered from 0.")
    had: set[str] = set()  # a turn to be validated on
    for k in range(fold + 1):
        test = set(order[k::folds])
        rest = sorted((s for s in order if s not in test), key=lambda s: s not in had)
        count = max(1, round(validation * len(rest))) if validation > 0 else 0
        had.update(rest[len(rest) - count :])
    if len(rest) - count < 1:
        raise MetaVoxelError(f"{len(order)} subjects leave none to train on. Use fewer folds.")
    made = f"fold {fold} of {folds}, validation {validation} of its own, seed {seed}"
    return _split([*rest, *sorted(test)], count, len(test), made)


def column_split(
    subjects: Sequence[str],
    values: Mapping[str, str],
    column: str,
    test: Collection[str],
    seed: int,
    validation: float = 0.1,
) -> Split:
    """The test set is whose value of a column is in `test`; a share of the rest is the validation
    set. Raises MetaVoxelError if a subject has no value, or nobody is left."""
    everyone = _shuffled(subjects, seed)
    empty = sorted(s for s in everyone if s not in values)
    if empty:
        raise MetaVoxelError(
            f'Column "{column}" has no value for {len(empty)} of {len(everyone)} subjects (such as '
            f"{empty[0]}), so it cannot say whether they are to be tested. Fill it in, or leave "
            "them out."
        )
    found = sorted({values[s] for s in everyone})
    if strange := [x for x in test if x not in found]:
        raise MetaVoxelError(
            f'Column "{column}" of these {len(everyone)} subjects is never "{strange[0]}"; it is '
            f"{', '.join(found)}. Name one of these."
        )
    rest = [s for s in everyone if values[s] not in test]
    count = max(1, round(validation * len(rest))) if validation > 0 else 0
    left_out = f"{column} {', '.join(sorted(test))}"
    if len(rest) - count < 1:
        raise MetaVoxelError(
            f"Without the subjects of {left_out} {len(rest)} of {len(everyone)} are left, too few "
            "to train and validate on. Leave out fewer."
        )
    tested = [s for s in everyone if values[s] in test]
    made = f"{left_out} left out, validation {validation} of the rest, seed {seed}"
    return _split([*rest, *tested], count, len(tested), made)


def folds_of(subjects: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Which of `folds` disjoint folds, of one size but for one, every subject is in."""
    return {s: i % folds for i, s in enumerate(_shuffled(sorted({*subjects}), seed))}


def write_split(split: Split, path: Path) -> None:
    """Write a split as JSON."""
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(json_text(asdict(split)))


def read_split(path: Path) -> Split:
    """Read a split. Raises MetaVoxelError if a subject is in two parts, or the file is no split."""
    split = Split(**dict(read_model(path, SplitFile)))
    everyone = [*split.train, *split.validation, *split.test]
    twice = sorted(s for s, count in Counter(everyone).items() if count > 1)
    if twice:
        raise MetaVoxelError(f"{path}: {twice[0]} stands more than once. Keep it in one part.")
    return split


def _split(order: Sequence[str], validation: int, test: int, made: str) -> Split:
    train = len(order) - validation - test
    return Split(
        tuple(sorted(order[:train])),
        tuple(sorted(order[train : train + validation])),
        tuple(sorted(order[train + validation :])),
        made,
    )


def _shuffled(subjects: Sequence[str], seed: int) -> list[str]:
    """The distinct subjects in an order that depends on the seed and on nothing else."""
    distinct = sorted(set(subjects))
    return [distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))]
