"""Pixels as they are. Imports torch only to decode, so that encoding starts at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy.typing as npt

from discli.data.autoencoders import Codec, to_pixels
from discli.recipe.codec import CodecIdentity, CodecSpec

if TYPE_CHECKING:
    from torch import Tensor


class RgbSpec(CodecSpec):
    """Pixels, scaled to [-1, 1]."""

    name: Literal["rgb"] = "rgb"
    is_pixels: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        return 3

    @property
    def downsample(self) -> int:
        return 1


class RgbIdentity(CodecIdentity):
    """uint8 pixels; the model sees x / 127.5 - 1."""

    name: Literal["rgb"] = "rgb"
    is_pixels: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        return 3

    @property
    def downsample(self) -> int:
        return 1

    def to_model_space(self, stored: "Tensor", eps: "Tensor | None" = None) -> "Tensor":
        return stored.float() / 127.5 - 1.0

    def stats_in_model_space(self, mean: Any, std: Any) -> tuple[Any, Any]:
        return mean / 127.5 - 1.0, std / 127.5

    def describe(self) -> list[tuple[str, str]]:
        return [("codec", "rgb: pixels; the model sees x / 127.5 - 1")]


class RgbCodec(Codec):
    """The identity on uint8 pixels."""

    spec = RgbSpec
    computes = False
    identity = RgbIdentity()

    def encode(self, images: "Tensor") -> "Tensor":
        """(B, 3, H, W) uint8, as they are."""
        return images

    def decode(self, x0: "Tensor") -> "Tensor":
        """(B, 3, H, W) in [-1, 1] to uint8, on the device of ``x0``."""
        return to_pixels(x0)

    def launch(self, images: npt.NDArray[Any], dtype: str, mirrored: bool) -> Callable[[], npt.NDArray[Any]]:
        return lambda: images
