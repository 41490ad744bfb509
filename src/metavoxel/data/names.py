"""What the name of a column says: its words, its unit, and a name that a variable may have."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from unicodedata import normalize

_QUANTITIES_LISTED = """
age ages year years yrs month months week weeks day days hour hours minute minutes second
seconds score scores total sum mean median std ratio percent percentage points count
counts volume volumes vol thickness area length width size distance diameter weight height
bmi mass pressure temperature rate frequency dose dosage concentration duration time
interval income iq fsiq viq piq mmse moca adas updrs nihss edss gcs phq gad bdi hamd madrs
panss cdrsb icv tiv etiv suvr sbp dbp egfr
"""
QUANTITIES = frozenset(_QUANTITIES_LISTED.split())
_CODES_LISTED = """
site sites group groups grp cohort arm condition treatment medication drug class category
code type subtype status stage grade label cluster dx diagnosis diag phenotype genotype
allele apoe sex gender race ethnicity ethnic country language center centre hospital
clinic scanner manufacturer vendor model device machine coil protocol batch study dataset
project visit wave session hand handedness hemisphere side smoker smoking
"""
CODES = frozenset(_CODES_LISTED.split())
_CONNECTED = ("volume", "score", "thickness", "weight")  # as in brainvolume
_UNITS_LISTED = """
years year yrs yr y months month mo weeks days d hours hour hrs h minutes min seconds sec
s ms kg g mg ug m km cm mm ml l dl ul cc mmhg kpa percent % points mmol umol nmol pmol ng pg
iu bpm hz khz ma kcal c degrees suvr sd l1 m2 m3 cm2 cm3 mm2 mm3
"""
_UNITS = frozenset(_UNITS_LISTED.split())
_LAST_PARENTHESIS = re.compile(r"^(.*\S)\s*[(\[]([^()\[\]]{1,20})[)\]]$")
_ID = re.compile(
    r"(subject|participant|patient|session|scan|record|person|image|pt|gu|uu|[uref])?ids?"
)
_VISIT = re.compile(
    r"^(.*[^\W_])(?:[ _.-]+|(?<=[a-z])(?=[A-Z]))"
    r"(?i:w|wave|v|visit|t|tp|time|timepoint|ses|session|y|yr|year|m|month|fu|followup)"
    r"[ _.-]?[0-9]{1,3}$"
)
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")  # as schema.Name


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: "brainVolume_mm3" -> brain, volume, mm, 3."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", _ascii(name))
    words = [part.lower() for part in parts]
    return [*words, *(end for w in words for end in _CONNECTED if w != end and w.endswith(end))]


def unit_of(name: str) -> str | None:
    """The unit that a name ends with in parentheses, as in "Age (years)"."""
    match = _LAST_PARENTHESIS.match(name)
    if match is None:
        return None
    parts = [p for p in re.split(r"[/*·^ ]|(?<=[A-Za-z%])(?=[23]\b)", match[2].lower()) if p]
    known = [p in _UNITS or (p.lstrip("-").isdigit() and i > 0) for i, p in enumerate(parts)]
    return match[2].strip() if parts and all(known) else None


def is_id(name: str) -> bool:
    """Whether a name's last word says that it is an identifier."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", _ascii(name))
    return bool(words) and _ID.fullmatch(words[-1].lower()) is not None


def visit_stem(name: str) -> str | None:
    """What a column measures at a visit: age of age_W1; None where it names no visit."""
    match = _VISIT.match(name)
    return match[1] if match else None


def variable_name(column: str, taken: Container[str]) -> str:
    """A name for the variable of a column: its own where it is one, and no other's."""
    if _NAME.match(column) and column not in taken:
        return column
    match = _LAST_PARENTHESIS.match(column)
    for text in ([match[1]] if match else []) + [column]:
        name = _slug(text)
        if name not in taken:
            return name
    name = _slug(column)
    return next(f"{name}_{i}" for i in range(2, 10**6) if f"{name}_{i}" not in taken)


def twins(name: str, others: Iterable[str]) -> list[str]:
    """Those of the others that are the same name but for its case."""
    return [other for other in others if other.casefold() == name.casefold() and other != name]


def near_pair(names: Iterable[str], others: Iterable[str]) -> tuple[str, str] | None:
    """A name, and another that is the same but for its case, leading zeros and sub- before it."""
    by_form = {_form(other): other for other in others}
    return next(((name, by_form[_form(name)]) for name in names if _form(name) in by_form), None)


def _form(name: str) -> str:
    bare = re.sub(r"^(?:sub-)+", "", name.casefold())
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", bare)


def _slug(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", _ascii(text).lower()).strip("_") or "column"
    return f"_{name}" if name[0].isdigit() else name


def _ascii(text: str) -> str:
    return normalize("NFKD", text).encode("ascii", "ignore").decode()
