"""``discli import``: a checkpoint of the DiS authors' code as a run."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import app


@app.command(name="import", epilog="Example: discli import DiS-L-2.pt --out runs/dis-l-2")
def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CKPT.pt", help="The .pt file of the DiS authors' trainer. Nothing in it is executed."),
    ],
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/ and the file's name.")] = None,
) -> None:
    """Turn a checkpoint of the DiS authors' code into a run. It can be sampled from."""
    from discli.sampling.import_authors import import_checkpoint

    typer.echo(import_checkpoint(checkpoint, out))
