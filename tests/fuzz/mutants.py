"""Mutants of files: a few bytes or words changed, as bad copies, editors and attackers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

# What breaks readers: numbers beyond any type, nesting without end, text that is none, the tags,
# anchors and constants of a grammar, and what a spreadsheet or another program writes.
WORDS: tuple[bytes, ...] = (
    b"", b" ", b"\t", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x1b[31m",
    b"0", b"-1", b"-0.0", b"1e999", b"NaN", b"-Infinity", b"nan", b"1_0", b"0x10", b"9" * 5000,
    b"4294967296", b"9223372036854775808", b"1,5", b"40-44", "\u0663".encode(), "\u2212 1".encode(),
    b"n/a", b"NA", b"null", b"true", b"[]", b"{}", b'""', b"[" * 20000, b"{\"a\":" * 20000,
    b'"\\ud800"', b"!!python/object/apply:os.system ['true']", b"&a [*a]", b"*a", b"<<: *a",
    b"- - - -", b"? ", b"| ", b": ", b"=1+1", b"../../../etc/passwd", b"/dev/zero", b"~", b"%s%n",
    b"a" * 300, b"\xe2\x80\x8b", b"'", b'"', b"\\", b"#", b",", b"|", b"=",
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Mutator = Callable[[bytes, Random], bytes]


def mutant(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """`data` after one to four changes; `others` are files that a part may be taken from."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        change = random.choice(_MUTATORS)
        data = change(data, random)
    if others and random.random() < 0.05:
        data = _spliced(data, random.choice(others), random)
    return data


def _place(data: bytes, random: Random) -> int:
    """A position; half of the time among the first bytes, where headers are."""
    most = len(data) if random.random() < 0.5 else min(len(data), 400)
    return random.randint(0, most)


def _flip_bit(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    at, out = min(_place(data, random), len(data) - 1), bytearray(data)
    out[at] ^= 1 << random.randrange(8)
    return bytes(out)


def _set_bytes(data: bytes, random: Random) -> bytes:
    """A number of two, four or eight bytes, in either order, that readers trip over."""
    size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    number = random.choice(_NUMBERS) % (1 << 8 * size)
    at = _place(data, random)
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def _truncated(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _without_part(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + data[at + random.choice((1, 2, 10, 100)) :]


def _part_twice(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    part = data[at : at + random.choice((1, 4, 30, 300))]
    return data[:at] + part * random.choice((2, 2, 3, 50)) + data[at + len(part) :]


def _word_added(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + random.choice(WORDS) + data[at:]


def _word_replaced(data: bytes, random: Random) -> bytes:
    """A word between separators, as a cell or a JSON value, by another."""
    starts = [i + 1 for i, c in enumerate(data[:20000]) if c in b"\t\n ,:[{=|"]
    if not starts:
        return _word_added(data, random)
    start = random.choice(starts)
    end = next((i for i in range(start, len(data)) if data[i] in b"\t\n,]}|"), len(data))
    return data[:start] + random.choice(WORDS) + data[end:]


def _line_moved(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    taken = lines.pop(random.randrange(len(lines)))
    if random.random() < 0.7:
        lines.insert(random.randint(0, len(lines)), taken)
    return b"\n".join(lines)


def _recoded(data: bytes, random: Random) -> bytes:
    """Saved in another encoding, or with other line ends."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _flip_bit(data, random)
    how = random.choice(("utf-8-sig", "utf-16", "utf-32", "latin-1", "crlf", "cr"))
    if how in ("crlf", "cr"):
        return text.replace("\n", "\r\n" if how == "crlf" else "\r").encode()
    return text.encode(how, errors="replace")


def _spliced(data: bytes, other: bytes, random: Random) -> bytes:
    return data[: _place(data, random)] + other[random.randint(0, len(other)) :]


_MUTATORS: tuple[Mutator, ...] = (
    _flip_bit,
    _flip_bit,
    _set_bytes,
    _truncated,
    _without_part,
    _part_twice,
    _word_added,
    _word_replaced,
    _word_replaced,
    _line_moved,
    _recoded,
)
