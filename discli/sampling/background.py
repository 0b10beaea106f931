"""Decoding and writing of one batch while the next is being sampled."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import torch
from torch import Tensor

_BATCHES_WAITING = 2


class Background:
    """``put`` a batch and carry on; errors of an earlier one are raised by a later ``put`` or at the end.

    On CUDA the decoding runs on a stream of its own (not tried on a GPU yet). On a CPU it stays in
    the caller's thread, because sampling keeps all cores busy anyway; the writing does not.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int], Tensor], Tensor],
        write: Callable[[Sequence[int], Tensor], None],
        device: torch.device,
    ) -> None:
        self._decode, self._write, self._device = decode, write, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def put(self, indices: Sequence[int], x0: Tensor) -> None:
        """``x0`` (B, C, h, w) in model space, the images of ``indices``."""
        while len(self._waiting) >= _BATCHES_WAITING:
            self._waiting.popleft().result()
        if self._stream is None:
            images = self._decode(indices, x0).cpu()
            self._waiting.append(self._thread.submit(self._write, indices, images))
        else:
            sampled = torch.cuda.Event()
            sampled.record(torch.cuda.current_stream(self._device))
            self._waiting.append(self._thread.submit(self._decode_and_write, indices, x0, sampled))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while self._waiting:
                waiting = self._waiting.popleft()
                if kind is None:
                    waiting.result()
        finally:
            self._thread.shutdown(cancel_futures=kind is not None)

    def _decode_and_write(self, indices: Sequence[int], x0: Tensor, sampled: torch.cuda.Event) -> None:
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(sampled)
            x0.record_stream(self._stream)
            images = self._decode(indices, x0).cpu()
        self._write(indices, images)
