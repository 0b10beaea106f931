"""How fast a run is, how much of its devices it uses, and how long it will take."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from discli.runtime.console import format_bytes, format_seconds, stderr


class Clock:
    """Speed between log lines, and a first estimate of the whole once the start-up is over.

    ``flops`` are those of training on one image, ``peak`` those a second of all devices together.
    """

    _WARM = 10

    def __init__(self, step: int, total: int, flops: float, peak: float | None) -> None:
        self._total, self._flops, self._peak = total, flops, peak
        self.restart(step)

    def restart(self, step: int, seconds_waited: float = 0.0) -> None:
        """From ``step`` on, with a feed that was waited for so long already: not at all by default, a new one."""
        self._first = self._step = step
        self._start = self._time = time.monotonic()
        self._waited = seconds_waited

    def estimate(self, step: int, device: torch.device) -> None:
        """Once the first steps, which compile and warm up, are over: how long the run will take."""
        done = step - self._first
        if done == 1:
            self._start = time.monotonic()
        elif done == self._WARM and step < self._total:
            per_step = (time.monotonic() - self._start) / (done - 1)
            left = format_seconds(per_step * (self._total - step))
            memory = format_bytes(_memory(device))
            stderr.print(f"{per_step:.3g} s a step; about {left} to step {self._total:,}; memory so far: {memory}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here is not training: previews and scores."""
        started = time.monotonic()
        yield
        elapsed = time.monotonic() - started
        self._time += elapsed
        self._start += elapsed

    def lap(self, step: int, batch_size: int, seconds_waited: float, device: torch.device) -> dict[str, float | None]:
        """``mfu``: model FLOP utilisation, without what activation checkpointing computes again.

        ``peak_memory``: bytes, of this process and session, previews and scores included.
        """
        now = time.monotonic()
        seconds = now - self._time
        images_per_second = (step - self._step) * batch_size / seconds
        flops = self._flops * images_per_second
        speed: dict[str, float | None] = {
            "images_per_second": images_per_second,
            "data_wait": (seconds_waited - self._waited) / seconds,
            "tflops": flops / 1e12,
            "mfu": flops / self._peak if self._peak else None,
            "peak_memory": _memory(device),
        }
        self._step, self._time, self._waited = step, now, seconds_waited
        return speed


def _memory(device: torch.device) -> int:
    """The most that was in use so far: of the GPU's memory, or of the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
