"""``discli export``: a trained model for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from discli.cli.app import app
from discli.runtime.errors import DiscliError


@app.command(epilog="Example: discli export runs/cifar10-dis-s-2 --to diffusers --out cifar10-dis/")
def export(
    run: Annotated[
        Path | None, typer.Argument(help="A run's or checkpoint's folder, or a .safetensors. Default: the newest run.")
    ] = None,
    to: Annotated[
        Literal["diffusers", "safetensors"] | None,
        typer.Option(help="A folder for diffusers, or one file with the recipe in it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="What is written. Default: named after the recipe.")] = None,
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="SCORE.json", help="Of eval-fid --json, for the model card.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Upload the diffusers folder with its model card.")
    ] = None,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the newest.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Without LoRA: its matrices added to the others.")] = False,
) -> None:
    """Export averaged (EMA) weights to diffusers or safetensors."""
    if to is None and push_to_hub is None:
        raise DiscliError("export needs --to.", "Example: discli export runs/mine --to diffusers")
    if to == "safetensors" and (push_to_hub or scores):
        raise DiscliError("--push-to-hub and --scores go with --to diffusers.", "Leave them out, or --to safetensors.")
    from discli.sampling.export import export_diffusers, export_safetensors
    from discli.sampling.export import push_to_hub as push
    from discli.sampling.load import load, merged

    model = load(run, device="cpu", step=checkpoint)
    if merge:
        model = merged(model)
    if to == "safetensors":
        typer.echo(export_safetensors(model, out))
        return
    folder = export_diffusers(model, out, scores or [])
    typer.echo(push(folder, push_to_hub) if push_to_hub else folder)
