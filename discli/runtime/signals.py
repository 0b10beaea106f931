"""Ctrl-C at a safe place.

KeyboardInterrupt raised at an arbitrary point does harm. It can leave a lock taken for good: that of a queue, a
future or a pool of threads, all of which are written in Python; whoever waits for that lock next waits
forever. In an import, libraries catch it and stay half imported; while weights are read, they turn it
into an error of their own. Where compiled code calls back into Python (pydantic's type checks,
``__del__``) it is reported and forgotten. So the ``discli`` command raises it between imports and again
when it was lost, and long work holds it until nothing is half done.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# EX_TEMPFAIL of sysexits.h: "try again later". A requeue script can test for it.
EXIT_INTERRUPTED = 75

_SECONDS_UNTIL_AGAIN = 0.02
_asked: bool | None = None  # None: nobody holds it


def answer_ctrl_c() -> None:
    """For a whole command: raises KeyboardInterrupt, in a moment if it would do harm just now. See above."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise)
        signal.signal(signal.SIGALRM, _raise)
        sys.unraisablehook = _raise_again_if_lost


def ignore_ctrl_c() -> None:
    """Call when all is done and only the interpreter's own cleaning up is left."""
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def hold_ctrl_c() -> Iterator[None]:
    """While open, the first Ctrl-C is raised by `safe_place`, or at the end; the second one at once.

    Does nothing where Ctrl-C is somebody else's: an outer block's, training's, a notebook's, another thread's.
    """
    global _asked
    before = signal.getsignal(signal.SIGINT)
    try:
        mine = before in (signal.default_int_handler, _raise)
        if mine:
            signal.signal(signal.SIGINT, _note)
    except ValueError:  # not the main thread
        mine = False
    if not mine:
        yield
        return
    _asked = False
    try:
        yield
        safe_place()
    finally:
        _asked = None
        signal.signal(signal.SIGINT, before)


def safe_place() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed while it was held."""
    if _asked:
        raise KeyboardInterrupt


def acknowledge(text: str) -> None:
    """A line on stderr from a signal handler, which may have interrupted whoever was printing there."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        _raise(number, frame)
        return
    _asked = True
    acknowledge("Stopping as soon as nothing is half done; Ctrl-C again stops at once.")


def _raise(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _raise_soon()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _raise_again_if_lost(unraisable: "UnraisableHookArgs") -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _raise_soon()
    else:
        sys.__unraisablehook__(unraisable)


def _raise_soon() -> None:
    # An alarm and no thread: starting one takes a lock, which whoever was interrupted may hold.
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_UNTIL_AGAIN)
