"""Pixels as they are."""

from torch import Tensor

from discli.data.autoencoders.pixels import to_pixels
from discli.recipe.contract import RgbIdentity


class RgbCodec:
    """The identity on uint8 pixels, which the model sees as x / 127.5 - 1."""

    identity = RgbIdentity()

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x0: Tensor) -> Tensor:
        return to_pixels(x0)
