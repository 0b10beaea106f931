"""What autoencoders with weights have in common: slices of one size, a hash of the weights, statistics of channels."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from discli.data.autoencoders import Codec, to_pixels
from discli.recipe.codec import LatentIdentity

_PROBE = 64  # pixels on a side; a multiple of every published reduction

# Larger slices fill a GPU; on a CPU a single image keeps all cores busy.
_SLICE = {"cuda": 16, "cpu": 1}


class Published(NamedTuple):
    """How an autoencoder's makers scale its latents: (z - shift) * scale. ``scale`` None: they do not say."""

    scale: float | None = None
    shift: float = 0.0


class LatentCodec(Codec):
    """An autoencoder with weights. To add one: ``load``, ``moments``, ``image``, and where it is so ``published``.

    Stored are mean and standard deviation of the latent, side by side, before any scaling. Encodes in bfloat16 on
    CUDA, decodes in float32 (in TF32 where PyTorch allows cuDNN that, its default).
    """

    kept: ClassVar[type[LatentIdentity]]  # what a data file keeps of it
    default_vae: ClassVar[str | None] = None
    identity: LatentIdentity

    @abstractmethod
    def load(self, vae: str) -> torch.nn.Module:
        """The autoencoder from ``vae``, hub id or folder, in float32 on the CPU; ``module`` from then on.

        Runs nothing that comes with the weights. Raises DiscliError where it cannot be had.
        """

    @abstractmethod
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) in [-1, 1] to mean and standard deviation of the latent, (B, C, h, w); None: no spread."""

    @abstractmethod
    def image(self, z: Tensor) -> Tensor:
        """(B, C, h, w) latents as the autoencoder gives them to (B, 3, H, W) in [-1, 1]."""

    def published(self) -> Published:
        """How its makers scale it. Where they do not, each channel is normalised as it was measured."""
        return Published()

    def __init__(
        self,
        vae: str | None = None,
        device: torch.device | str = "cpu",
        slice_size: int | None = None,
        module: torch.nn.Module | None = None,
    ) -> None:
        """``module``: the autoencoder, where a caller has loaded it already. Raises DiscliError as ``load``."""
        vae, device = vae or self.default_vae or "", torch.device(device)
        self.module = (self.load(vae) if module is None else module).float().eval().requires_grad_(False)
        super().__init__(vae, device, slice_size or _SLICE.get(device.type, 1))
        self._on_gpu = device.type == "cuda"
        sha256 = _sha256(self.module)  # before the weights move
        self._layout = torch.channels_last if self._on_gpu else torch.contiguous_format
        self.module = self.module.to(device).to(memory_format=self._layout)
        latent = self._moments(torch.zeros(1, 3, _PROBE, _PROBE, device=device))
        scale, shift = self.published()
        self.identity = self.kept(
            vae=str(Path(vae).resolve()) if Path(vae).is_dir() else vae,
            kind=type(self.module).__name__,
            weights_sha256=sha256,
            scaling_factor=scale,
            shift_factor=shift,
            channels=latent.shape[1] // 2,
            downsample=_PROBE // latent.shape[-1],
            normalise="channels" if scale is None else "scale",
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
        latent = self.identity.from_model_space(x0.to(self.device))
        # Beside sampling, which plans with the rest of the card: no slice has more pixels than 16 images of 256 px.
        pixels = latent.shape[-2] * latent.shape[-1] * self.identity.downsample**2
        slice_size = max(1, min(self.slice_size, _SLICE["cuda"] * 256**2 // pixels))
        return self._in_slices(lambda z: to_pixels(self.image(z)), latent, slice_size)

    def _moments(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            mean, std = self.moments(x)
        mean = mean.float()
        return torch.cat([mean, torch.zeros_like(mean) if std is None else std.float()], dim=1)

    def _in_slices(self, function: Callable[[Tensor], Tensor], batch: Tensor, slice_size: int) -> Tensor:
        done = []
        for slice_ in torch.split(batch, slice_size):
            missing = slice_size - len(slice_)
            full = torch.cat([slice_, slice_.new_zeros(missing, *slice_.shape[1:])]) if missing else slice_
            # Convolutions pick their algorithm, and so their last bits, by memory layout too.
            done.append(function(full.contiguous(memory_format=self._layout))[: len(slice_)])
        return torch.cat(done)


def _sha256(vae: torch.nn.Module) -> str:
    """Of names, shapes and float32 values, whichever file format they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
