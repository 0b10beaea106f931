"""What a check finds, and the promise that no check can stop the others."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, computed_field

from discli.doctor.imports import Imported, try_imports
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError, explain_import_error

# "ok" and "warning" leave the default path in order: pixels, training, sampling, scoring.
Verdict = Literal["ok", "warning", "error"]


class Finding(BaseModel):
    """``name`` and what was ``found``, for people; ``details`` for programs. ``fix``: one line, what to do."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""
    details: Mapping[str, object] = {}


class Section(BaseModel):
    """Findings on one subject."""

    title: str
    findings: list[Finding]


class Report(BaseModel):
    """All that ``discli doctor`` found."""

    format: int = 1
    discli: str
    sections: list[Section]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def errors(self) -> int:
        """How many findings stand in the way of the default path."""
        return sum(finding.verdict == "error" for section in self.sections for finding in section.findings)


class CheckContext:
    """What every check may ask for. ``offline``: nothing is asked of the network."""

    def __init__(self, offline: bool = False) -> None:
        self.offline = offline

    @cached_property
    def imports(self) -> Mapping[str, Imported]:
        """How the import of each required module went."""
        return try_imports()


Check = Callable[[CheckContext], Iterator[Finding]]


def ok(name: str, found: str, **details: object) -> Finding:
    return Finding(name=name, verdict="ok", found=found, details=details)


def warning(name: str, found: str, fix: str = "", **details: object) -> Finding:
    return Finding(name=name, verdict="warning", found=found, fix=fix, details=details)


def error(name: str, found: str, fix: str, **details: object) -> Finding:
    return Finding(name=name, verdict="error", found=found, fix=fix, details=details)


def announce(what: str) -> None:
    """Tells those who wait what is being checked."""
    stderr.print(f"Checking: {what}", style="dim")


def guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What ``check`` finds; an exception in it is an error of that ``name``, after what was found before."""
    try:
        yield from check()
    except Exception as raised:  # anything at all may be broken: that is what a doctor is for
        known = raised if isinstance(raised, DiscliError) else explain_import_error(raised)
        if known is not None:
            yield error(name, known.message, known.hint)
            return
        fix = "See the traceback in discli doctor --json."
        yield error(name, one_line(raised), fix, traceback=traceback.format_exc())


def one_line(raised: BaseException) -> str:
    """The exception's type and text; a page of it is cut."""
    return " ".join(f"{type(raised).__name__}: {raised}".split())[:300]
