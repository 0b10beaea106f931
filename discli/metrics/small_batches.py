"""Running a feature network: large batches in pieces that stay in the processor's cache, all in float32."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

# Inception on two cores (AMD EPYC with AVX2): 86 ms a picture in pieces of 4, one on each core; 96 ms in
# pieces of 16; 111 ms with both cores in the same piece of 16.
_PIECE = 4
_MOST_WORKERS = 16


def in_small_batches(
    features: Callable[[Tensor], Mapping[str, Tensor]], pictures_BCHW: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """``features`` of the batch: on a CPU a few pictures at a time, each piece on its own core; elsewhere at once.

    A core with a piece of its own never waits for the others at the end of a layer. ``features`` must
    bear to be called from several threads.
    """

    def piece(pictures: Tensor) -> Mapping[str, Tensor]:
        with torch.inference_mode():  # a setting of each thread
            return features(pictures)

    with _without_tf32():
        if device.type != "cpu":
            return dict(piece(pictures_BCHW))
        threads = torch.get_num_threads()
        parts = list(_workers(threads).map(piece, pictures_BCHW.split(_PIECE)))
        torch.set_num_threads(threads)  # the workers' own number is also what threads yet to come begin with
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    count = min(threads, _MOST_WORKERS)
    return ThreadPoolExecutor(count, "features", initializer=torch.set_num_threads, initargs=(threads // count,))


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
