"""Writing a data file so that it can be killed at any byte and continued."""

import errno
import os
import queue
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from discli.data.layout import ROWS_AT, UNFINISHED, Numbers, by_shape, check_layout, wrap_rows_in_hdf5
from discli.data.resume_log import ResumeLog, State, resume_log_of
from discli.recipe.contract import DataContract
from discli.runtime.console import format_bytes
from discli.runtime.errors import DiscliError
from discli.runtime.files import sync, write_text

Rows = npt.NDArray[np.generic]

PARTIAL = ".partial"  # at the end of an unfinished file's name
_SECONDS_BETWEEN_COMMITS = 1.0
_NAME_BYTES = 100  # what an image's name and label take, generously


class _Appended(NamedTuple):
    rows: Rows
    end: int
    skipped: Sequence[tuple[int, str]]
    upscaled: int
    shapes: Numbers | None


class StoreWriter:
    """Appends rows to ``OUT.partial`` in a thread of its own; ``finish`` makes it ``OUT``.

    A context manager: leaving it early keeps what is written for the next run, which finds in ``state``
    how far it got. Rows and the settings they came from being equal, so is the finished file.
    """

    def __init__(self, out: Path, contract: DataContract, positions: range, settings: dict[str, Any]) -> None:
        """``contract.num_samples`` is the most rows there can be; ``positions`` the source's images to come.

        Raises DiscliError when ``out`` cannot be written, is being written by another run, was begun
        with other settings, or when the disk has too little room.
        """
        check_layout()
        self.out = out
        self.partial = partial_of(out)
        self._contract, self._positions = contract, positions
        self._row_bytes = int(np.prod(contract.row_shape)) * np.dtype(contract.dtype).itemsize
        self._queue: queue.Queue[_Appended | None] = queue.Queue(maxsize=4)
        self._error: BaseException | None = None
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._log = ResumeLog(out, settings)
        except OSError as error:
            raise DiscliError(f"Cannot write {out}: {error.strerror}.", "Choose another --out.") from None
        try:
            if out.exists():
                raise DiscliError(f"{out} is there already.", "Choose another --out, or delete it.")
            self._begin()
        except BaseException as error:
            self._log.close(remove=not self._log.begun)
            if isinstance(error, OSError):
                raise DiscliError(f"Cannot write {self.partial}: {error.strerror}.", "Choose another --out.") from None
            raise
        # Waited for in place of the thread: Python 3.11 takes a thread whose ``join`` was interrupted for ended.
        self._written = threading.Event()

    def _begin(self) -> None:
        size = self.partial.stat().st_size if self.partial.exists() else 0
        self._check_room(size)
        self.state = self._log.resume(self._positions.start, max(0, size - ROWS_AT) // self._row_bytes)
        self.partial.touch()
        self._file = self.partial.open("r+b", buffering=0)
        self._file.truncate(ROWS_AT + self.state.rows * self._row_bytes)
        self._file.write(UNFINISHED.ljust(ROWS_AT, b"\0"))
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        threading.Thread(target=self._write_behind, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._written.is_set():
            self._queue.put(None)
            self._written.wait()
        self._file.close()
        self._log.close()

    def append(
        self,
        rows: Rows,
        end: int,
        skipped: Sequence[tuple[int, str]] = (),
        upscaled: int = 0,
        shapes: Numbers | None = None,
    ) -> None:
        """``rows`` (k, *row_shape) in order; all positions before ``end`` are dealt with by now.

        ``shapes`` (k,): where there are several, the number of each row's.
        Returns at once unless several batches wait already. Raises what writing earlier ones raised.
        """
        self._raise_error()
        self._queue.put(_Appended(rows, end, skipped, upscaled, shapes))

    def settle(self) -> State:
        """Waits until everything appended is on disk; no more can be appended."""
        self._queue.put(None)
        self._written.wait()
        self._raise_error()
        return self.state

    def finish(
        self,
        contract: DataContract,
        names: Sequence[str],
        labels: npt.NDArray[np.int64] | None,
        skipped: Sequence[str],
        positions: tuple[int, int, int],
    ) -> None:
        """After ``settle``: the final name, for a file with this contract.

        ``skipped``: name, tab, reason. ``positions``: which of the source's images the file covers,
        (start, stop, total).
        """
        self._file.truncate(ROWS_AT + self.state.rows * self._row_bytes)
        self._file.close()
        moments = self.state.moments if contract.shard is not None else None
        shapes = np.array(self.state.shapes, np.uint8) if contract.shapes else None
        wrap_rows_in_hdf5(self.partial, contract, names, labels, skipped, positions, moments, shapes)
        write_list(skipped_of(self.out), skipped)
        self.partial.replace(self.out)
        sync(self.out.parent)
        self._log.close(remove=True)

    def discard(self) -> None:
        """Forgets the unfinished file."""
        self._file.close()
        self.partial.unlink()
        self._log.close(remove=True)

    def _check_room(self, already: int) -> None:
        rows = min(len(self._positions), self._contract.num_samples)
        needed = ROWS_AT + rows * (self._row_bytes + _NAME_BYTES)
        free = shutil.disk_usage(self.out.parent).free
        if needed - already > free:
            less = " (or give --no-flip: half of it)" if self._contract.flip_stored else ""
            raise DiscliError(
                f"{self.out} needs {format_bytes(needed)}, {self.out.parent.resolve()} has {format_bytes(free)} free.",
                f"Free some, or choose another --out{less}.",
            )

    def _raise_error(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, OSError):
            raise DiscliError(
                f"Writing {self.partial} failed: {self._error.strerror}.",
                "Make room and run the same command again: it resumes.",
            ) from None
        raise self._error

    def _write_behind(self) -> None:
        uncommitted: list[tuple[int, str]] = []
        last_commit, committed, shapes_there = time.monotonic(), self.state.end, len(self.state.shapes)
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # the queue has to drain for whoever waits to put
            rows, end, skipped, upscaled, shapes = item
            try:
                self._write(rows)
                self.state = replace(
                    self.state,
                    end=end,
                    rows=self.state.rows + len(rows),
                    upscaled=self.state.upscaled + upscaled,
                    skipped=[*self.state.skipped, *skipped] if skipped else self.state.skipped,
                )
                if shapes is None:
                    self.state.moments.add(rows, self._contract.codec)
                else:
                    self.state.shapes.extend(shapes.tolist())
                    for number, places in by_shape(shapes):
                        self.state.moments.add(self._contract.unpacked(rows[places], number), self._contract.codec)
                uncommitted += skipped
                if time.monotonic() - last_commit > _SECONDS_BETWEEN_COMMITS:
                    self._commit(uncommitted, shapes_there)
                    uncommitted, last_commit, committed = [], time.monotonic(), end
                    shapes_there = len(self.state.shapes)
            except BaseException as error:  # raised again where the next rows are appended
                self._error = error
        if self._error is None and self.state.end > committed:
            try:
                self._commit(uncommitted, shapes_there)
            except BaseException as error:
                self._error = error
        self._written.set()

    def _write(self, rows: Rows) -> None:
        view = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        while view.nbytes:
            view = view[self._file.write(view) :]

    def _commit(self, newly_skipped: list[tuple[int, str]], shapes_there: int) -> None:
        os.fsync(self._file.fileno())
        self._log.commit(self.state, newly_skipped, self.state.shapes[shapes_there:])


def forget_resume_log(out: Path) -> None:
    """A run killed between naming its file and removing the resume log leaves it behind."""
    resume_log_of(out).unlink(missing_ok=True)


def partial_of(out: Path) -> Path:
    return out.with_name(out.name + PARTIAL)


def skipped_of(out: Path) -> Path:
    return out.with_name(out.name.removesuffix(".h5") + ".skipped.txt")


def write_list(path: Path, lines: Sequence[str]) -> None:
    """One line each, in place of whatever list was there; none at all when there is nothing to list."""
    if lines:
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)
