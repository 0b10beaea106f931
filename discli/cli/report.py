"""``discli report``."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Json, app


@app.command(epilog="Example: discli report runs/mine --out mine.html")
def report(
    run: Annotated[Path, typer.Argument(help="A run, finished or not: its folder, or its name in discli runs.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Default: RUN/report.html.")] = None,
    as_json: Json = False,
    floor: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Of discli floor. Default: the one beside the run's data.")
    ] = None,
) -> None:
    """Write one HTML page about a run. It has curves, samples over time, scores, recipe, environment, events."""
    from discli.reports.run import report_run
    from discli.runs.listing import describe_state
    from discli.runtime.console import format_bytes, stderr
    from discli.runtime.files import to_json

    made = report_run(run, out, floor)
    if as_json:
        typer.echo(to_json(made))
    else:
        stderr.print(f"{made.name}, {describe_state(made)}: {format_bytes(made.page_bytes)}")
        if made.fit is not None:
            stderr.print(made.fit.sentence)
        typer.echo(made.page)
