"""How fast a run is, and how long it will take."""

import time

from discli.console import format_seconds, stderr


class Clock:
    """Speed between log lines, and a first estimate of the whole once the start-up is over."""

    _WARM = 10

    def __init__(self, step: int, total: int) -> None:
        self._first = self._step = step
        self._total = total
        self._start = self._time = time.monotonic()
        self._waited = 0.0

    def estimate(self, step: int) -> None:
        """Once the first steps, which compile and warm up, are over: how long the run will take."""
        done = step - self._first
        if done == 1:
            self._start = time.monotonic()
        elif done == self._WARM and step < self._total:
            per_step = (time.monotonic() - self._start) / (done - 1)
            left = format_seconds(per_step * (self._total - step))
            stderr.print(f"{per_step:.3g} s a step; about {left} to step {self._total:,}")

    def lap(self, step: int, batch_size: int, seconds_waited: float) -> dict[str, float | None]:
        now = time.monotonic()
        seconds = now - self._time
        speed: dict[str, float | None] = {
            "images_per_second": (step - self._step) * batch_size / seconds,
            "data_wait": (seconds_waited - self._waited) / seconds,
        }
        self._step, self._time, self._waited = step, now, seconds_waited
        return speed
