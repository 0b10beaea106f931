"""``discli info``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from discli.cli.app import Device, Json, Set, app
from discli.cli.complete import recipe_names


@app.command(epilog="Example: discli info dis-l-2 --gpu A100 --gpus 8 --utilisation 0.3")
def info(
    what: Annotated[
        str,
        typer.Argument(
            help="A recipe or a shipped recipe's name, a run, a checkpoint, a model's name, or a file of encode.",
            autocompletion=recipe_names,
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="A data file for the recipe, to count epochs.")] = None,
    overrides: Set = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Plan for this GPU: A100, H100, RTX 4090, ... Default: this one.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="Peak of one device, where --gpu is not known.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    utilisation: Annotated[
        float | None, typer.Option(help="Share of the peak to assume; a run's speed.jsonl has what yours reaches.")
    ] = None,
    as_json: Json = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="A data file's contact sheet. Default: beside the file.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=0, help="Samples on the contact sheet; 0: no sheet.")] = 12,
    vae: Annotated[str | None, typer.Option(help="Where the data file's autoencoder lies now.")] = None,
    device: Device = None,
) -> None:
    """What a recipe takes, how far a run is, what a data file holds.

    Recipes and runs: parameters, FLOPs, memory, disk and time: here, by a trial step, or with --gpu or
    --tflops elsewhere. Data files: decoded samples beside the images they were made from.
    """
    from discli.cli.look_at import describe_path, describe_recipe, look_at

    path, recipe = look_at(what, overrides, data)  # mistakes first: torch, which the rest takes, is slow to import
    from discli.cost.hardware import Hardware
    from discli.runtime.facts import fact_table

    machine = Hardware.of(gpu, tflops, gpus, utilisation, device)
    facts = (
        describe_recipe(what, recipe, data, machine) if recipe else describe_path(path, machine, sheet, n, vae, device)
    )
    if as_json:
        typer.echo(json.dumps(facts.record, indent=1))
    else:
        Console(highlight=False).print(fact_table(facts.rows))
