"""Being asked to stop: preemption by a scheduler, or Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.launch import all_threads
from discli.runtime.signals import EXIT_INTERRUPTED, acknowledge

_ASKED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class TrainingStoppedError(DiscliError):
    """Training was asked to stop and has written a checkpoint of ``step``; every process raises it. Status 75."""

    def __init__(self, signal_name: str, step: int) -> None:
        done = f"checkpoint of step {step:,} written" if step else "no step was done yet"
        super().__init__(f"{signal_name}: {done}.", "Run the same command to resume.", status=EXIT_INTERRUPTED)
        self.step = step


class _GivenUp(BaseException):
    """Not an error that anyone on the way should explain."""


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

    @contextmanager
    def give_up_when_asked(self, what: str) -> Iterator[None]:
        """Networks that run in here are left once the run is asked to stop; what comes after the block is done.

        Only the main process does such things, while the others wait: it has the threads of all.

        Looked at before every module's call. Raised by the signal itself it could strike where it does harm:
        see `discli.runtime.signals`.
        """
        from torch.nn.modules.module import register_module_forward_pre_hook

        def look(*_: object) -> None:
            if self.received is not None:
                raise _GivenUp

        hook = register_module_forward_pre_hook(look)
        try:
            with all_threads():
                yield
        except _GivenUp:
            stderr.print(f"{what} is given up; the same command makes up for it.")
        finally:
            hook.remove()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        again = " Ctrl-C again stops at once, without." if number == signal.SIGINT else ""
        acknowledge(f"{self.received.name}: stopping after this step, with a checkpoint.{again}")
