"""The one error, and the one warning, that a user is meant to read."""

from __future__ import annotations

import re

# Characters of one word: a path may be long, but nobody reads five thousand digits.
_LONGEST, _SHOWN = 500, 60


class MetaVoxelError(Exception):
    """Something the user can mend: one sentence saying what is wrong, where, and what to do.

    What the sentence quotes from a file is made harmless: it stays one line, holds no control
    characters (a terminal would obey them), and words without end are cut. The command line prints
    the sentence alone and exits with status 2; everything else that is raised is a bug of ours and
    keeps its traceback.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(harmless(sentence))


class MetaVoxelWarning(UserWarning):
    """Something the user should know of an answer; one sentence, as of an error."""


def harmless(text: str) -> str:
    """Text on one line that a terminal shows as it is."""
    line = " ".join(text.splitlines())
    shown = line if line.isprintable() else "".join(c if c.isprintable() else "�" for c in line)
    return re.sub(rf"\S{{{_LONGEST},}}", lambda word: f"{word[0][:_SHOWN]}...", shown)
