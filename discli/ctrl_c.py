"""Ctrl-C at a safe place.

KeyboardInterrupt raised just anywhere can leave a lock taken for good: that of a queue, a future or a
pool of threads, all of which are written in Python. Whoever waits for that lock next waits forever. So
long work holds Ctrl-C until it comes by a place where nothing is half done.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked: bool | None = None  # None: nobody holds it


@contextmanager
def hold_ctrl_c() -> Iterator[None]:
    """While open, the first Ctrl-C is raised by `safe_place`, or at the end; the second one at once.

    Does nothing where Ctrl-C is somebody else's: an outer block's, training's, a notebook's, another thread's.
    """
    global _asked
    try:
        mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler
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
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
        raise KeyboardInterrupt
    _asked = True
    acknowledge("Stopping as soon as nothing is half done; Ctrl-C again stops at once.")
