"""Latents of a diffusers autoencoder: AutoencoderKL, AutoencoderTiny or AutoencoderDC."""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from discli.data.autoencoders import Codec, to_pixels
from discli.data.autoencoders.hub import DEFAULT_VAE, fetch, read_config
from discli.recipe.codec import CodecIdentity, CodecSpec
from discli.recipe.spec import Positive, PositiveInt, Real
from discli.runtime.errors import DiscliError, explain_import_error
from discli.runtime.signals import hold_ctrl_c

KINDS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")

_PROBE = 64  # pixels on a side; a multiple of every published reduction

# Larger slices fill a GPU; on a CPU a single image keeps all cores busy.
_SLICE = {"cuda": 16, "cpu": 1}


class VaeSpec(CodecSpec):
    """Latents of a diffusers autoencoder. Without ``vae``, whichever one the data file names."""

    name: Literal["vae"] = "vae"
    vae: Annotated[str | None, Field(description="hub id or folder; refuses data encoded with another")] = None
    channels: Annotated[PositiveInt, Field(le=2**10, description="of a latent")] = 4
    downsample: Annotated[PositiveInt, Field(le=2**8, description="pixels on a side for one latent cell")] = 8


class VaeIdentity(CodecIdentity):
    """Mean and std of a diffusers autoencoder's latent; the model sees (z - shift) * scale."""

    name: Literal["vae"] = "vae"
    stores_std: ClassVar[bool] = True
    vae: str  # hub id or folder, as it was given to encode
    kind: str  # diffusers class name
    weights_sha256: str
    scaling_factor: Positive
    shift_factor: Real = 0.0
    channels: PositiveInt = 4
    downsample: PositiveInt = 8

    def to_model_space(self, stored: "Tensor", eps: "Tensor | None" = None) -> "Tensor":
        """(mean + std * eps - shift) * scale: a draw from the encoder's posterior, or its mean."""
        mean, std = stored.float().chunk(2, dim=1)
        latent = mean if eps is None else mean + std * eps
        return (latent - self.shift_factor) * self.scaling_factor

    def stats_in_model_space(self, mean: Any, std: Any) -> tuple[Any, Any]:
        return (mean - self.shift_factor) * self.scaling_factor, std * abs(self.scaling_factor)

    def describe(self) -> list[tuple[str, str]]:
        return [
            ("codec", f"vae: {self.vae} ({self.kind}, {self.channels} channels, 1/{self.downsample} the side)"),
            ("scaling", f"the model sees (z - {self.shift_factor:g}) * {self.scaling_factor:g}"),
            ("weights", f"sha256 {self.weights_sha256}"),
        ]


class VaeCodec(Codec):
    """The moments of the posterior: mean and standard deviation, side by side, before any scaling.

    AutoencoderTiny and AutoencoderDC have no posterior; their standard deviation is stored as zero.
    Encodes in bfloat16 on CUDA, decodes in float32 (in TF32 where PyTorch allows cuDNN that, its default).
    """

    spec = VaeSpec

    def __init__(
        self,
        vae: str | None = None,
        device: torch.device | str = "cpu",
        slice_size: int | None = None,
        module: torch.nn.Module | None = None,
    ) -> None:
        """Raises DiscliError when ``vae`` (hub id or folder) cannot be had or is of another kind. Default: DEFAULT_VAE.

        ``module`` is the autoencoder itself, where a caller has loaded it already.
        """
        vae, device = vae or DEFAULT_VAE, torch.device(device)
        if module is None:
            folder = fetch(vae)
            kind = str(read_config(folder).get("_class_name"))
            if kind not in KINDS:
                raise DiscliError(
                    f"{vae} is a {kind}, not an autoencoder that encode knows.", f"Known: {', '.join(KINDS)}."
                )
            self._vae = _load(kind, folder, vae)
        else:
            kind, self._vae = type(module).__name__, module
        super().__init__(vae, device, slice_size or _SLICE.get(device.type, 1))
        self._on_gpu = device.type == "cuda"
        sha256 = _sha256(self._vae)  # before the weights move
        self._layout = torch.channels_last if self._on_gpu else torch.contiguous_format
        self._vae = self._vae.to(device, memory_format=self._layout)
        settings = self._vae.config  # with the class's defaults: sd-vae-ft-ema's file leaves its scaling factor out
        latent = self._moments(torch.zeros(1, 3, _PROBE, _PROBE, device=device))
        self.identity: CodecIdentity = VaeIdentity(
            vae=str(Path(vae).resolve()) if Path(vae).is_dir() else vae,
            kind=kind,
            weights_sha256=sha256,
            scaling_factor=float(settings.scaling_factor),
            shift_factor=float(settings.shift_factor or 0.0) if "shift_factor" in settings else 0.0,
            channels=latent.shape[1] // 2,
            downsample=_PROBE // latent.shape[-1],
        )

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 2C, h, w) float32; on CUDA, launched and not waited for."""

        def moments(slice_: Tensor) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16, enabled=self._on_gpu):
                return self._moments(slice_.float() / 127.5 - 1.0)

        if self._on_gpu:
            images = images.pin_memory()  # a copy from pageable memory would wait for the kernels before it
        return self._in_slices(moments, images.to(self.device, non_blocking=True), self.slice_size)

    @torch.inference_mode()
    def decode(self, x0: Tensor) -> Tensor:
        """(B, C, h, w) in model space to (B, 3, H, W) uint8."""
        assert isinstance(self.identity, VaeIdentity)
        latent = x0.to(self.device).float() / self.identity.scaling_factor + self.identity.shift_factor
        # Beside sampling, which plans with the rest of the card: no slice has more pixels than 16 images of 256 px.
        pixels = (latent.shape[-1] * self.identity.downsample) ** 2
        slice_size = max(1, min(self.slice_size, _SLICE["cuda"] * 256**2 // pixels))
        return self._in_slices(lambda z: to_pixels(self._vae.decode(z).sample), latent, slice_size)

    @property
    def module(self) -> Any:
        """diffusers' autoencoder."""
        return self._vae

    def _moments(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            encoded = self._vae.encode(x)
        if hasattr(encoded, "latent_dist"):
            return torch.cat([encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()], dim=1)
        mean = (encoded.latents if hasattr(encoded, "latents") else encoded.latent).float()
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    def _in_slices(self, function: Callable[[Tensor], Tensor], batch: Tensor, slice_size: int) -> Tensor:
        done = []
        for slice_ in torch.split(batch, slice_size):
            missing = slice_size - len(slice_)
            full = torch.cat([slice_, slice_.new_zeros(missing, *slice_.shape[1:])]) if missing else slice_
            # Convolutions pick their algorithm, and so their last bits, by memory layout too.
            done.append(function(full.contiguous(memory_format=self._layout))[: len(slice_)])
        return torch.cat(done)


@hold_ctrl_c()
def _load(kind: str, folder: Path, vae: str) -> Any:
    try:
        autoencoder = getattr(importlib.import_module("diffusers"), kind)
    except (ImportError, RuntimeError) as error:
        raise explain_import_error(error) or error from None
    try:
        loaded = autoencoder.from_pretrained(str(folder), local_files_only=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiscliError(f"Cannot load the autoencoder {vae}: {reason}", "Fetch its folder again.") from None
    return loaded.float().eval().requires_grad_(False)


def _sha256(vae: torch.nn.Module) -> str:
    """Of names, shapes and float32 values, whichever file format they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
