"""The HTML pages' templates, and images inside a page."""

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

_LOSSLESS_UP_TO = 64  # px a side; a sheet of larger images would make a page of many megabytes

_TEMPLATES = Environment(
    loader=PackageLoader("discli.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """The HTML of ``templates/<template>``. Text in ``values`` is escaped; a name that is missing raises."""
    return _TEMPLATES.get_template(template).render(values)


def image_uri(image: Image.Image, side: int, quality: int = 90) -> str:
    """A ``data:`` URI: PNG if ``side``, the px of one image of a sheet, is at most 64; else JPEG of ``quality``."""
    buffer = io.BytesIO()
    kind = "png" if side <= _LOSSLESS_UP_TO else "jpeg"
    image.save(buffer, format=kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def tensor_uri(pixels: Tensor) -> str:
    """A ``data:`` URI of one image, (3, H, W) uint8."""
    return image_uri(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), pixels.shape[-1])
