"""Outputs that end as one file: images gather in ``parts/`` and are packed when all are there."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from discli.runtime.files import write_beside


class Packed(ABC):
    """The archive appears whole; before that, the parts are what an interrupted run goes on from."""

    def __init__(self, folder: Path, name: str) -> None:
        self.archive = folder / name
        self.parts = folder / "parts"

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
    def _in_parts(self) -> set[int]: ...

    @abstractmethod
    def _in_archive(self) -> set[int]: ...

    @abstractmethod
    def _pack(self, temporary: Path, n: int, labels: Sequence[int] | None) -> None: ...
