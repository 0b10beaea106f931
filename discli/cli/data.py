"""Flags and help: images to a data file, and what a file is."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, Json, Set, app, refuse_ignored
from discli.cli.complete import recipe_names
from discli.runtime.errors import DiscliError


class Codec(StrEnum):
    rgb = "rgb"
    vae = "vae"


class Crop(StrEnum):
    adm = "adm"
    resize = "resize"
    celeba = "celeba"


class Small(StrEnum):
    upscale = "upscale"
    skip = "skip"


class Moments(StrEnum):
    float16 = "float16"
    float32 = "float32"


@app.command(epilog="Example: discli encode imagenet/ --res 256 --out imagenet-256.h5")
def encode(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(help="Images: a folder (a sub-folder a class, or flat), zip, tar, tars, parquet.")
    ] = None,
    res: Annotated[int | None, typer.Option("--res", min=1, help="Side of the square crop in pixels.")] = None,
    codec: Annotated[Codec | None, typer.Option(help="Default: rgb up to 64 px, vae above.")] = None,
    vae: Annotated[
        str | None, typer.Option(help="Hub id or folder of an autoencoder. Default: stabilityai/sd-vae-ft-ema.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HDF5 file. Default: named after the source.")] = None,
    crop: Annotated[Crop, typer.Option(help="adm: ADM's centre crop.")] = Crop.adm,
    labels: Annotated[Path | None, typer.Option(help="csv or json of labels for flat folders.")] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Store mirrored latents too. Default: for vae.")
    ] = None,
    small: Annotated[Small, typer.Option(help="Images smaller than the crop.")] = Small.upscale,
    moments: Annotated[Moments, typer.Option(help="Number format of latents.")] = Moments.float16,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Write part I (0 to N-1) of N.")] = None,
    merge: Annotated[Path | None, typer.Option(metavar="OUT.h5", help="Join finished parts, and nothing else.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes. Default: by the cores.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once through the autoencoder.")] = None,
    device: Device = None,
) -> None:
    """Images to one data file for training. Interrupted, the same command goes on where it was."""
    if merge is not None:
        refuse_ignored(context, "--merge", "merge")
        from discli.data.encode import merge as merge_parts

        typer.echo(merge_parts(merge))
        return
    if source is None or res is None:
        raise DiscliError("encode needs SOURCE and --res.", "Example: discli encode imagenet/ --res 256")
    from discli.data.encode import encode as run

    written = run(
        source,
        res,
        codec=codec.value if codec else None,
        vae=vae,
        out=out,
        crop=crop.value,
        labels=labels,
        flip=flip,
        small=small.value,
        moments=moments.value,
        shard=_parse_shard(shard),
        workers=workers,
        batch_size=batch_size,
        device=device,
    )
    typer.echo(written)


@app.command(epilog="Example: discli info dis-l-2 --gpu A100 --gpus 8 --utilisation 0.3")
def info(
    what: Annotated[
        str,
        typer.Argument(
            help="A recipe or a shipped recipe's name, a run, a checkpoint, or a file of encode.",
            autocompletion=recipe_names,
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="A recipe's data file of encode, for the epochs.")] = None,
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
    """What a recipe takes, how far a run is, or what a data file records.

    Recipes and runs: parameters, FLOPs, memory, disk and time: here, by a trial step, or with --gpu or
    --tflops elsewhere. Data files: decoded samples beside the images they were made from.
    """
    from discli.cli.info import info as run
    from discli.cli.info import look_at

    look_at(what, overrides, data)  # mistakes first: torch, which the rest takes, is slow to import
    from discli.cost.hardware import Hardware

    run(
        what,
        overrides=overrides,
        data=data,
        machine=Hardware.of(gpu, tflops, gpus, utilisation, device),
        as_json=as_json,
        sheet=sheet,
        count=n,
        vae=vae,
        device=device,
    )


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise DiscliError(f"--shard {text}: not a part.", "Give I/N with I from 0 to N-1, such as 0/8.")
    return int(index), int(count)
