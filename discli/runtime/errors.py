"""The one exception that users are meant to see."""

import difflib
from collections.abc import Iterable

_LONGEST = 1000  # characters of a line


class DiscliError(Exception):
    """What a user did wrong, and what to do about it: one line each.

    The command line prints ``message``, ``hint`` under it, and exits with ``status`` (2 unless said
    otherwise); a traceback appears only with ``--debug``.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = 2) -> None:
        # They quote files and flags, which may hold anything.
        self.message, self.hint = _one_line(message), _one_line(hint)
        super().__init__(f"{self.message} {self.hint}".strip())
        self.status = status


def _one_line(text: str) -> str:
    line = " ".join(text.splitlines())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    # A terminal would obey the rest.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """``"Did you mean train?"`` for a misspelt one of ``allowed``, ``""`` for anything else."""
    by_spelling = {name.casefold(): name for name in allowed}
    near = difflib.get_close_matches(found.casefold(), by_spelling, n=1)
    return f"Did you mean {by_spelling[near[0]]}?" if near else ""
