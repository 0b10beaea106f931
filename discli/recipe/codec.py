"""What every autoencoder says of itself, in recipes and in data files; each is a file in discli/data/autoencoders."""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from discli.recipe.spec import ChoiceSpec, Positive, PositiveInt, Real

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Normalise = Literal["scale", "channels"]

_SHOWN = 8  # channels in a line for people
_CONSTANT = 1e-6  # of its mean: below it, a channel's standard deviation is rounding


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

    All its fields but those that are ``of_the_file`` must be the same for the autoencoder that decodes, or it is
    refused.
    """

    stores_std: ClassVar[bool] = False  # samples are (2C, h, w): means, then standard deviations to draw with
    of_the_file: ClassVar[frozenset[str]] = frozenset({"vae"})

    @property
    def stored_channels(self) -> int:
        """Of a sample in the data file."""
        return self.channels * (2 if self.stores_std else 1)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) per channel of what is stored, where the file's own normalise it; empty until measured."""
        return None

    def measured(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Self:
        """With these ``statistics``, where it is normalised by them; else as it is."""
        return self

    def of_file(self, other: "CodecIdentity") -> Self:
        """This autoencoder, its latents normalised as in the file that ``other`` is of."""
        return self

    def to_model_space(self, stored: "Tensor", eps: "Tensor | None" = None) -> "Tensor":
        """(B, stored_channels, h, w) of the data file to (B, C, h, w) float32, what the model sees.

        ``eps``: (B, C, h, w) standard normal, to draw with where ``stores_std``; None: the mean.
        """
        raise NotImplementedError

    def stats_in_model_space(self, mean: Any, std: Any) -> tuple[Any, Any]:
        """What `to_model_space` makes of values of this mean and standard deviation: (C,) float64 or (B, C, h, w)."""
        raise NotImplementedError

    def describe(self) -> list[tuple[str, str]]:
        """(heading, text) lines for people."""
        return [("codec", f"{self.name}: {self.channels} channels, 1/{self.downsample} the side")]


class LatentSpec(CodecSpec):
    """Latents of an autoencoder that loads weights. Without ``vae``, whichever one the data file names."""

    vae: Annotated[str | None, Field(description="hub id or folder; refuses data encoded with another")] = None
    channels: Annotated[PositiveInt, Field(le=2**10, description="of a latent")] = 4
    downsample: Annotated[PositiveInt, Field(le=2**8, description="pixels on a side for one latent cell")] = 8


class LatentIdentity(CodecIdentity):
    """Mean and std of an autoencoder's latent z; stored as it is, normalised where it is read.

    ``normalise`` "scale": the model sees (z - shift_factor) * scaling_factor, which the autoencoder publishes;
    "channels": (z - mean) / std of each channel, measured over all that the file stores.
    """

    stores_std: ClassVar[bool] = True
    of_the_file: ClassVar[frozenset[str]] = frozenset({"vae", "normalise", "mean", "std"})
    vae: str  # hub id or folder, as it was given to encode
    kind: str  # of autoencoder: its class
    weights_sha256: str
    scaling_factor: Positive | None = None  # None: it publishes none
    shift_factor: Real = 0.0
    channels: PositiveInt = 4
    downsample: PositiveInt = 8
    normalise: Normalise = "scale"
    mean: tuple[Real, ...] = ()  # of z; empty until measured
    std: tuple[Annotated[Real, Field(ge=0)], ...] = ()  # of z as it is drawn

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.mean) not in (0, self.channels) or len(self.std) != len(self.mean):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations of {self.channels} channels")
        if self.normalise == "scale" and (self.scaling_factor is None or self.mean):
            raise ValueError('normalise "scale" takes a scaling_factor, and neither mean nor std')
        return self

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        return (self.mean, self.std) if self.normalise == "channels" else None

    def measured(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Self:
        return self.model_copy(update={"mean": mean, "std": std}) if self.normalise == "channels" else self

    def of_file(self, other: CodecIdentity) -> Self:
        return self.model_copy(update={key: getattr(other, key) for key in ("normalise", "mean", "std")})

    def to_model_space(self, stored: "Tensor", eps: "Tensor | None" = None) -> "Tensor":
        """(mean + std * eps - shift) * scale: a draw from the encoder's posterior, or its mean."""
        mean, std = stored.float().chunk(2, dim=1)
        latent = mean if eps is None else mean + std * eps
        shift, scale = self._affine(latent)
        seen: Tensor = (latent - shift) * scale
        return seen

    def from_model_space(self, x0: "Tensor") -> "Tensor":
        """(B, C, h, w) that the model sees to z, float32."""
        shift, scale = self._affine(x0)
        z: Tensor = x0.float() / scale + shift
        return z

    def stats_in_model_space(self, mean: Any, std: Any) -> tuple[Any, Any]:
        shift, scale = self._affine(mean)
        return (mean - shift) * scale, std * abs(scale)

    def describe(self) -> list[tuple[str, str]]:
        lines = [
            ("codec", f"{self.name}: {self.vae} ({self.kind}, {self.channels} channels, 1/{self.downsample} the side)")
        ]
        if self.normalise == "scale":
            lines.append(("scaling", f"the model sees (z - {self.shift_factor:g}) * {self.scaling_factor:g}"))
        else:
            lines.append(("scaling", "the model sees (z - mean) / std of each channel, of all that the file stores"))
            lines += [("mean", f"{in_short(self.mean)}, of z"), ("std", f"{in_short(self.std)}, of z")]
        return [*lines, ("weights", f"sha256 {self.weights_sha256}")]

    def _affine(self, like: Any) -> tuple[Any, Any]:
        """(shift, scale): numbers, or one of each channel, to broadcast with ``like``, (C,) or (B, C, h, w)."""
        if self.normalise == "scale":
            return self.shift_factor, self.scaling_factor
        if not self.mean:
            raise ValueError("the latents' mean and std are not measured yet")
        scale = tuple(scale_of(mean, std) for mean, std in zip(self.mean, self.std, strict=True))
        import numpy as np  # recipes do not wait for it

        if isinstance(like, np.ndarray):
            return np.array(self.mean), np.array(scale)
        return _on_device(self.mean, scale, like.device)


def scale_of(mean: float, std: float) -> float:
    """Of a channel; of one that is the same everywhere, 1, so that it is only centred."""
    return 1.0 / std if std > _CONSTANT * abs(mean) else 1.0


def in_short(values: tuple[float, ...]) -> str:
    """Each, or of many channels from which to which they are."""
    if len(values) <= _SHOWN:
        return ", ".join(f"{value:.4g}" for value in values)
    return f"{min(values):.4g} to {max(values):.4g} in {len(values)} channels"


@cache
def _on_device(shift: tuple[float, ...], scale: tuple[float, ...], device: "torch.device") -> tuple["Tensor", "Tensor"]:
    """(C, 1, 1) float32 each. Copied once: a copy in every step would wait for the step before."""
    import torch

    with torch.inference_mode(False):  # kept for training, whoever asked first
        both = torch.tensor([shift, scale], dtype=torch.float32).to(device)[..., None, None]
        return both[0], both[1]
