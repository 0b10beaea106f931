"""The one exception that users are meant to see."""

import difflib
from collections.abc import Iterable


class DiscliError(Exception):
    """What a user did wrong, and what to do about it: one line each.

    The command line prints ``message``, ``hint`` under it, and exits with ``status`` (2 unless said
    otherwise); a traceback appears only with ``--debug``.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = 2) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint
        self.status = status


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """``"Did you mean train?"`` for a misspelt one of ``allowed``, ``""`` for anything else."""
    by_spelling = {name.casefold(): name for name in allowed}
    near = difflib.get_close_matches(found.casefold(), by_spelling, n=1)
    return f"Did you mean {by_spelling[near[0]]}?" if near else ""
