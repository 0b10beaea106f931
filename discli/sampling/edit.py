"""Images to begin from, and what of them is drawn: read, brought to the model's size, and checked."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from discli.data.images import ImageError, crop, decode, upright_rgb
from discli.data.sources import is_image
from discli.diffusion.edit import Edit
from discli.recipe import DataContract
from discli.recipe.size import Size, nearest_shape
from discli.runs.manifest import Edited, GivenImage
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.sampling.load import LoadedModel

ImageInput = str | Path | Image.Image | npt.NDArray[Any]  # an array: (H, W, 3) or (H, W), uint8 or bool

STRENGTH = 0.6
RESAMPLINGS = 4
VARIATIONS = 16  # of one image, unless told otherwise
_WHITE_FROM = 128


@dataclass(frozen=True)
class EditSettings:
    """What a user may ask of images that do not come from noise alone."""

    init: ImageInput | Sequence[ImageInput] | None = None  # an image, a folder of them, or several
    mask: ImageInput | None = None  # white: to be drawn
    strength: float | None = None  # the share of the steps; 1 begins with noise alone
    resample: int | None = None  # how often each stretch of steps is walked under a mask
    invert: bool = False  # begin with the noise that DDIM finds for the image
    between: Literal["noises", "classes"] | None = None


@dataclass(frozen=True)
class GivenImages:
    """N images to begin from; image i of the samples begins from number i % N."""

    record: Edited  # for the manifest
    pixels: Tensor  # (N, 3, H, W) uint8, of the model's size
    x0: Tensor  # (N, C, h, w) float32 in model space, on the model's device
    drawn: Tensor | None  # (H, W) bool, what the mask leaves to be drawn; None: everything
    cells: Tensor | None  # (1, 1, h, w) bool, the same of what the model sees: every cell with such a pixel
    shown: int | None  # the class that the images are inverted as

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape[2:])

    def edit_of(self, members: Tensor) -> Edit:
        """Of the images with numbers ``members`` (B,)."""
        shown = None if self.shown is None else torch.full_like(members, self.shown)
        record = self.record
        x0 = self.x0[members % len(self.x0)]
        return Edit(x0, record.strength, self.cells, record.resamplings, record.invert, shown)

    def keep(self, numbers: Sequence[int], images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 with the given pixels, exactly, where nothing was to be drawn."""
        if self.drawn is None:
            return images
        given = self.pixels[torch.tensor(numbers) % len(self.pixels)]
        return torch.where(self.drawn.to(images.device), images, given.to(images.device))


def settle_edit(
    model: LoadedModel, asked: EditSettings, n: int | None, classes: Sequence[int], size: Size | None
) -> tuple[GivenImages | None, int | None]:
    """The given images and how many to draw of them; None where there are none. Raises DiscliError.

    They become ``size``; by default that of the model's training which has nearest the shape of the first of them.
    """
    init, mask, strength, resample, invert = asked.init, asked.mask, asked.strength, asked.resample, asked.invert
    if init is None:
        for flag, given in (("--mask", mask), ("--strength", strength), ("--resample", resample)):
            if given is not None:
                raise DiscliError(f"{flag} goes with an image to begin from.", "Give one: --init IMAGE.")
        if invert:
            raise DiscliError("--invert: of which image?", "Give one: --init IMAGE.")
        return None, None
    if asked.between is not None:
        raise DiscliError("--between goes between noises or classes, not images.", "Leave --init or --between out.")
    if mask is not None and invert:
        raise DiscliError("--invert draws all of the image.", "Leave --mask or --invert out.")
    if resample is not None and (mask is None or resample < 1):
        raise DiscliError(
            f"--resample {resample}: how often what a mask leaves is drawn.", "Give --mask, and at least 1."
        )
    if strength is None:
        strength = STRENGTH if mask is None and not invert else 1.0
    if not 0 < strength <= 1:
        raise DiscliError(f"--strength {strength:g}: not a share.", "Give one above 0 and up to 1, such as 0.6.")
    if invert and model.recipe.model.num_classes and not classes:
        raise DiscliError("--invert: of which class is the image?", "Say so, such as --classes 3.")

    opened = [_open(one, "--init") for one in _several(init)]
    count = len(opened)
    if count > 1 and n is not None:
        raise DiscliError(f"-n {n} with {count} images to begin from.", "Leave -n out: one is drawn of each.")
    covered = None if mask is None else _open(mask, "--mask")
    for one in opened:
        if covered is not None and one.image.size != covered.image.size:
            sizes = " and ".join("{} x {}".format(*image.size) for image in (covered.image, one.image))
            raise DiscliError(f"--mask and {one.name} differ in size: {sizes} pixels.", "Give a mask of its size.")
    contract = model.contract
    size = size or contract.sizes[nearest_shape(contract.sizes, *opened[0].image.size)]
    pixels = torch.stack([_fit(one, size, contract) for one in opened])
    drawn = None if covered is None else _fit(covered, size, contract).float().mean(0) >= _WHITE_FROM
    if drawn is not None and not drawn.any():
        raise DiscliError("--mask has no white: nothing is to be drawn.", "Paint what is to be drawn white.")
    codec = model.load_codec()
    x0 = contract.codec.to_model_space(codec.encode(pixels)).to(model.device)
    cells = None
    if drawn is not None:
        side = contract.codec.downsample
        cells = torch.nn.functional.max_pool2d(drawn[None, None].float(), side).bool().to(model.device)
    record = Edited(
        init=tuple(one.record for one in opened),
        mask=covered and covered.record,
        strength=float(strength),
        resamplings=1 if mask is None else resample or RESAMPLINGS,
        invert=invert,
    )
    shown = classes[0] if invert and classes else None
    variations = max(1, len(classes)) if invert else VARIATIONS
    return GivenImages(record, pixels, x0, drawn, cells, shown), count if count > 1 else n or variations


