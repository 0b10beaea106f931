"""``discli export``: a trained model for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from discli.cli.app import Set, app
from discli.runtime.errors import DiscliError


@app.command(
    epilog="Example: discli export runs/cifar10-dis-s-2 --to diffusers --out cifar10-dis/ &&"
    " discli export digits --to space --out digits-space/"
)
def export(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run's or checkpoint's folder, a .safetensors, or a model's name. Default: newest run."),
    ] = None,
    to: Annotated[
        Literal["diffusers", "safetensors", "model", "space"] | None,
        typer.Option(
            help="diffusers: a folder. safetensors: one file with the recipe in it. model: that in float16, with a"
            " card, for a folder of DISCLI_MODELS. space: a Hugging Face Space with the page of discli demo."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File or folder to write. Default: named after the recipe.")] = None,
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="SCORE.json", help="Of eval-fid --json, for the model card.")
    ] = None,
    draws: Annotated[str | None, typer.Option(metavar="TEXT", help="Of a model: what it draws.")] = None,
    terms: Annotated[str | None, typer.Option(metavar="TEXT", help="Of a model: its data and their licence.")] = None,
    training: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of a model: how long it took, on what. Default: by its log.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Upload the diffusers folder with its model card.")
    ] = None,
    overrides: Set = None,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the newest.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Add a LoRA's matrices to those that they lie beside.")
    ] = False,
) -> None:
    """Export averaged (EMA) weights, for others to draw with.

    To diffusers or safetensors, as a model with a name, or as a page on the hub. --set changes how they
    are sampled by default: sample.cfg_scale=1.5.
    """
    if to is None and push_to_hub is None:
        raise DiscliError("export needs --to.", "Example: discli export runs/mine --to diffusers")
    if to not in ("diffusers", None) and push_to_hub:
        raise DiscliError("--push-to-hub goes with --to diffusers.", f"Leave it out, or --to {to}.")
    if to == "safetensors" and scores:
        raise DiscliError("--scores goes with a card; --to safetensors has none.", "--to diffusers, model or space.")
    if to not in ("model", "space") and (draws or terms or training):
        raise DiscliError("--draws, --terms and --training go with a model's card.", "--to model or space.")
    from discli.sampling.export import export_diffusers, export_model, export_safetensors, with_sampling
    from discli.sampling.export import push_to_hub as push
    from discli.sampling.load import load, merged
    from discli.sampling.space import export_space

    model = with_sampling(load(run, device="cpu", step=checkpoint), overrides or [])
    if merge:
        model = merged(model)
    if to == "safetensors":
        typer.echo(export_safetensors(model, out))
        return
    if to in ("model", "space"):
        write = export_model if to == "model" else export_space
        typer.echo(write(model, out, scores or [], draws, terms, training))
        return
    folder = export_diffusers(model, out, scores or [])
    typer.echo(push(folder, push_to_hub) if push_to_hub else folder)
