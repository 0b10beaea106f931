"""ADM's centre crop to Pillow's last bit, four times as fast: for those who crop thousands of images.

Pillow resizes 8-bit images along rows, then along columns, with weights of 22 binary places (its
``Resample.c``). Here only what the crop keeps is computed, and both passes run over whole lines,
where vector units do the same sums. Imports no torch, and numba when first asked to work.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from discli.data.images import adm_shapes, crop, reduction
from discli.recipe.size import Size

Filter = Literal["box", "bicubic"]
Window = tuple[int, int]  # [start, end) of a line

_PLACES = 22


class Taps(NamedTuple):
    """Pixel i of a resized line is the sum of ``weights[i, k]`` times pixel ``first[i]`` + k, k < ``counts[i]``."""

    first: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int32]

    def of(self, window: Window) -> "Taps":
        """Those of a part of the resized line."""
        part = slice(*window)
        return Taps(self.first[part], self.counts[part], self.weights[part])

    @property
    def reads(self) -> Window:
        """The pixels that they are sums of."""
        return int(self.first.min()), int((self.first + self.counts).max())


class Step(NamedTuple):
    """One resize of a chain, in the part that the next one needs."""

    across: Taps
    down: Taps


def centre_crop(image: Image.Image, size: Size, full: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(*size, 3): what `discli.data.images.crop` makes of an RGB image with "adm". Only where `works`."""
    if _is_tall(image.size, full, size):
        return crop(image, size, "adm", full)
    ((left, right), (top, bottom)), steps = _centre_steps(image.size, full, size)
    pixels = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32).reshape(image.height, image.width)
    pixels = pixels[top:bottom, left:right]
    for step in steps:
        turned = _resized(np.ascontiguousarray(pixels.T), step.across)
        pixels = _resized(np.ascontiguousarray(turned.T), step.down)
    return pixels.view(np.uint8).reshape(*size, 4)[..., :3]


@cache
def works() -> bool:
    """Whether the compiled loop is here and gives Pillow's bits: tried on a small image. The first time ever, 2 s."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    try:
        sizes = (Size(13, 13), Size(43, 43), Size(16, 43))
        return all(np.array_equal(centre_crop(image, size, image.size), crop(image, size, "adm")) for size in sizes)
    except Exception:  # no place for numba's cache, another numba, another Pillow: Pillow alone then
        return False


def _is_tall(have: tuple[int, int], full: tuple[int, int], size: Size) -> bool:
    """Where some releases of Pillow resize along columns first, which rounds otherwise (its pull request 9549)."""
    sides = [have, *adm_shapes(*full, size)[reduction(have, full) + 1 :]]
    return any(
        before[1] - after[1] > 2 * (before[0] - after[0] - 1)
        for before, after in pairwise(sides)
        if after[1] < before[1]
    )


@lru_cache(maxsize=512)
def _centre_steps(
    have: tuple[int, int], full: tuple[int, int], size: Size
) -> tuple[tuple[Window, ...], tuple[Step, ...]]:
    """Which columns and rows are needed of an image of ``have`` (width, height), ``full`` before decoding reduced it.

    And the resizes of that part.
    """
    shapes, done = adm_shapes(*full, size), reduction(have, full)
    sides = [have, *shapes[done + 1 :]]
    reach = [(full[0] / 2**done, full[1] / 2**done), *sides[1:]]
    steps: list[Step] = []
    wanted = zip(shapes[-1], (size.width, size.height), strict=True)
    kept = tuple(((side - part) // 2, (side - part) // 2 + part) for side, part in wanted)
    for i in reversed(range(len(sides) - 1)):
        how: Filter = "bicubic" if i == len(sides) - 2 else "box"
        across, down = (
            _taps(sides[i][axis], reach[i][axis], sides[i + 1][axis], how).of(kept[axis]) for axis in (0, 1)
        )
        kept = across.reads, down.reads
        steps.append(Step(_from_own_start(across), _from_own_start(down)))
    return kept, tuple(reversed(steps))


@lru_cache(maxsize=512)
def _taps(size: int, reach: float, new_size: int, how: Filter) -> Taps:
    """Of a line of ``size`` pixels whose first ``reach`` become ``new_size``."""
    scale = reach / new_size
    stretch = max(scale, 1.0)
    support = (2.0 if how == "bicubic" else 0.5) * stretch
    centre = (np.arange(new_size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((centre + support + 0.5).astype(np.int64), size) - first
    k = np.arange(counts.max())
    weights = _FILTERS[how]((k + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    weights[k >= counts[:, None]] = 0.0
    total = np.zeros(new_size)
    for column in weights.T:  # in this order, as the last bit depends on it
        total += column
    weights /= np.where(total == 0.0, 1.0, total)[:, None]
    return Taps(first, counts, (weights * (1 << _PLACES) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32))


def _box(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys's kernel with a = -0.5, in the order in which Pillow computes it."""
    x = np.abs(x)
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS: dict[Filter, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "box": _box,
    "bicubic": _bicubic,
}


def _from_own_start(step: Taps) -> Taps:
    """For a line of which only what they read is there."""
    return step._replace(first=step.first - step.first.min())


def _resized(words: npt.NDArray[np.uint32], step: Taps) -> npt.NDArray[np.uint32]:
    """The lines that ``step`` makes of lines (lines, pixels), each pixel one RGBX."""
    resized = np.empty((len(step.first), words.shape[1]), np.uint32)
    _loop()(words.view(np.uint8), *step, resized.view(np.uint8))
    return resized


@cache
def _loop() -> Callable[..., None]:
    from numba import njit

    compiled: Callable[..., None] = njit(nogil=True, cache=True)(_sum_lines)
    return compiled


def _sum_lines(lines: Any, first: Any, counts: Any, weights: Any, out: Any) -> None:
    total = np.empty(out.shape[1], np.int32)
    for y in range(out.shape[0]):
        total[:] = 1 << (_PLACES - 1)
        for k in range(counts[y]):
            weight, line = weights[y, k], lines[first[y] + k]
            for i in range(len(total)):
                total[i] += np.int32(line[i]) * weight
        for i in range(len(total)):
            out[y, i] = min(max(total[i] >> _PLACES, 0), 255)
