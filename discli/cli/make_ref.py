"""``discli make-ref``: a reference's statistics, to score against again and again."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, app
from discli.cli.eval_fid import BatchSize, Convention, Features, Precision, Weights
from discli.runtime.processes import rank_and_world


@app.command("make-ref", epilog="Example: discli make-ref cifar10.h5 --out ref.npz")
def make_ref(
    source: Annotated[Path, typer.Argument(help="FILE.h5, or a folder, zip or tar of images.")],
    out: Annotated[Path, typer.Option(metavar="REF.npz", help="Where the statistics go.")],
    features: Features = "inception",
    weights: Weights = None,
    convention: Convention = None,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
    device: Device = None,
) -> None:
    """Write the statistics of a set of images, for eval-fid --ref."""
    from discli.evaluation import evaluate

    written = evaluate.make_ref(
        source,
        out,
        features=features,
        weights=weights,
        convention=convention,
        batch_size=batch_size,
        precision=precision,
        device=device,
    )
    if rank_and_world()[0] == 0:
        typer.echo(written)
