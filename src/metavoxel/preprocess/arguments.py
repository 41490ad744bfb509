"""The command line of BIDS Apps, where one option takes several values."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

_SEVERAL = ("label",)  # of --participant-label, and of --participant_label


class BidsApp(TyperCommand):
    """A command whose options that end in -label take `01 02 03` after one mention."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(args: list[str]) -> list[str]:
    """`--x-label 01 02` as `--x-label 01 --x-label 02`, which is how click wants it."""
    out: list[str] = []
    option = None
    for arg in args:
        if arg.startswith("-"):
            several = arg.startswith("--") and arg.endswith(_SEVERAL)
            option, fresh = (arg if several else None), True
            out.append(arg)
        elif option is None or fresh:
            out.append(arg)
            fresh = False
        else:
            out += [option, arg]
    return out
