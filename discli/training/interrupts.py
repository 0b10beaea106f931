"""Being asked to stop: preemption by a scheduler, or Ctrl-C."""

import signal
from types import FrameType, TracebackType
from typing import Self

from discli.runtime.signals import acknowledge

# EX_TEMPFAIL of sysexits.h: "try again later". A requeue script can test for it.
EXIT_INTERRUPTED = 75

_ASKED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupts:
    """While open, SIGTERM, SIGUSR1 and the first Ctrl-C only raise a flag for the loop to see."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _ASKED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        again = " Ctrl-C again stops at once, without." if number == signal.SIGINT else ""
        acknowledge(f"{self.received.name}: stopping after this step, with a checkpoint.{again}")
