"""``discli runs``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Json, app


@app.command(epilog="Example: discli runs && discli runs runs/ablate-skip --json")
def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, with all folders in it.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs: what each is doing, loss, score, speed and size."""
    from discli.cli.runs_table import print_runs
    from discli.runs.listing import list_runs
    from discli.runtime.console import stderr

    found = list_runs(folder)
    if as_json:
        typer.echo(json.dumps([run.model_dump(mode="json") for run in found], indent=1))
    elif found:
        print_runs(found, folder)
    else:
        how = f"Train one: discli train RECIPE --data FILE.h5 --out {folder / 'NAME'}"
        stderr.print(f"No run in {folder} or below. {how}")
