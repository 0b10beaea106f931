"""Flags and help: first steps, and the state of the house."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import app


@app.command(epilog="Example: discli quickstart --out quickstart/")
def quickstart(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
) -> None:
    """Everything once, in a few minutes on a CPU: encode digits, train, sample with guidance, score."""
    from discli.quickstart import quickstart as run

    run(out)
