"""``[data]``: what the model sees, and how it reaches the training loop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema

from discli.recipe.choices import default_of, one_of, read_choices
from discli.recipe.codec import CodecSpec
from discli.recipe.data_files import as_one_path
from discli.recipe.size import Size, SizeField
from discli.recipe.spec import Flag, Spec

LARGEST_RGB = 64  # pixels a side; above, attention and scans over pixels cost more than a VAE loses


CODECS = read_choices("data/autoencoders", CodecSpec, default="rgb")

if TYPE_CHECKING:
    Codec = CodecSpec
else:
    Codec = one_of(CODECS)


def default_codec(resolution: Size) -> str:
    """The name of what encode uses for images of ``resolution`` px, unless told otherwise."""
    return "vae" if resolution.area > LARGEST_RGB**2 else "rgb"


class DataSpec(Spec):
    """``resolution`` is in pixels; the model's input is ``resolution / codec.downsample``."""

    resolution: Annotated[SizeField, Field(description="of the images in pixels: a square's side, or [height, width]")]
    codec: Annotated[Codec, Field(description="what the model sees of an image")] = default_of(CODECS)
    file: Annotated[
        Path | None,
        BeforeValidator(as_one_path),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        Field(description="what discli encode wrote: an HDF5 file, a pattern of its parts, or a list"),
    ] = None
    horizontal_flip: Annotated[Flag, Field(description="mirror half of the samples; not for text or digits")] = True
    holdout: Annotated[
        float,
        Strict(),
        Field(
            ge=0, lt=1, description="share of the samples that is never trained on, to tell learning from memorising"
        ),
    ] = 0.0
    cache: Annotated[
        Literal["none", "ram", "device"],
        Field(description="where samples live while training: a memory map, each process's RAM, or its device"),
    ] = "none"
