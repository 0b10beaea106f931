"""Bytes of an image file -> uint8 RGB (H, W, 3), upright and cropped. Imports no torch.

Every kind of image ends as 8-bit RGB in one documented way:

- grayscale is repeated over the channels; palettes are looked up; CMYK, YCbCr, LAB and HSV are converted;
- transparency is laid over white, the page most such images were drawn for;
- 16-bit grayscale is scaled from 0..65535 to 0..255; floating point images are refused, having no known range;
- the EXIF orientation is applied; of an animation the first frame counts; colour profiles are ignored.

A file that is empty, truncated, no image at all, or larger than MAX_PIXELS raises ImageError.
"""

import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from discli.recipe.size import Size, nearest_shape

Crop = Literal["adm", "resize", "celeba"]
TooSmall = Literal["upscale", "skip"]
Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 178_956_970  # where Pillow, too, speaks of a decompression bomb

_EXIF_ORIENTATION = 0x0112
_JPEG_HALVINGS = 3  # libjpeg decodes at 1/2, 1/4 and 1/8
_CELEBA_SIZE = (178, 218)
_CELEBA_BOX = (25, 57, 153, 185)  # 128 x 128 around (89, 121), as DDIM, score-SDE and U-ViT cut it


class ImageError(Exception):
    """An image that cannot be used; the text is one line that says why."""


def decode(data: bytes, page: str = "white") -> Image.Image:
    """An image file's first frame as an upright 8-bit RGB image, transparency over ``page``. Raises ImageError."""
    if not data:
        raise ImageError("empty file (0 bytes)")
    image = _plain_jpeg(data)
    return image if image is not None else _any_image(data, page=page)[0]


def upright_rgb(image: Image.Image, page: str = "white") -> Image.Image:
    """What ``decode`` makes of the file, of an image that is in memory. Raises ImageError."""
    if not (image.width and image.height):
        raise ImageError("no pixels")
    try:
        return _rgb(ImageOps.exif_transpose(image), page)
    except ImageError:
        raise
    except Exception as error:  # it may be read from its file only now
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from None


