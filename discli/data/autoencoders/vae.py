"""Latents of an autoencoder that diffusers loads: `KINDS`."""

import importlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from discli.data.autoencoders.hub import DEFAULT_VAE, fetch, read_config
from discli.data.autoencoders.latents import LatentCodec, Published
from discli.recipe.codec import LatentIdentity, LatentSpec
from discli.runtime.errors import DiscliError, explain_import_error
from discli.runtime.signals import hold_ctrl_c

KINDS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLFlux2")

# What diffusers fills in where a config says nothing, and writes down when it saves one. AutoencoderKL's is true of
# Stable Diffusion's own, of 4 channels; AutoencoderTiny's 1 of its latents, which are those scaled already.
_UNSET_SCALE = {"AutoencoderKL": 0.18215, "AutoencoderDC": 1.0}
_SD_CHANNELS = 4


class VaeSpec(LatentSpec):
    """Latents of a diffusers autoencoder. Without ``vae``, whichever one the data file names."""

    name: Literal["vae"] = "vae"


class VaeIdentity(LatentIdentity):
    """Mean and std of a diffusers autoencoder's latent, scaled as published, or each channel as measured."""

    name: Literal["vae"] = "vae"


class VaeCodec(LatentCodec):
    """AutoencoderTiny and AutoencoderDC have no posterior; their standard deviation is stored as zero.

    FLUX.2's has its latent's cells two by two in the channels, as its pipeline does: 4C of them at half the side.
    """

    spec = VaeSpec
    kept = VaeIdentity
    module: Any  # diffusers' autoencoder
    default_vae = DEFAULT_VAE

    def load(self, vae: str) -> torch.nn.Module:
        folder = fetch(vae)
        kind = str(read_config(folder).get("_class_name"))
        if kind not in KINDS:
            raise DiscliError(
                f"{vae} is a {kind}, not an autoencoder that encode knows.", f"Known: {', '.join(KINDS)}."
            )
        loaded: torch.nn.Module = _load(kind, folder, vae)
        return loaded

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        encoded = self.module.encode(x)
        if not hasattr(encoded, "latent_dist"):
            return encoded.latents if hasattr(encoded, "latents") else encoded.latent, None
        mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
        if self._cells > 1:
            mean, std = pixel_unshuffle(mean, self._cells), pixel_unshuffle(std, self._cells)
        return mean, std

    def image(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.module.decode(pixel_shuffle(z, self._cells) if self._cells > 1 else z).sample
        return decoded

    def published(self) -> Published:
        """A scaling factor that was chosen for this autoencoder. Means and deviations in a config are measured anew."""
        settings = self.module.config  # with the class's defaults: sd-vae-ft-ema's file leaves its scaling factor out
        scale, channels = settings.get("scaling_factor"), settings.get("latent_channels")
        unset = scale == _UNSET_SCALE.get(type(self.module).__name__) and channels != _SD_CHANNELS
        if scale is None or unset or settings.get("latents_mean") is not None:
            return Published()
        return Published(float(scale), float(settings.get("shift_factor") or 0.0))

    @property
    def _cells(self) -> int:
        """On a side, of those that are one to the model."""
        return int(self.module.config.get("patch_size", (1, 1))[0])


@hold_ctrl_c()
def _load(kind: str, folder: Path, vae: str) -> Any:
    try:
        autoencoder = getattr(importlib.import_module("diffusers"), kind)
    except AttributeError:
        raise DiscliError(f"{vae} is an {kind}, which this diffusers has not.", "pip install -U diffusers") from None
    except (ImportError, RuntimeError) as error:
        raise explain_import_error(error) or error from None
    try:
        return autoencoder.from_pretrained(str(folder), local_files_only=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiscliError(f"Cannot load the autoencoder {vae}: {reason}", "Fetch its folder again.") from None
