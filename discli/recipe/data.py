"""``[data]``: what the model sees, and how it reaches the training loop."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from discli.recipe.spec import Flag, PositiveInt, Spec, by_name

LARGEST_RGB = 64  # pixels a side; above, attention and scans over pixels cost more than a VAE loses


class RgbCodec(Spec):
    """Pixels, scaled to [-1, 1]."""

    name: Literal["rgb"] = "rgb"

    @property
    def channels(self) -> int:
        return 3

    @property
    def downsample(self) -> int:
        return 1


class VaeCodec(Spec):
    """Latents of a diffusers autoencoder. Without ``vae``, whichever one the data file names."""

    name: Literal["vae"] = "vae"
    vae: Annotated[str | None, Field(description="hub id or folder; refuses data encoded with another")] = None
    channels: Annotated[PositiveInt, Field(le=2**10, description="of a latent")] = 4
    downsample: Annotated[PositiveInt, Field(le=2**8, description="pixels on a side for one latent cell")] = 8


Codec = Annotated[RgbCodec | VaeCodec, *by_name("rgb")]


class DataSpec(Spec):
    """``resolution`` is in pixels; the model's input is ``resolution / codec.downsample`` on a side."""

    resolution: Annotated[PositiveInt, Field(le=2**14, description="side of the images in pixels")]
    codec: Annotated[Codec, Field(description="what the model sees of an image")] = RgbCodec()
    file: Annotated[Path | None, Field(description="an HDF5 file that discli encode wrote")] = None
    horizontal_flip: Annotated[Flag, Field(description="mirror half of the samples; not for text or digits")] = True
    cache: Annotated[
        Literal["none", "ram", "device"],
        Field(description="where samples live while training: a memory map, each process's RAM, or its device"),
    ] = "none"
