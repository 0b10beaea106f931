"""Independent pieces of work on a CPU: a core each."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Found = TypeVar("Found")

_MOST_WORKERS = 16


def on_every_core(function: Callable[[Piece], Found], pieces: Iterable[Piece]) -> list[Found]:
    """``function`` of every piece, in order, without gradients; it is called from several threads.

    A core with a piece of its own never waits for the others at the end of a layer.
    """

    def one(piece: Piece) -> Found:
        with torch.inference_mode():  # a setting of each thread
            return function(piece)

    threads = torch.get_num_threads()
    found = list(_workers(threads).map(one, pieces))
    torch.set_num_threads(threads)  # the workers' own number is also what threads yet to come begin with
    return found


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    count = min(threads, _MOST_WORKERS)
    return ThreadPoolExecutor(count, "cores", initializer=torch.set_num_threads, initargs=(threads // count,))
