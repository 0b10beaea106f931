"""What a plan's images look like on one page, what they began from included."""

import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from discli.data.contact_sheet import draw_sheet, rows_sheet
from discli.diffusion.edit import steps_taken
from discli.diffusion.samplers import build_sampler
from discli.diffusion.schedule import build_schedule
from discli.runtime.console import stderr
from discli.sampling.plan import SamplingPlan

_TO_DRAW = (64, 128, 255)  # blue, which few images have much of
_COLUMNS = 10
_LONGEST_STRIP = 16  # frames in a row

Read = Callable[[list[int]], Tensor]


def sheet_grid(plan: SamplingPlan, n: int, grid: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns: those asked for, or of what lies between two ends a strip; None leaves it to the sheet."""
    if grid is not None or plan.between is None:
        return grid
    return -(-n // _LONGEST_STRIP), min(n, _LONGEST_STRIP)


def sheet_of(
    plan: SamplingPlan, rows: Sequence[tuple[str, list[int]]], read: Read, grid: tuple[int, int] | None
) -> Image.Image:
    """What `by_class` laid out, below the images that it began from; with what a mask left to be drawn in blue.

    ``read`` gives (B, 3, H, W) uint8 of the numbers of images.
    """
    given, columns = plan.given, grid[1] if grid else _COLUMNS
    if given is None:
        return draw_sheet(rows, read, grid)

    def above(pixels: Tensor) -> list[tuple[str, Tensor]]:
        if given.drawn is None:
            return [("given", pixels)]
        blue = torch.tensor(_TO_DRAW, dtype=torch.uint8)[:, None, None]
        return [("given", pixels), ("to be drawn", torch.where(given.drawn, blue, pixels))]

    if len(given.pixels) == 1:
        together = ("given", torch.cat([pixels for _, pixels in above(given.pixels)]))
        if len(rows) > 1:
            return rows_sheet([together, *((name, read(members)) for name, members in rows)])
        members = rows[0][1]
        parts = [members[start : start + columns] for start in range(0, len(members), columns)]
        return rows_sheet([together, *(("" if k else "drawn", read(part)) for k, part in enumerate(parts))])
    members = sorted(member for _, some in rows for member in some)
    page = []
    for start in range(0, len(members), columns):
        some = members[start : start + columns]
        page += [*above(given.pixels[some]), ("drawn", read(some))]
    return rows_sheet(page)


def describe_edit(plan: SamplingPlan) -> str:
    """Where the given images are begun from, in a line."""
    assert plan.given is not None
    record, diffusion = plan.given.record, plan.model.recipe.diffusion
    times = build_sampler(diffusion, plan.settings).times
    steps = len(times) - 1
    taken = steps_taken(steps, record.strength)
    a, s = build_schedule(diffusion).at(times[steps - taken])
    names = [one.name or "an image" for one in record.init]
    start = f"from {names[0]}" if len(names) == 1 else f"from {len(names):,} images"
    where = "noise alone" if taken == steps else f"noise level {s / a:.2f}"
    how = "its inversion up to " if record.invert and len(names) == 1 else "inversions up to " if record.invert else ""
    told = f"{taken} of {steps} steps {start}, beginning with {how}{where}"
    if plan.given.drawn is not None:
        share = float(plan.given.drawn.float().mean())
        told += f"; {share:.0%} of the pixels are drawn, each stretch of steps {record.resamplings} times"
    return told + "."


def error_of(plan: SamplingPlan, numbers: Sequence[int], read: Read) -> float | None:
    """Of an inversion: root mean square difference, of 255, of images to those they were inverted from. Says so.

    Of ``numbers`` those count that were drawn as the class they were inverted as; None where none was.
    """
    given = plan.given
    if given is None or not given.record.invert:
        return None
    classes = plan.classes_of(max(numbers) + 1)
    numbers = [i for i in sorted(numbers) if classes is None or classes[i] == given.shown]
    if not numbers:
        return None
    of = torch.tensor(numbers) % len(given.pixels)

    def rms(found: Tensor) -> float:
        return math.sqrt(float((found.cpu().double() - given.pixels[of].double()).square().mean()))

    error, alone = rms(read(numbers)), ""
    if not plan.model.contract.codec.is_pixels:
        alone = f"; the autoencoder alone: {rms(plan.decode(numbers, given.x0[of])):.2f}"
    stderr.print(f"Inverted and drawn again: an error of {error:.2f} of 255 (root mean square{alone}).")
    return error
