"""``discli teacher``: a network to align with, trained on nothing but a data file's own labels."""

from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, app


@app.command(epilog="Example: discli teacher cifar10.h5")
def teacher(
    data: Annotated[Path, typer.Argument(metavar="DATA.h5", help="A labelled file of encode.")],
    name: Annotated[str, typer.Option(help="What [train.align] features calls it.")] = "own",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images. Default: until 300,000 are seen, 40 at most.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of its weights and of what is held out.")] = 0,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Train on mirrored images too.")] = True,
    device: Device = None,
) -> None:
    """Train a small classifier on a data file's labels. Its features are stored there, for [train.align].

    A tenth of the images is held out and says how well it recognises classes. Kept by content: asking again trains
    nothing.
    """
    from discli.training.teacher import teach

    teach(data, name=name, epochs=epochs, seed=seed, flip=flip, device=device)
    typer.echo(data)
