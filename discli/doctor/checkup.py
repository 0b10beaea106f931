"""All checks of this machine: what training, sampling and scoring need."""

import importlib
from collections.abc import Iterator
from functools import partial
from itertools import chain

from discli import __version__
from discli.doctor.finding import (
    Check,
    CheckContext,
    Finding,
    Report,
    Section,
    announce,
    error,
    guarded,
    one_line,
    warning,
)

# Modules of discli.doctor, in the order of the report. The first one asks for torch; the others import it.
SECTIONS = ("installation", "device", "scans", "machine", "weights")


def checkup(*, offline: bool = False) -> Report:
    """Everything that `examine` finds."""
    return Report(discli=__version__, sections=list(examine(offline=offline)))


def examine(*, offline: bool = False) -> Iterator[Section]:
    """Each section of the report as soon as it is done.

    An error is what stands in the way of the default path: images to pixels, training, sampling and
    scoring with the scan that "auto" takes. What is optional, and missing or broken, is a warning.
    ``offline``: nothing is asked of the network.
    """
    context, torch_works = CheckContext(offline), True
    for name in SECTIONS:
        if not torch_works:
            skipped = warning(name, "not checked: it needs torch, which cannot be imported", "Fix torch first.")
            yield Section(title=name.capitalize(), findings=[skipped])
            continue
        announce(name)
        section = _examine(name, context)
        torch_works = not any(
            one.name == "torch" and one.details.get("importable") is False for one in section.findings
        )
        yield section


def _examine(name: str, context: CheckContext) -> Section:
    """All checks of one module of discli.doctor."""
    try:
        module = importlib.import_module(f"discli.doctor.{name}")
    except Exception as raised:  # a package that it imports is broken
        fix = "Fix the errors above, then run discli doctor again."
        return Section(title=name.capitalize(), findings=[error(name, f"not checked: {one_line(raised)}", fix)])
    checks: dict[str, Check] = module.CHECKS
    found: Iterator[Finding] = chain.from_iterable(
        guarded(called, partial(check, context)) for called, check in checks.items()
    )
    return Section(title=module.TITLE, findings=list(found))
