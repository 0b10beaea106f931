"""One PNG file an image: 000000.png, 000001.png, ..."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor

from discli.runtime.files import write_beside
from discli.sampling.output.damage import reading


class PngFolder:
    """Files are whole or not there. Encoding leaves the interpreter's lock alone, so threads share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def done(self) -> set[int]:
        return {int(path.stem) for path in self.folder.glob("*.png") if path.stem.isdecimal()}

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        self.folder.mkdir(exist_ok=True)
        for _ in self._threads.map(self._write_one, indices, images):
            pass

    def finish(self, n: int, labels: Sequence[int] | None) -> None:
        for index in self.done():
            if index >= n:
                self.path(index).unlink()

    def read(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._read_one(self.path(index)) for index in indices])

    def clear(self) -> None:
        for index in self.done():
            self.path(index).unlink()
        for leftover in self.folder.glob(".*.writing"):  # of a run that was killed
            leftover.unlink(missing_ok=True)

    def path(self, index: int) -> Path:
        return self.folder / file_name(index)

    def _read_one(self, path: Path) -> Tensor:
        with reading(path):
            return read_png(path)

    def _write_one(self, index: int, image: Tensor) -> None:
        shown = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        write_beside(self.path(index), lambda temporary: shown.save(temporary, format="PNG"))


def file_name(index: int) -> str:
    return f"{index:06d}.png"


def read_png(path: Path | BinaryIO) -> Tensor:
    """(3, H, W) uint8."""
    with Image.open(path) as image:
        width, height = image.size
        flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.reshape(height, width, 3).permute(2, 0, 1)