def decode_reduced(data: bytes, sizes: Sequence[Size]) -> tuple[Image.Image, tuple[int, int]]:
    """For ADM's crop to one of ``sizes``: the image, and the (width, height) that ``decode`` would give it.

    Where that crop halves a JPEG, libjpeg decodes it at a half, a quarter or an eighth: less work, and
    a sharper filter than the mean of neighbours, so that pixels differ. Raises ImageError.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _any_image(data, reduce_to=sizes)
    image = decode(data)
    return image, image.size


def crop(image: Image.Image, size: Size, how: Crop, full: tuple[int, int] | None = None) -> Pixels:
    """(*size, 3) uint8. Images smaller than the crop are enlarged; see ``is_too_small``.

    ``adm``: the centre crop of ADM (Dhariwal and Nichol, arXiv:2105.05233): halve with a box filter
    while both sides are at least twice those of ``size``, resize (bicubic) so that one is ``size``'s and the other
    no less, cut the middle. ``resize``: the whole image, squeezed to ``size`` (bicubic). ``celeba``: the aligned
    178 x 218 faces as U-ViT (arXiv:2209.12152) prepares them: 128 x 128 around (89, 121), then bilinear.
    ``full``: for "adm", the (width, height) of an image that `decode_reduced` gave.
    """
    if how == "celeba":
        if image.size != _CELEBA_SIZE:
            found = "{} x {}".format(*image.size)
            raise ImageError(f"{found} pixels; the celeba crop wants the aligned faces of 178 x 218")
        return _pixels(image.crop(_CELEBA_BOX).resize((size.width, size.height), Image.Resampling.BILINEAR))
    if how == "resize":
        return _pixels(image.resize((size.width, size.height), Image.Resampling.BICUBIC))
    shapes, done = adm_shapes(*(full or image.size), size), 0 if full is None else reduction(image.size, full)
    # A side of an odd number of pixels, halved by libjpeg, ends in half a pixel of nothing.
    width, height = (side / 2**done for side in full or image.size)
    for shape in shapes[done + 1 : -1]:
        image = image.resize(shape, Image.Resampling.BOX, (0, 0, width, height))
        width, height = shape
    if image.size != shapes[-1]:
        image = image.resize(shapes[-1], Image.Resampling.BICUBIC, (0, 0, width, height))
    pixels = _pixels(image)
    top, left = (pixels.shape[0] - size.height) // 2, (pixels.shape[1] - size.width) // 2
    return pixels[top : top + size.height, left : left + size.width]


def adm_shapes(width: int, height: int, size: Size) -> list[tuple[int, int]]:
    """(width, height) before, between and after the resizes of ADM's crop: halvings, and one to ``size``."""
    shapes = [(width, height)]
    while shapes[-1][0] >= 2 * size.width and shapes[-1][1] >= 2 * size.height:
        shapes.append((shapes[-1][0] // 2, shapes[-1][1] // 2))
    scale = max(size.width / shapes[-1][0], size.height / shapes[-1][1])
    return [*shapes, (round(shapes[-1][0] * scale), round(shapes[-1][1] * scale))]


def reduction(have: tuple[int, int], full: tuple[int, int]) -> int:
    """How often an image of the (width, height) ``full`` was halved while it was decoded."""
    return round(math.log2(max(full) / max(have)))


def is_too_small(width_and_height: tuple[int, int], size: Size, how: Crop) -> bool:
    """Whether cropping to ``size`` has to invent pixels."""
    width, height = width_and_height
    if how == "celeba":
        width = height = _CELEBA_BOX[2] - _CELEBA_BOX[0]
    return width < size.width or height < size.height


def _pixels(image: Image.Image) -> Pixels:
    """np.asarray, which takes twice as long for small images."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def _any_image(data: bytes, reduce_to: Sequence[Size] = (), page: str = "white") -> tuple[Image.Image, tuple[int, int]]:
    """The upright image, reduced if that is asked and can be, and its (width, height) if it were not reduced."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width} x {height} pixels: refused as a decompression bomb")
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
            if reduce_to and not turned:  # turned, an odd side's half pixel would lie at the other end
                size = reduce_to[nearest_shape(reduce_to, width, height)]
                by = 2 ** min(len(adm_shapes(width, height, size)) - 2, _JPEG_HALVINGS)
                image.draft("RGB", (width // by, height // by))
            image.load()
            if turned:
                upright = ImageOps.exif_transpose(image)
                return _rgb(upright, page), upright.size
            return _rgb(image, page), (width, height)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels: refused as a decompression bomb") from None
    except UnidentifiedImageError:
        raise ImageError("not an image in any known format") from None
    except Exception as error:  # Pillow's plugins raise what their parsers stumble over: struct.error, KeyError, ...
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from None


def _rgb(image: Image.Image, page: str) -> Image.Image:
    if image.mode.startswith("I"):
        high = np.asarray(image).astype(np.int64)
        if high.size and (high.min() < 0 or high.max() > 65535):
            raise ImageError("32-bit integer image: values beyond 16 bits have no known range")
        return Image.fromarray(np.round(high / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating point image: its values have no known range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, page), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _plain_jpeg(data: bytes) -> Image.Image | None:
    """The same pixels as ``_any_image`` at half the cost for small files; None where it does not apply.

    Opening a CIFAR-sized JPEG takes Pillow longer than decoding it. A file with three components, no
    Adobe marker and no EXIF has nothing to interpret, so its size is all that the decoder must be told.
    """
    size = _plain_jpeg_size(data)
    if size is None or size[0] * size[1] > MAX_PIXELS:
        return None
    try:
        return Image.frombytes("RGB", size, data, "jpeg", "RGB", "")
    except (ValueError, OSError):
        return None


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from the frame header, walking the markers before it (ITU T.81, annex B)."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    at, end = 2, len(data) - 10
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            width, height = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            return (width, height) if data[at + 4] == 8 and data[at + 9] == 3 and width and height else None
        if marker not in (0xE0, 0xDB, 0xC4, 0xDD, 0xFE):  # JFIF, tables, restart interval, comment
            return None
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None
