"""What happens between decoded pixels and stored rows: nothing, or an autoencoder."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from discli.recipe.contract import CodecIdentity, RgbIdentity
from discli.runtime.errors import DiscliError

CodecName = Literal["rgb", "vae"]
Rows = npt.NDArray[np.generic]

_WORKER_BYTES = 1 << 21  # of pixels in a worker's batch
_GPU_BATCH_PIXELS = 64 * 256 * 256
_CPU_BATCH = 8


def pick_device(device: str | None) -> str:
    """``device``, or else this rank's GPU, or else the CPU. Imports torch where it has to look."""
    if device is not None:
        return device
    import torch

    from discli.runtime.devices import own_gpu

    return own_gpu() if torch.cuda.is_available() else "cpu"


class Stage:
    """Pixels as they are, or the moments of their latents. torch is imported for latents only.

    ``batch_size`` images are decoded at once; ``slice_size`` of them go through the autoencoder at once,
    always: on a GPU an image's last bits can depend on how many are computed together.
    """

    def __init__(
        self,
        name: CodecName,
        resolution: int,
        *,
        vae: str | None,
        flip: bool | None,
        moments: Literal["float16", "float32"],
        batch_size: int | None,
        device: str | None,
    ) -> None:
        """Raises DiscliError when the autoencoder cannot be had or does not divide ``resolution``."""
        self.name = name
        self.identity: CodecIdentity = RgbIdentity()
        self.dtype: Literal["uint8", "float16", "float32"] = "uint8"
        self.flip_stored, self.on_gpu, self.slice_size = False, False, 1
        self.batch_size = batch_size or min(1024, max(8, _WORKER_BYTES // (3 * resolution**2)))
        if name == "rgb":
            return

        from discli.data.autoencoders import open_codec

        where = pick_device(device)
        self.on_gpu = where.startswith("cuda")
        self.batch_size = batch_size or (max(1, _GPU_BATCH_PIXELS // resolution**2) if self.on_gpu else _CPU_BATCH)
        # On a CPU one image keeps all cores busy, and then no batch size shows in the bytes.
        self.slice_size = self.batch_size if self.on_gpu else 1
        self._codec = open_codec("vae", vae, where, self.slice_size)
        self.identity, self.dtype, self.flip_stored = self._codec.identity, moments, flip is not False
        divisor = self.identity.downsample
        if resolution % divisor:
            raise DiscliError(
                f"--res {resolution} is no multiple of {divisor}, by which this autoencoder divides it.",
                f"Nearest: --res {max(1, round(resolution / divisor)) * divisor}",
            )

    def launch(self, images: npt.NDArray[np.uint8]) -> Callable[[], Rows]:
        """Starts a batch (k, 3, H, W); calling the result waits for its rows. A GPU meanwhile works on."""
        if self.name == "rgb":
            return lambda: images
        import torch

        if not len(images):
            shape = (2 * self.identity.channels, *(side // self.identity.downsample for side in images.shape[2:]))
            return lambda: np.empty((0, 2, *shape) if self.flip_stored else (0, *shape), self.dtype)
        pixels = torch.from_numpy(images)
        try:
            latents = self._codec.encode(pixels)
            if self.flip_stored:
                latents = torch.stack([latents, self._codec.encode(pixels.flip(-1))], dim=1)
        except torch.OutOfMemoryError:
            raise DiscliError(
                f"{self.slice_size} images at once are too many for the memory of this GPU.",
                f"Give --batch-size {max(1, self.slice_size // 2)}",
            ) from None
        stored = latents.to(getattr(torch, self.dtype))
        if not self.on_gpu:
            return stored.numpy
        # Copied as soon as it is there: asked for later, the copy would wait for the next batch's kernels.
        rows = torch.empty(stored.shape, dtype=stored.dtype, pin_memory=True).copy_(stored, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(stored.device))

        def wait() -> Rows:
            copied.synchronize()
            return rows.numpy()

        return wait
