"""``discli compare``: why two scores differ."""

import json
from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Json, app


@app.command(epilog="Example: discli compare mine.json theirs.json")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="Written by discli eval-fid --json.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="Another one.")],
    as_json: Json = False,
) -> None:
    """Say whether two scores can be compared, and what explains their difference."""
    from discli.reports.compare_scores import compare_files

    found = compare_files(first, second)
    typer.echo(json.dumps(vars(found), indent=1) if as_json else "\n".join(found.lines()))
