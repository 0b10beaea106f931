"""What every autoencoder says of itself, in recipes and in data files; each is a file in discli/data/autoencoders."""

from typing import TYPE_CHECKING, Any, ClassVar

from discli.recipe.spec import ChoiceSpec

if TYPE_CHECKING:
    from torch import Tensor


class _Shape(ChoiceSpec):
    """Fields, or properties where it is always the same."""

    is_pixels: ClassVar[bool] = False  # uint8 pixels as they are, whose mirror image is exact

    if TYPE_CHECKING:

        @property
        def channels(self) -> int:
            """Of what the model sees."""

        @property
        def downsample(self) -> int:
            """Pixels on a side for one cell of what the model sees."""

    @property
    def weights(self) -> str | None:
        """The hub id or folder in the field ``vae``, which those have that load weights."""
        return getattr(self, "vae", None)


class CodecSpec(_Shape):
    """A recipe's ``data.codec``: ``name``, and what a recipe must know before there is a data file."""


class CodecIdentity(_Shape):
    """What a data file keeps of the autoencoder it was encoded with: all that turns samples into images again.

    All its fields but ``vae`` must be the same for the autoencoder that decodes, or it is refused.
    """

    stores_std: ClassVar[bool] = False  # samples are (2C, h, w): means, then standard deviations to draw with

    @property
    def stored_channels(self) -> int:
        """Of a sample in the data file."""
        return self.channels * (2 if self.stores_std else 1)

    def to_model_space(self, stored: "Tensor", eps: "Tensor | None" = None) -> "Tensor":
        """(B, stored_channels, h, w) of the data file to (B, C, h, w) float32, what the model sees.

        ``eps``: (B, C, h, w) standard normal, to draw with where ``stores_std``; None: the mean.
        """
        raise NotImplementedError

    def stats_in_model_space(self, mean: Any, std: Any) -> tuple[Any, Any]:
        """(C,) float64 each: what `to_model_space` makes of channels of this mean and standard deviation."""
        raise NotImplementedError

    def describe(self) -> list[tuple[str, str]]:
        """(heading, text) lines for people."""
        return [("codec", f"{self.name}: {self.channels} channels, 1/{self.downsample} the side")]
