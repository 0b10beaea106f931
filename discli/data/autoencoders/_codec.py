"""What every autoencoder offers, and how one is opened: to encode with, or as a data file names it.

Imports no torch: a folder of pixels is encoded without.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from discli.recipe.choices import implementation
from discli.recipe.codec import CodecIdentity, CodecSpec
from discli.recipe.data import CODECS
from discli.runtime.errors import DiscliError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Rows = npt.NDArray[Any]


class Codec(ABC):
    """Pixels <-> what the model sees. To add one, put a file with this and its Spec and Identity into the folder.

    Works in slices of one fixed size, padding the last where that matters, so that an image's bytes do not
    depend on the images beside it.
    """

    spec: ClassVar[type[CodecSpec]]
    computes: ClassVar[bool] = True  # whether encoding takes a device, and torch
    identity: CodecIdentity

    def __init__(self, vae: str | None = None, device: "torch.device | str" = "cpu", slice_size: int | None = None):
        """``vae``: hub id or folder of the weights, if it has any. ``slice_size``: images computed at once.

        Sets ``identity``. Raises DiscliError where the weights cannot be had.
        """
        self.device, self.slice_size = device, slice_size or 1

    @abstractmethod
    def encode(self, images: "Tensor") -> "Tensor":
        """(B, 3, H, W) uint8 to the stored form, (B, stored_channels, h, w) uint8 or float32, on the device."""

    @abstractmethod
    def decode(self, x0: "Tensor") -> "Tensor":
        """(B, C, h, w) float in model space to (B, 3, H, W) uint8, on the device."""

    def decode_as(self, identity: CodecIdentity) -> None:
        """For a file of ``identity``, its own normalisation. Raises DiscliError unless this is its autoencoder."""
        for what in (field for field in type(identity).model_fields if field not in identity.of_the_file):
            held, wanted = getattr(self.identity, what), getattr(identity, what)
            if held != wanted and wanted != "":  # an imported checkpoint knows no hash
                raise DiscliError(
                    f"{self.identity.weights or identity.name} has {what} {held},"
                    f" but the data was encoded with {wanted}.",
                    f"Give the autoencoder it was encoded with ({identity.weights or identity.name}), or encode again.",
                )
        self.identity = self.identity.of_file(identity)

    def launch(self, images: Rows, dtype: str, mirrored: bool) -> Callable[[], Rows]:
        """Starts to encode (k, 3, H, W) uint8; calling the result waits for the rows. A GPU meanwhile works on.

        Rows are (k, stored_channels, h, w) of ``dtype``, or, ``mirrored``, (k, 2, stored_channels, h, w): each
        image, then its mirror image. Raises DiscliError where ``slice_size`` is too much for the GPU's memory.
        """
        import torch

        if not len(images):
            sides = (side // self.identity.downsample for side in images.shape[2:])
            shape = (self.identity.stored_channels, *sides)
            return lambda: np.empty((0, 2, *shape) if mirrored else (0, *shape), dtype)
        pixels = torch.from_numpy(images)
        try:
            latents = self.encode(pixels)
            if mirrored:
                latents = torch.stack([latents, self.encode(pixels.flip(-1))], dim=1)
        except torch.OutOfMemoryError:
            raise DiscliError(
                f"{self.slice_size} images at once are too many for the memory of this GPU.",
                f"Give --batch-size {max(1, self.slice_size // 2)}",
            ) from None
        stored = latents.to(getattr(torch, dtype))
        if stored.device.type != "cuda":
            return stored.numpy
        # Copied as soon as it is there: asked for later, the copy would wait for the next batch's kernels.
        rows = torch.empty(stored.shape, dtype=stored.dtype, pin_memory=True).copy_(stored, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(stored.device))

        def wait() -> Rows:
            copied.synchronize()
            return rows.numpy()

        return wait


def codec_class(name: str) -> type[Codec]:
    """The class of the codec that recipes call ``name``, its file imported. Raises DiscliError where there is none."""
    if name not in CODECS:
        raise DiscliError(f'There is no codec "{name}".', f"Known: {', '.join(CODECS)}.")
    found: type[Codec] = implementation(CODECS[name])
    return found


def open_codec(
    name: str, vae: str | None = None, device: "torch.device | str" = "cpu", slice_size: int | None = None
) -> Codec:
    """A codec to encode with; the arguments are those of `Codec`. Raises DiscliError when it cannot be had."""
    return codec_class(name)(vae, device, slice_size)


def load_codec(
    identity: CodecIdentity,
    device: "torch.device | str" = "cpu",
    vae: "str | torch.nn.Module | None" = None,
    slice_size: int | None = None,
) -> Codec:
    """The codec that data was encoded with, checked by the hash of its weights.

    ``vae`` says where the autoencoder lies now, if not where it lay then, or is it. Raises DiscliError
    when it cannot be had or has other weights.
    """
    kind: Any = codec_class(identity.name)
    if vae is None or isinstance(vae, str):
        codec: Codec = kind(vae or identity.weights, device, slice_size)
    else:
        codec = kind(identity.weights, device, slice_size, module=vae)
    codec.decode_as(identity)
    return codec


def to_pixels(x: "Tensor") -> "Tensor":
    """(B, 3, H, W) to uint8, the exact inverse of x / 127.5 - 1; values beyond [-1, 1] are clipped."""
    import torch

    return ((x.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
