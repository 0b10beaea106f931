"""Decoding and cropping in worker processes; images come back in order, in batches."""

import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import parent_process, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from discli.data import resampling
from discli.data.images import Crop, ImageError, Pixels, TooSmall, crop, decode, decode_reduced, is_too_small
from discli.data.sources import Locator, Reader
from discli.recipe.size import Size, nearest_shape
from discli.runtime.errors import DiscliError

if TYPE_CHECKING:  # workers list nothing, and start sooner without what listing takes
    from discli.data.sources import Source

_AHEAD = 2  # batches waiting per worker
_WORTH_COMPILING = 2000  # images a worker; compiled loops cost it 0.8 s, once 2 s, and save 0.5 to 1.4 ms each


@dataclass(frozen=True)
class ImageTransform:
    """From an image file to pixels."""

    sizes: tuple[Size, ...]  # each image goes to the one of nearest shape
    crop: Crop = "adm"
    too_small: TooSmall = "upscale"
    fast: bool = False  # JPEGs are decoded smaller where the crop would halve them: other pixels, see images.py
    compiled: bool = False  # the same pixels, for many images in less time


@dataclass
class Decoded:
    """The source's images [start, end): ``images`` uint8 of those that could be used, (k, 3, H, W).

    Of several sizes they are (k, length), flat and padded, and ``shapes`` (k,) uint8 says which each has.
    """

    start: int
    end: int
    images: Pixels
    shapes: Pixels | None = None
    skipped: list[tuple[int, str]] = field(default_factory=list)  # (position, why)
    upscaled: int = 0


class _Process(SpawnProcess):
    """Starts without the program that called, of which decoding needs nothing.

    A script that calls `encode` in its last line would else run again in every worker, and end there with an error.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # whose file and name a new process is told
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = program


class _Context(SpawnContext):
    Process = _Process


class Workers:
    """Decoding processes, started at once, so that they are ready by the time the source is listed.

    A context manager; with a count of 0 there are none, and this process decodes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count:
            # Spawned, not forked: this process may hold threads and a CUDA context.
            self.pool = ProcessPoolExecutor(self.count, _Context(), initializer=_start_worker)
            with _ctrl_c_held():
                for _ in range(self.count):
                    self.pool.submit(int)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def decode_batches(
    source: "Source", positions: range, batch_size: int, transform: ImageTransform, workers: Workers
) -> Iterator[Decoded]:
    """Batches of ``batch_size`` positions (the last one fewer), in order. Raises DiscliError if a worker dies."""
    many = len(positions) >= _WORTH_COMPILING * max(1, workers.count)
    transform = replace(transform, compiled=transform.compiled or many)
    starts = range(positions.start, positions.stop, batch_size)
    spans = [(start, min(start + batch_size, positions.stop)) for start in starts]
    if workers.pool is None:
        _quiet_pillow()
        for start, end in spans:
            yield _decode(source.reader, transform, source.locators[start:end], start)
        return
    waiting: deque[Future[Decoded]] = deque()
    remaining = iter(spans)
    try:
        while True:
            while len(waiting) < _AHEAD * workers.count and (span := next(remaining, None)) is not None:
                work = (source.reader, transform, source.locators[slice(*span)], span[0])
                waiting.append(workers.pool.submit(_decode, *work))
            if not waiting:
                return
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DiscliError(
            "A decoding process died, most likely for lack of memory.",
            "Run the same command again with fewer --workers: it resumes.",
        ) from None


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def transform_image(data: bytes, transform: ImageTransform) -> tuple[Pixels, int, bool]:
    """(H, W, 3) uint8, the number of their size, and whether it had to be enlarged. Raises ImageError."""
    if transform.fast:
        image, full = decode_reduced(data, transform.sizes)
    else:
        image = decode(data)
        full = image.size
    number = nearest_shape(transform.sizes, *full)
    size = transform.sizes[number]
    small = is_too_small(full, size, transform.crop)
    if small and transform.too_small == "skip":
        raise ImageError(f"{full[0]} x {full[1]} pixels: smaller than the crop (--too-small skip)")
    if transform.compiled and transform.crop == "adm" and resampling.works():
        return resampling.centre_crop(image, size, full), number, small
    return crop(image, size, transform.crop, full), number, small


def _decode(reader: Reader, transform: ImageTransform, locators: list[Locator], start: int) -> Decoded:
    sizes, count = transform.sizes, len(locators)
    shape = (3, *sizes[0]) if len(sizes) == 1 else (3 * max(size.area for size in sizes),)
    shapes = None if len(sizes) == 1 else np.zeros(count, np.uint8)
    batch = Decoded(start, start + count, np.zeros((count, *shape), np.uint8), shapes)
    used = 0
    for position, locator in enumerate(locators, start):
        try:
            pixels, number, small = transform_image(reader.read(locator), transform)
        except ImageError as reason:
            batch.skipped.append((position, str(reason)))
            continue
        planes = pixels.transpose(2, 0, 1)
        if shapes is None:
            batch.images[used] = planes
        else:
            batch.images[used, : planes.size], shapes[used] = planes.reshape(-1), number
        used += 1
        batch.upscaled += small
    batch.images, batch.shapes = batch.images[:used], None if shapes is None else shapes[:used]
    return batch


def _quiet_pillow() -> None:
    """Its warnings of odd EXIF data or large images name no file, and ImageNet has many."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, not even while they start: the parent, a moment later, answers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    _quiet_pillow()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be held
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A parent killed with SIGKILL can tell nobody; its workers would wait for work forever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
