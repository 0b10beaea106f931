"""Outputs that end as one file: images gather in ``parts/`` and are packed when all are there."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from discli.runtime.files import write_beside
from discli.sampling.output.damage import reading

Opened = TypeVar("Opened")


class Packed(ABC, Generic[Opened]):
    """The archive appears whole; before that, the parts are what an interrupted run goes on from."""

    def __init__(self, folder: Path, name: str) -> None:
        self.archive = folder / name
        self.parts = folder / "parts"
        self._opened: tuple[tuple[int, int, int], Opened] | None = None

    def open_archive(self) -> Opened:
        """The archive, opened once for as long as it is the same file: another process may replace it by a larger.

        Raises DiscliError where it is damaged.
        """
        with reading(self.archive):
            status = self.archive.stat()
            file = status.st_ino, status.st_size, status.st_mtime_ns
            if self._opened is None or self._opened[0] != file:
                self._opened = file, self._open()
            return self._opened[1]

    def done(self) -> set[int]:
        return self._in_parts() | self._in_archive()

    def finish(self, n: int, labels: Sequence[int] | None) -> None:
        if self.parts.exists() or self._in_archive() != set(range(n)):
            write_beside(self.archive, lambda temporary: self._pack(temporary, n, labels))
            shutil.rmtree(self.parts, ignore_errors=True)

    def clear(self) -> None:
        self.archive.unlink(missing_ok=True)
        shutil.rmtree(self.parts, ignore_errors=True)

    @abstractmethod
    def write(self, indices: Sequence[int], images: Tensor) -> None: ...

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Tensor: ...

    @abstractmethod
    def _open(self) -> Opened:
        """Whatever the archive is read through. Raises anything where it is damaged."""

    @abstractmethod
    def _in_parts(self) -> set[int]: ...

    @abstractmethod
    def _in_archive(self) -> set[int]: ...

    @abstractmethod
    def _pack(self, temporary: Path, n: int, labels: Sequence[int] | None) -> None: ...
