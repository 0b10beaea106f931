"""Flags and help: images to a data file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from discli.cli.app import Device, app, refuse_ignored
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


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise DiscliError(f"--shard {text}: not a part.", "Give I/N with I from 0 to N-1, such as 0/8.")
    return int(index), int(count)
