"""What every output offers, and the function that picks one.

To add one: a class with these four functions, its name in ``FORMATS``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from discli.sampling.output.memory import Memory
from discli.sampling.output.npz import NpzFile
from discli.sampling.output.png import PngFolder
from discli.sampling.output.zip import ZipFile


class Output(Protocol):
    """Images are (B, 3, H, W) uint8 on the CPU, ``indices`` their numbers. What was written stays after a kill."""

    def done(self) -> set[int]:
        """Which images are there already, whole."""
        ...

    def write(self, indices: Sequence[int], images: Tensor) -> None: ...

    def finish(self, n: int, labels: Sequence[int] | None) -> None:
        """All n are there: bring them into their final form, without those of a larger n before."""
        ...

    def read(self, indices: Sequence[int]) -> Tensor:
        """Images that are there, before or after `finish`."""
        ...

    def clear(self) -> None:
        """Delete every image, and nothing else."""
        ...


FORMATS: dict[str, Callable[[Path], Output]] = {"png": PngFolder, "npz": NpzFile, "zip": ZipFile, "none": Memory}


def open_output(form: str, folder: Path) -> Output:
    return FORMATS[form](folder)
