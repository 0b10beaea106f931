"""Flags and help: first steps, and the state of the house."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Json, app


@app.command(epilog="Example: discli quickstart --out quickstart/")
def quickstart(
    out: Annotated[
        Path | None, typer.Option(help="Where everything goes. Default: quickstart/, and the run to runs/quickstart.")
    ] = None,
) -> None:
    """Everything once, in a few minutes on a CPU: encode digits, train, sample with guidance, score."""
    from discli.cli.quickstart import quickstart as run

    run(out)


@app.command(epilog="Example: discli doctor --json > doctor.json")
def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Ask nothing of the network.")] = False,
    as_json: Json = False,
) -> None:
    """Look at everything that discli needs on this machine; what is wrong comes with its remedy, and status 1."""
    from discli.doctor.checkup import doctor as run

    if not run(as_json=as_json, offline=offline):
        raise typer.Exit(1)
