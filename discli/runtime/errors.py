"""The one exception that users are meant to see, and errors of others explained by it."""

import difflib
from collections.abc import Iterable

INTERNAL = "Internal error"  # begins what nobody has thought of
_LONGEST = 1000  # characters of a line
_OPENS = "discli: "  # the first of an error's two lines


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


def last_error(said: str) -> tuple[str, str]:
    """What was wrong, and what to do, of a ``discli`` that failed, from its stderr; of another program its last line.

    Empty where it does not say.
    """
    lines = said.strip().splitlines() or [""]
    opening = [number for number, line in enumerate(lines) if line.startswith(_OPENS)]
    what, how, *_ = [*lines[opening[-1] if opening else -1 :], ""]
    return what.strip().removeprefix(_OPENS), how.strip()


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """``"Did you mean train?"`` for a misspelt one of ``allowed``, ``""`` for anything else."""
    by_spelling = {name.casefold(): name for name in allowed}
    near = difflib.get_close_matches(found.casefold(), by_spelling, n=1)
    return f"Did you mean {by_spelling[near[0]]}?" if near else ""


def explain_import_error(error: BaseException) -> DiscliError | None:
    """What a user needs to hear when torchvision's operators do not fit torch; None for any other error.

    A CPU-only torch beside the registry's torchvision (a CUDA build) fails on ``import torchvision``
    with "operator torchvision::nms does not exist", and with it torch-fidelity and diffusers'
    autoencoders, which may wrap the error in one of their own: the whole chain of causes is searched.
    """
    cause: BaseException | None = error
    while cause is not None and "torchvision::nms" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return DiscliError(
        "torch and torchvision come from different package indexes (operator torchvision::nms does not exist).",
        "Install both from the same index: pip install --force-reinstall torch torchvision"
        " (CPU only: add --index-url https://download.pytorch.org/whl/cpu).",
    )
