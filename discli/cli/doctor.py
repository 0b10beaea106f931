"""``discli doctor``."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from discli.cli.app import Json, app

if TYPE_CHECKING:  # pydantic takes time
    from discli.doctor.finding import Section

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
_NAME_WIDTH = 15
_UNFOLDED = 1000  # columns, in a file or a pipe, where there is no edge to fold at


@app.command(epilog="Example: discli doctor --json > doctor.json")
def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    as_json: Json = False,
) -> None:
    """Check that this machine has everything discli needs. Each problem comes with a fix; exits 1 if there is any."""
    from discli import __version__
    from discli.doctor.checkup import examine
    from discli.doctor.finding import Report

    report = Report(discli=__version__, sections=[])
    for section in examine(offline=offline):
        report.sections.append(section)
        if not as_json:
            _print(section)
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    elif report.errors:
        typer.echo(f"{report.errors} error{'s' if report.errors > 1 else ''}.")
    else:
        untried = "; the network was not tried" if offline else ""
        typer.echo(f"Everything that training, sampling and scoring need works on this machine{untried}.")
    if report.errors:
        raise typer.Exit(1)


def _print(section: "Section") -> None:
    """In a file or a pipe without the blanks that make up a column, for they would be pasted into a bug report."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=max(map(len, _STYLES)))
    table.add_column(no_wrap=True, width=_NAME_WIDTH)
    table.add_column(overflow="fold")
    for finding in section.findings:
        said = Text(finding.found)
        if finding.fix:
            said.append("\nFix: ", "bold").append(finding.fix)
        table.add_row(Text(finding.verdict, _STYLES[finding.verdict]), Text(finding.name), said)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    with console.capture() as captured:
        console.print(Text(section.title, "bold"), table, sep="\n")
    lines = captured.get().splitlines()
    typer.echo("\n".join(line if console.is_terminal else line.rstrip() for line in lines) + "\n")
