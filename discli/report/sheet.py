"""Many small pictures on one page."""

import math
from pathlib import Path

from PIL import Image
from torch import Tensor

from discli.files import write_beside

_GAP = 2
_SMALLEST_CELL = 64


def contact_sheet(pictures: Tensor, columns: int | None = None) -> Image.Image:
    """(N, 3, H, W) uint8 to one RGB picture, row by row, on white; square unless ``columns`` is given.

    Pictures under 64 px are enlarged by a whole factor without smoothing, so that every pixel shows.
    """
    count, _, height, width = pictures.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    factor = max(1, _SMALLEST_CELL // max(height, width))
    cell_w, cell_h = factor * width, factor * height
    sheet = Image.new("RGB", (columns * (cell_w + _GAP) + _GAP, rows * (cell_h + _GAP) + _GAP), "white")
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        tile = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
        if factor > 1:
            tile = tile.resize((cell_w, cell_h), Image.Resampling.NEAREST)
        sheet.paste(tile, (_GAP + column * (cell_w + _GAP), _GAP + row * (cell_h + _GAP)))
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG that is whole or not there."""
    write_beside(path, lambda temporary: picture.save(temporary, format="PNG"))
