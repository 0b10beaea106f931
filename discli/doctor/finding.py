"""What a check finds, and the promise that no check can stop the others."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from discli.doctor.imports import Imported, try_imports
from discli.runtime.errors import DiscliError
from discli.runtime.torch_pairing import explain_import_error

# Both "ok" and "note" leave the default path in order: pixels, training, sampling, scoring.
Verdict = Literal["ok", "note", "problem"]

_LONGEST = 300  # characters of an exception's text


@dataclass(frozen=True)
class Finding:
    """``name`` and what was ``found``, for people; ``details`` for programs. ``remedy``: one line, what to do."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What every check may ask for."""

    offline: bool = False
    say: Callable[[str], None] = lambda _: None  # what takes time now, for those who wait

    @cached_property
    def imports(self) -> Mapping[str, Imported]:
        """How the import of each module of `IMPORTS` went."""
        self.say("importing packages")
        return try_imports()


# By the name that a check has in the report when it fails to report itself.
Checks = Mapping[str, Callable[[Setting], Iterator[Finding]]]


def guarded(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What ``look`` finds; an exception in it is a problem of that ``name``, after what was found before."""
    try:
        yield from look()
    except Exception as error:  # anything at all may be broken: that is what a doctor is for
        known = error if isinstance(error, DiscliError) else explain_import_error(error)
        if known is not None:
            yield Finding(name, "problem", known.message, known.hint)
            return
        details = {"traceback": traceback.format_exc()}
        yield Finding(name, "problem", one_line(error), "discli doctor --json shows where it came from.", details)


def one_line(error: BaseException) -> str:
    """The exception's type and text, cut where it becomes a page."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
