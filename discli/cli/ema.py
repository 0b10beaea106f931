"""``discli ema``."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import app


@app.command(epilog="Example: discli ema runs/mine --std 0.08 && discli sample runs/mine/ema-0.08")
def ema(
    run: Annotated[Path, typer.Argument(help='The folder of a run trained with train.ema = "power".')],
    std: Annotated[float, typer.Option(help="Width of the average, relative to the steps trained: 0 to 0.288.")],
    step: Annotated[int | None, typer.Option(help="Up to the snapshot of this step. Default: the last.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/ema-STD.")] = None,
) -> None:
    """Make an average of any length after training. It is made of a run's snapshots (EDM2's post-hoc EMA)."""
    from discli.training.posthoc_ema import posthoc_ema

    typer.echo(posthoc_ema(run, std, step, out))
