"""``discli doctor``: what training, sampling and scoring need, looked at or tried out on this machine."""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from discli import __version__
from discli.doctor.finding import Checks, Finding, Setting, guarded, one_line
from discli.runtime.console import stderr

# Modules of discli.doctor, in the order of the report. The first one asks for torch; the others import it.
SECTIONS = ("installation", "device", "scans", "kernels", "machine", "weights")

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_NAME_WIDTH = 15
_LOOK_ABOVE = "Mend what is said above, and run discli doctor again."
_UNFOLDED = 1000  # columns, in a file or a pipe, where there is no edge to fold at


@dataclass(frozen=True)
class Section:
    """Findings on one subject."""

    title: str
    findings: list[Finding]


def doctor(*, as_json: bool = False, offline: bool = False) -> bool:
    """Prints every finding, section by section, and one line of verdict. True if there is no problem.

    A problem is what stands in the way of the default path: images to pixels, training, sampling and
    scoring with the scan that "auto" takes. What is optional, and missing or broken, is a note.
    ``offline``: nothing is asked of the network.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    sections: list[Section] = []
    for section in _examined(offline):
        sections.append(section)
        if not as_json:
            console.print(Text(section.title, "bold"))
            _show(console, _table(section.findings))
            console.print()
    problems = sum(finding.verdict == "problem" for section in sections for finding in section.findings)
    if as_json:
        typer.echo(json.dumps(_record(sections, problems), indent=1))
    elif problems:
        console.print(Text(f"{problems} problem{'s' if problems > 1 else ''}.", _STYLES["problem"]))
    else:
        untried = "; the network was not tried" if offline else ""
        verdict = f"Everything that training, sampling and scoring on this machine needs works{untried}."
        console.print(Text(verdict, f"bold {_STYLES['ok']}"))
    return problems == 0


def _examined(offline: bool) -> Iterator[Section]:
    status = stderr.status("")

    def say(what: str) -> None:
        if stderr.is_terminal:
            status.update(Text(f"Checking: {what}"))
        else:
            stderr.print(f"Checking: {what}", markup=False)

    setting, torch_works = Setting(offline, say), True
    for name in SECTIONS:
        if not torch_works:
            untold = "not checked: it takes torch, which cannot be imported"
            yield Section(name.capitalize(), [Finding(name, "note", untold)])
            continue
        with status if stderr.is_terminal else nullcontext():  # gone when the section is printed
            say(name)
            section = _examine(name, setting)
        torch_works = not any(
            one.name == "torch" and not one.details.get("importable", True) for one in section.findings
        )
        yield section


def _examine(name: str, setting: Setting) -> Section:
    """All checks of one module of discli.doctor."""
    try:
        module = importlib.import_module(f"discli.doctor.{name}")
    except Exception as error:  # a package that it imports is broken
        return Section(name.capitalize(), [Finding(name, "problem", f"not checked: {one_line(error)}", _LOOK_ABOVE)])
    checks: Checks = module.CHECKS
    findings = chain.from_iterable(guarded(called, partial(check, setting)) for called, check in checks.items())
    return Section(module.TITLE, list(findings))


def _table(findings: list[Finding]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=max(map(len, _STYLES)))
    table.add_column(no_wrap=True, width=_NAME_WIDTH)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.found)
        if finding.remedy:
            said.append("\nRemedy: ", "bold").append(finding.remedy)
        table.add_row(Text(finding.verdict, _STYLES[finding.verdict]), Text(finding.name), said)
    return table


def _show(console: Console, table: Table) -> None:
    """In a file or a pipe without the blanks that make up a column, for they would be pasted into a report."""
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    console.file.write("".join(f"{line if console.is_terminal else line.rstrip()}\n" for line in lines))


def _record(sections: list[Section], problems: int) -> dict[str, Any]:
    return {
        "discli": __version__,
        "works": problems == 0,
        "problems": problems,
        "sections": [
            {"title": section.title, "findings": [asdict(finding) for finding in section.findings]}
            for section in sections
        ],
    }
