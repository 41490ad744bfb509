"""What a word of a table or of a question says: a number, a label, or that a value is missing."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from unicodedata import normalize

# Beside BIDS' own n/a and the empty cell: what spreadsheets, R, pandas and SPSS write.
MISSING = frozenset(
    {"", "n/a", "na", "n.a.", "n.a", "#n/a", "<na>", "nan", "null", "none", "nil", ".", "?"}
    | {"missing", "unknown", "not available", "not applicable", "nat"}
    | {"#value!", "#ref!", "#div/0!", "#name?", "#num!", "#null!"}  # a formula that failed
)
_IN_WORDS = frozenset({"none", "nil"})  # which a list of labels may well mean as it stands
_LONGEST = 64  # characters of a number; 17 digits say all that a float holds
_LARGEST, _LEAST = 3e38, 1e-37  # of float32, which training computes in
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_SAYS = frozenset({"missing", "unknown", "unavailable", "unreported", "refused", "refusal", "na"})
_SAYS_NOT_LISTED = """
answer answered applicable assessed available collected data disclosed entered information
know known measured provided recorded reported say specified stated value
"""
_SAYS_NOT = frozenset(_SAYS_NOT_LISTED.split())
_FILLS_LISTED = """
a and answer any are by code data did do don for information is it me no not of only or
participant prefer prefers sentinel subject t the this to value values was were
"""
_FILLS = frozenset(_FILLS_LISTED.split())


def is_missing(text: str) -> bool:
    """Whether a word stands for a missing value, where nothing else is said of it."""
    return text.strip().casefold() in MISSING


def described_as_missing(word: str, description: str) -> bool:
    """Whether a label is declared, as by Levels, to stand for a missing value.

    A word such as NA is a label where it is described as one ("North America").
    """
    said, word = description.strip().casefold(), word.strip().casefold()
    if said in ("", word):
        return is_missing(word) and word not in _IN_WORDS
    if is_missing(said):
        return said not in _IN_WORDS
    tokens = re.findall(r"[a-z]+", said.replace("n/a", "na"))
    denied = {"no", "not", "don"} & {*tokens}
    says = _SAYS & {*tokens} or (denied and _SAYS_NOT & {*tokens})
    return bool(says) and {*tokens} <= _SAYS | _SAYS_NOT | _FILLS


@lru_cache(maxsize=2**16)
def number(text: str) -> float | None:
    """The number in a text, as a table's reader would read it, or None.

    ASCII digits, a point, an exponent; no underscores, no inf or nan, and nothing beyond float32.
    """
    text = text.strip()
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    if abs(value) < _LEAST:
        return 0.0
    return value if abs(value) <= _LARGEST else None


@lru_cache(maxsize=2**16)  # tables repeat themselves
def key(text: str) -> Decimal | str:
    """What two spellings of one label share: case, blanks and the form of a number do not count."""
    if number(text) is not None:
        return Decimal(text.strip())  # exact: two long codes are not one
    return " ".join(normalize("NFKC", text).casefold().split())
