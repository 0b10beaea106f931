"""All cores of a CPU: for independent pieces of work, and for large batches through a feature network."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

Piece = TypeVar("Piece")
Found = TypeVar("Found")

_MOST_WORKERS = 16
# Inception on two cores (AMD EPYC with AVX2): 86 ms an image in pieces of 4, one on each core; 96 ms in
# pieces of 16; 111 ms with both cores in the same piece of 16. On one core with AVX-512 and fused
# convolutions: 124 ms in pieces of 4, 115 in 8, 119 in 16.
_PIECE = 8


def on_every_core(
    function: Callable[[Piece], Found], pieces: Iterable[Piece], each: Callable[[], None] = lambda: None
) -> list[Found]:
    """``function`` of every piece, in order, without gradients; it is called from several threads.

    ``each`` is called after every piece, in the caller's thread: it may raise, and then no more are begun.
    A core with a piece of its own never waits for the others at the end of a layer.
    """

    def one(piece: Piece) -> Found:
        with torch.inference_mode():  # a setting of each thread
            return function(piece)

    threads = torch.get_num_threads()
    pool = _workers(threads)
    waiting = [pool.submit(one, piece) for piece in pieces]
    found = []
    try:
        for future in waiting:
            found.append(future.result())
            each()
    finally:
        for future in waiting:
            future.cancel()
        torch.set_num_threads(threads)  # the workers' own number is also what threads yet to come begin with
    return found


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    count = min(threads, _MOST_WORKERS)
    return ThreadPoolExecutor(count, "cores", initializer=_use, initargs=(threads // count,))


def _use(threads: int) -> None:
    torch.get_num_threads()  # a thread's first question sets its number to everyone's, whatever was set before
    torch.set_num_threads(threads)


def in_small_batches(
    features: Callable[[Tensor], Mapping[str, Tensor]], images_BCHW: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """``features`` of the batch: on a CPU a few images at a time on every core; on other devices all at once."""
    with _without_tf32():
        if device.type != "cpu":
            return dict(features(images_BCHW))
        parts = on_every_core(features, images_BCHW.split(_PIECE))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def _without_tf32() -> Iterator[None]:
    """TF32's ten bits of mantissa would make a score depend on the GPU that computed it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
