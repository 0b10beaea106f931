"""What people see while they wait: messages and progress on stderr, so that stdout stays for results."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from discli.runtime.numbers import format_scaled
from discli.runtime.signals import hold_ctrl_c, safe_place

# No markup: a path or a name may hold brackets, and means them.
stderr = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

# In a log file a bar is noise; a line now and then is not.
_SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def restore_quiet() -> Iterator[None]:
    """``stderr.quiet``, which is the whole program's, is afterwards what it was before."""
    before = stderr.quiet
    try:
        yield
    finally:
        stderr.quiet = before


class Ticker:
    """Counts units of work and shows how many, how fast and how long still."""

    def __init__(
        self, bar: Progress | None, task: TaskID | None, what: str, total: int, done: int, unit: str,
        counted: tuple[int, str],
    ) -> None:  # fmt: skip
        self._bar, self._task = bar, task
        self._what, self._total, self._unit, self._counted = what, total, unit, counted
        self.done = self._start_done = done
        self._said: tuple[int, str] = (done, "")
        self._start = self._last_line = time.monotonic()

    @property
    def rate(self) -> float:
        """Units per second since the ticker started."""
        elapsed = time.monotonic() - self._start
        return (self.done - self._start_done) / elapsed if elapsed > 0 else 0.0

    def advance(self, units: int = 1, note: str = "") -> None:
        """``note`` stands at the end of the line until the next one. A safe place to stop at."""
        self.done += units
        each, what = self._counted
        rate = f"{self.rate * each:,.1f} {what}/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, rate=rate, note=note)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES and self._said != (self.done, note):
            self._last_line, self._said = time.monotonic(), (self.done, note)
            left = (self._total - self.done) / self.rate if self.rate else float("inf")
            stderr.print(
                f"{self._what}: {self.done:,}/{self._total:,} {self._unit}, {rate}, {format_seconds(left)} left"
                + (f"; {note}" if note else "")
            )
        safe_place()


@contextmanager
def progress(
    what: str, total: int, unit: str, done: int = 0, counted: tuple[int, str] | None = None
) -> Iterator[Ticker]:
    """A progress bar with rate and time left; plain lines when stderr is no terminal, or one that cannot go back.

    ``counted`` says what the rate counts, if not units: (128, "images") are in each of them. A line is printed
    only when something has changed since the last one.
    Ctrl-C waits for the next tick.
    """
    if not stderr.is_terminal or stderr.is_dumb_terminal:
        with hold_ctrl_c():
            yield Ticker(None, None, what, total, done, unit, counted or (1, unit))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,}/{task.total:,} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with hold_ctrl_c(), Progress(*columns, console=stderr, transient=False) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="", note="", unit=unit)
        yield Ticker(bar, task, what, total, done, unit, counted or (1, unit))


def format_seconds(seconds: float) -> str:
    """47 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def format_bytes(size: float) -> str:
    """Decimal units, three digits: 312 kB, 4.71 GB."""
    return format_scaled(size, ("bytes", "kB", "MB", "GB", "TB"))
