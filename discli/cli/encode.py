"""``discli encode``: images to one data file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from discli.cli.app import Device, app, refuse_ignored
from discli.recipe.choices import declared
from discli.runtime.errors import DiscliError
from discli.runtime.plugins import plugins

if TYPE_CHECKING:
    Codec = str
    Features = str
else:
    Features = Literal[tuple(plugins("data/teachers", "efficientnet-lite0"))]
    Codec = Literal[tuple(dict.fromkeys(one.name for one in declared("data/autoencoders", default="rgb")))]


@app.command(
    epilog="Example: discli encode imagenet/ --res 256 --out imagenet-256.h5 &&"
    " discli encode photos/ --res 64,48x80,80x48 --out photos.h5"
)
def encode(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(help="Images: a folder (a sub-folder for each class, or flat), zip, tar, tars, parquet."),
    ] = None,
    res: Annotated[
        str | None,
        typer.Option(
            "--res",
            metavar="SIDE|HxW,...",
            help="Size of the crop in pixels. Of several, each image takes the nearest shape.",
        ),
    ] = None,
    codec: Annotated[Codec | None, typer.Option(help="Default: rgb up to 64 px, vae above.")] = None,
    vae: Annotated[
        str | None, typer.Option(help="Hub id or folder of an autoencoder. Default: stabilityai/sd-vae-ft-ema.")
    ] = None,
    normalise: Annotated[
        Literal["scale", "channels"] | None,
        typer.Option(help="Latents: by the scale their autoencoder publishes (default where it does), or per channel."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HDF5 file. Default: named after the source.")] = None,
    crop: Annotated[Literal["adm", "resize", "celeba"], typer.Option(help="adm: ADM's centre crop.")] = "adm",
    labels: Annotated[Path | None, typer.Option(help='csv or json of labels for flat folders, or "none".')] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Store mirrored latents too. Default: for vae.")
    ] = None,
    too_small: Annotated[
        Literal["upscale", "skip"], typer.Option(help="What becomes of images smaller than the crop.")
    ] = "upscale",
    fast_decode: Annotated[
        bool,
        typer.Option("--fast-decode", help="Decode large JPEGs at a smaller size: faster, pixels differ slightly."),
    ] = False,
    latent_dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Number format of latents.")] = "float16",
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Write part I (0 to N-1) of N.")] = None,
    merge: Annotated[
        Path | None, typer.Option(metavar="OUT.h5", help="Join finished parts: those beside it, or SOURCE.")
    ] = None,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="With --merge: copy nothing; OUT.h5 reads from its parts.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes. Default: by the cores.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once through the autoencoder.")] = None,
    features: Annotated[
        Features | None,
        typer.Option(help="Store this network's features too, for [train.align]; SOURCE may be FILE.h5."),
    ] = None,
    device: Device = None,
) -> None:
    """Images to one data file for training. Interrupted, the same command resumes."""
    if merge is not None:
        refuse_ignored(context, "--merge", "merge", "source", "virtual")
        from discli.data.encode import merge as merge_parts

        typer.echo(merge_parts(merge, source, virtual=virtual))
        return
    if virtual:
        raise DiscliError("--virtual goes with --merge OUT.h5.", "Encode the parts first, with --shard.")
    if source is not None and source.suffix == ".h5" and features is not None:
        refuse_ignored(context, "a data file's --features", "source", "features", "vae", "device")
        from discli.data.grids import add_features

        typer.echo(add_features(source, features, vae=vae, device=device))
        return
    if source is None or res is None:
        raise DiscliError("encode needs SOURCE and --res.", "Example: discli encode imagenet/ --res 256")
    from discli.data.encode import encode as run
    from discli.recipe.size import parse_sizes

    written = run(
        source,
        parse_sizes(res, "--res"),
        codec=codec,
        vae=vae,
        normalise=normalise,
        out=out,
        crop=crop,
        labels=labels,
        flip=flip,
        too_small=too_small,
        fast_decode=fast_decode,
        latent_dtype=latent_dtype,
        shard=_parse_shard(shard),
        workers=workers,
        batch_size=batch_size,
        device=device,
        features=features,
    )
    typer.echo(written)


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise DiscliError(f"--shard {text}: not a part.", "Give I/N with I from 0 to N-1, such as 0/8.")
    return int(index), int(count)