@dataclass(frozen=True)
class _Opened:
    image: Image.Image
    name: str  # for messages
    record: GivenImage


def _several(init: ImageInput | Sequence[ImageInput]) -> Sequence[ImageInput]:
    """One, several, or those of a folder by their names."""
    if isinstance(init, Image.Image) or (isinstance(init, np.ndarray) and init.ndim < 4):
        return [init]
    if isinstance(init, Sequence | np.ndarray) and not isinstance(init, str):
        if len(init) == 0:
            raise DiscliError("--init: no image.", "Give one.")
        return list(init)
    folder = _path(init, "--init")
    if not folder.is_dir():
        return [init]
    found = sorted(path for path in folder.iterdir() if is_image(path.name))
    if not found:
        raise DiscliError(f"--init {folder}: no images in this folder.", "Give an image, or a folder of images.")
    return found


def _path(given: Any, flag: str) -> Path:
    if not isinstance(given, str | Path):
        what = f"{given.dtype} of {tuple(given.shape)}" if isinstance(given, np.ndarray) else type(given).__name__
        raise DiscliError(f"{flag}: {what} is no image.", "Give a file, a PIL image, or a uint8 array (H, W, 3).")
    return Path(given)


def _open(given: ImageInput, flag: str) -> _Opened:
    """Raises DiscliError where it cannot be read."""
    if isinstance(given, np.ndarray) and given.dtype in (np.uint8, np.bool_) and given.shape[2:] in ((), (3,)):
        given = Image.fromarray(given * np.uint8(255) if given.dtype == np.bool_ else given)
    path = None if isinstance(given, Image.Image) else _path(given, flag)
    name, data = "the image" if path is None else str(path), b""
    page = "black" if flag == "--mask" else "white"  # where a mask is transparent, nobody has painted it white
    try:
        if isinstance(given, Image.Image):
            image = upright_rgb(given, page)
        else:
            assert path is not None
            data = path.read_bytes()
            image = decode(data, page)
    except OSError as error:
        reason = "no such image" if isinstance(error, FileNotFoundError) else error.strerror
        raise DiscliError(f"{flag} {name}: {reason}.", "Give an image file, such as photo.png.") from None
    except ImageError as error:
        raise DiscliError(f"{flag} {name}: {error}.", "Give an image file, such as photo.png.") from None
    hashed = image.tobytes() if path is None else data
    return _Opened(image, name, GivenImage(name=path and path.name, sha256=hashlib.sha256(hashed).hexdigest()))


def _fit(opened: _Opened, size: Size, contract: DataContract) -> Tensor:
    """(3, H, W) uint8 of that size: as it is, or cropped as the training images were. Raises DiscliError."""
    image = opened.image
    if image.size == (size.width, size.height):
        rows = np.asarray(image)
    else:
        wanted = f"{size.width} x {size.height}"
        try:
            rows = crop(image, size, contract.crop)
        except ImageError as error:
            raise DiscliError(
                f"{opened.name}: {error}.", f"Give one of {wanted} pixels, or such as the model was trained on."
            ) from None
        have = "{} x {}".format(*image.size)
        stderr.print(
            f"{opened.name}: {have} pixels, brought to {wanted} as the training images were ({contract.crop})."
        )
    return torch.from_numpy(rows.copy()).permute(2, 0, 1).contiguous()
