"""Independent pieces of work on a CPU: a core each."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Found = TypeVar("Found")

_MOST_WORKERS = 16


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
