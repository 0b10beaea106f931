"""What every codec offers, the function that picks one, and the step from stored form to model space."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from discli.data.autoencoders.rgb import RgbCodec
from discli.data.autoencoders.vae import VaeCodec
from discli.recipe.contract import CodecIdentity

DEFAULT_VAE = "stabilityai/sd-vae-ft-ema"


class Codec(Protocol):
    """Works in slices of one fixed size, padding the last, so that an image's bytes do not depend on its company."""

    @property
    def identity(self) -> CodecIdentity: ...

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to the stored form, on the codec's device: (B, 3, H, W) uint8 or (B, 2C, h, w) float32."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """(B, C, h, w) float in model space to (B, 3, H, W) uint8, on the codec's device."""
        ...


def open_codec(
    name: Literal["rgb", "vae"],
    vae: str | None = None,
    device: torch.device | str = "cpu",
    slice_size: int | None = None,
) -> Codec:
    """A codec to encode with. ``vae``: hub id or folder of a diffusers autoencoder.

    Raises DiscliError when the autoencoder cannot be had.
    """
    return RgbCodec() if name == "rgb" else VaeCodec(vae or DEFAULT_VAE, torch.device(device), slice_size)


def load_codec(
    identity: CodecIdentity,
    device: torch.device | str = "cpu",
    vae: str | torch.nn.Module | None = None,
    slice_size: int | None = None,
) -> Codec:
    """The codec that data was encoded with, checked by the hash of its weights.

    ``vae`` says where the autoencoder lies now, if not where it lay then, or is it. Raises DiscliError
    when it cannot be had or has other weights.
    """
    if identity.name == "rgb":
        return RgbCodec()
    if isinstance(vae, torch.nn.Module):
        codec = VaeCodec(identity.vae, torch.device(device), slice_size, module=vae)
    else:
        codec = VaeCodec(vae or identity.vae, torch.device(device), slice_size)
    codec.check(identity)
    return codec


def to_model_space(identity: CodecIdentity, stored: Tensor, eps: Tensor | None = None) -> Tensor:
    """Stored samples to what the model sees: (B, C, h, w) float32.

    Pixels: x / 127.5 - 1. Latents: (mean + std * eps - shift) * scale, a draw from the encoder's posterior
    with ``eps`` (B, C, h, w) standard normal, or its mean where eps is None.
    """
    if identity.name == "rgb":
        return stored.float() / 127.5 - 1.0
    mean, std = stored.float().chunk(2, dim=1)
    latent = mean if eps is None else mean + std * eps
    return (latent - identity.shift_factor) * identity.scaling_factor
