"""Bytes of a picture file -> uint8 RGB (H, W, 3), upright and cropped. Imports no torch.

Every kind of picture ends as 8-bit RGB in one documented way:

- grayscale is repeated over the channels; palettes are looked up; CMYK, YCbCr, LAB and HSV are converted;
- transparency is laid over white, the page most such pictures were drawn for;
- 16-bit grayscale is scaled from 0..65535 to 0..255; floating point pictures are refused, having no known range;
- the EXIF orientation is applied; of an animation the first frame counts; colour profiles are ignored.

A file that is empty, truncated, no picture at all, or larger than MAX_PIXELS raises PictureError.
"""

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Crop = Literal["adm", "resize", "celeba"]
Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 178_956_970  # where Pillow, too, speaks of a decompression bomb

_EXIF_ORIENTATION = 0x0112
_CELEBA_SIZE = (178, 218)
_CELEBA_BOX = (25, 57, 153, 185)  # 128 x 128 around (89, 121), as DDIM, score-SDE and U-ViT cut it


class PictureError(Exception):
    """A picture that cannot be used; the text is one line that says why."""


def decode(data: bytes) -> Image.Image:
    """A picture file's first frame as an upright 8-bit RGB picture. Raises PictureError."""
    if not data:
        raise PictureError("empty file (0 bytes)")
    picture = _plain_jpeg(data)
    return picture if picture is not None else _any_picture(data)


def crop(picture: Image.Image, size: int, how: Crop) -> Pixels:
    """(size, size, 3) uint8. Pictures smaller than the crop are enlarged; see ``too_small``.

    ``adm``: the centre crop of ADM (Dhariwal and Nichol, arXiv:2105.05233): halve with a box filter
    while the short side is at least twice ``size``, resize the short side to ``size`` (bicubic), cut the
    middle. ``resize``: the whole picture, squeezed to a square (bicubic). ``celeba``: the aligned
    178 x 218 faces as U-ViT (arXiv:2209.12152) prepares them: 128 x 128 around (89, 121), then bilinear.
    """
    if how == "celeba":
        if picture.size != _CELEBA_SIZE:
            found = "{} x {}".format(*picture.size)
            raise PictureError(f"{found} pixels; the celeba crop wants the aligned faces of 178 x 218")
        return _pixels(picture.crop(_CELEBA_BOX).resize((size, size), Image.Resampling.BILINEAR))
    if how == "resize":
        return _pixels(picture.resize((size, size), Image.Resampling.BICUBIC))
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    if min(picture.size) != size:
        scale = size / min(picture.size)
        shape = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
    pixels = _pixels(picture)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def too_small(picture: Image.Image, size: int, how: Crop) -> bool:
    """Whether cropping to ``size`` has to invent pixels."""
    return min(picture.size) < size if how != "celeba" else size > _CELEBA_BOX[2] - _CELEBA_BOX[0]


def _pixels(picture: Image.Image) -> Pixels:
    """np.asarray, which takes twice as long for small pictures."""
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.height, picture.width, 3)


def _any_picture(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise PictureError(f"{picture.width} x {picture.height} pixels: refused as a decompression bomb")
            picture.load()
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) != 1
            return _rgb(ImageOps.exif_transpose(picture) if turned else picture)
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels: refused as a decompression bomb") from None
    except UnidentifiedImageError:
        raise PictureError("not a picture in any known format") from None
    except Exception as error:  # Pillow's plugins raise what their parsers stumble over: struct.error, KeyError, ...
        raise PictureError(" ".join(str(error).split()) or type(error).__name__) from None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        high = np.asarray(picture).astype(np.int64)
        if high.size and (high.min() < 0 or high.max() > 65535):
            raise PictureError("32-bit integer picture: values beyond 16 bits have no known range")
        return Image.fromarray(np.round(high / 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise PictureError("floating point picture: its values have no known range")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _plain_jpeg(data: bytes) -> Image.Image | None:
    """The same pixels as ``_any_picture`` at half the cost for small files; None where it does not apply.

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
