"""Many small images on one page."""

import io
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from discli.runtime.files import write_beside

_GAP = 2
_ROWS = _COLUMNS = 10
_SMALLEST_CELL = 64
_SMOOTH_FROM = 5  # times enlarged: of larger pixels the eye sees the squares, not the image
_FONT_SIZE = 16
_LINE_HEIGHT = 19
_SMALL_FONT_SIZE, _SMALL_LINE_HEIGHT = 11, 15
_LONGEST_LINE = 24  # letters


def contact_sheet(images: Tensor, columns: int | None = None) -> Image.Image:
    """(N, 3, H, W) uint8 to one RGB image, row by row, on white; square unless ``columns`` is given.

    Images under 64 px are enlarged by a whole factor: those of 13 px and more with every pixel as a square, smaller
    ones smoothly (Lanczos), because their squares would be larger than what they show.
    """
    count, _, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    factor = max(1, _SMALLEST_CELL // max(height, width))
    smooth = factor >= _SMOOTH_FROM
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    cell_w, cell_h = factor * width, factor * height
    sheet = Image.new("RGB", (columns * (cell_w + _GAP) + _GAP, rows * (cell_h + _GAP) + _GAP), "white")
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        tile = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
        if factor > 1:
            tile = tile.resize((cell_w, cell_h), resampling)
        sheet.paste(tile, (_GAP + column * (cell_w + _GAP), _GAP + row * (cell_h + _GAP)))
    return sheet


def on_pages(images: Sequence[Tensor]) -> Tensor:
    """(k, 3, H, W) uint8 each, of sizes that may differ, as (N, 3, H, W): in the middle of white where it is larger."""
    tall, wide = (max(some.shape[axis] for some in images) for axis in (2, 3))
    pages = []
    for some in images:
        (height, width), page = some.shape[2:], some.new_full((len(some), 3, tall, wide), 255)
        top, left = (tall - height) // 2, (wide - width) // 2
        page[:, :, top : top + height, left : left + width] = some
        pages.append(page)
    return torch.cat(pages)


@dataclass(frozen=True)
class Images:
    """Images at hand; a notebook that ends with one shows its sheet."""

    pixels: Tensor  # (n, 3, H, W) uint8
    classes: list[int] | None
    sheet: Image.Image

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index].permute(1, 2, 0).contiguous().numpy())

    def __repr__(self) -> str:
        height, width = self.pixels.shape[2:]
        return f"<{len(self)} images of {height} x {width} px>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.sheet.save(buffer, format="PNG")
        return buffer.getvalue()


def by_class(
    members: Sequence[int], labels: Sequence[int] | None, names: Sequence[str], grid: tuple[int, int] | None
) -> list[tuple[str, list[int]]]:
    """Which images a sheet of ``grid`` (rows, columns) shows: rows of one class each, with its name.

    One row without a name where there are no classes, or only one: `draw_sheet` breaks it. Without a ``grid``
    as many images as it has room for are all shown, in longer rows, or without names where classes are many.
    """
    rows, columns = grid or (_ROWS, _COLUMNS)
    present = sorted(set(labels)) if labels is not None else []
    crowded = False
    if grid is None and labels is not None and present and len(members) <= _ROWS * _COLUMNS:
        columns = max(Counter(labels).values())
        crowded = len(present) > _ROWS or columns > 2 * _COLUMNS
    if labels is None or len(present) < 2 or crowded:
        rows, columns = grid or (_ROWS, _COLUMNS)
        return [("", list(members[: rows * columns]))]
    found: dict[int, list[int]] = {label: [] for label in present[:rows]}
    for member, label in zip(members, labels, strict=True):
        if label in found and len(found[label]) < columns:
            found[label].append(member)
    return [(names[label] if label < len(names) else str(label), some) for label, some in found.items()]


def draw_sheet(
    rows: Sequence[tuple[str, list[int]]], read: Callable[[list[int]], Tensor], grid: tuple[int, int] | None = None
) -> Image.Image:
    """The sheet that `by_class` laid out; ``read`` gives images by their numbers."""
    if len(rows) == 1:
        return contact_sheet(read(rows[0][1]), grid[1] if grid else None)
    return rows_sheet([(name, read(members)) for name, members in rows])


def strip(moments: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """From left to right: moments of the same images, (N, 3, H, W) uint8 each, a row an image, a name above each."""
    sheet = contact_sheet(torch.stack([images for _, images in moments], dim=1).flatten(0, 1), columns=len(moments))
    font = ImageFont.load_default(_SMALL_FONT_SIZE)
    height = _SMALL_LINE_HEIGHT * max(name.count("\n") + 1 for name, _ in moments) + _GAP
    page = Image.new("RGB", (sheet.width, height + sheet.height), "white")
    page.paste(sheet, (0, height))
    draw = ImageDraw.Draw(page)
    width = (sheet.width - _GAP) / len(moments)
    for column, (name, _) in enumerate(moments):
        place = (_GAP / 2 + (column + 0.5) * width, height / 2)
        draw.multiline_text(place, name, fill="black", font=font, anchor="mm", align="center", spacing=2)
    return page


def rows_sheet(rows: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """One row a name: the name, on as many lines as fit, then its images, (k, 3, H, W) uint8 each; k may differ."""
    columns = max(len(images) for _, images in rows)
    blank = torch.full_like(rows[0][1][:1], 255)
    padded = [torch.cat([images, blank.repeat(columns - len(images), 1, 1, 1)]) for _, images in rows]
    sheet = contact_sheet(torch.cat(padded), columns)

    font = ImageFont.load_default(_FONT_SIZE)
    height = (sheet.height - _GAP) / len(rows)
    lines = max(1, int(height / _LINE_HEIGHT))
    folded = [textwrap.wrap(name, _LONGEST_LINE, max_lines=lines, placeholder="\u2026") for name, _ in rows]
    names = ["\n".join(parts) for parts in folded]
    margin = math.ceil(max(font.getlength(line) for name in names for line in name.split("\n"))) + 12
    page = Image.new("RGB", (margin + sheet.width, sheet.height), "white")
    page.paste(sheet, (margin, 0))
    draw = ImageDraw.Draw(page)
    for row, name in enumerate(names):
        draw.text((margin - 6, _GAP + (row + 0.5) * height), name, fill="black", font=font, anchor="rm", align="right")
    return page


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG that is whole or not there."""
    write_beside(path, lambda temporary: image.save(temporary, format="PNG"))


def save_animation(images: Tensor, path: Path) -> None:
    """Write a GIF, whole or not there: (N, 3, H, W) uint8 in turn and back, for ever; small ones enlarged.

    A second and a half from end to end, whatever N.
    """
    framed = [contact_sheet(image[None]) for image in images]
    frames = [page.crop((_GAP, _GAP, page.width - _GAP, page.height - _GAP)) for page in framed]
    frames = [*frames, *frames[-2:0:-1]]
    each = max(20, 1500 // len(images))  # ms; viewers slow down what is quicker

    def write(temporary: Path) -> None:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=each, loop=0)

    write_beside(path, write)
