"""``samples.zip``: numbered PNG files in one, stored without compressing them again."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from discli.sampling.output.damage import reading
from discli.sampling.output.packed import Packed
from discli.sampling.output.png import PngFolder, file_name, read_png


class ZipFile(Packed):
    """The parts are the PNG files themselves."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "samples.zip")
        self._files = PngFolder(self.parts)

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        self._files.write(indices, images)

    def read(self, indices: Sequence[int]) -> Tensor:
        with reading(self.parts if self.parts.is_dir() else self.archive):
            return torch.stack([read_png(io.BytesIO(self._bytes(index))) for index in indices])

    def _in_parts(self) -> set[int]:
        return self._files.done()

    def _in_archive(self) -> set[int]:
        if not self.archive.is_file():
            return set()
        with reading(self.archive), zipfile.ZipFile(self.archive) as archive:
            return {int(Path(name).stem) for name in archive.namelist()}

    def _pack(self, temporary: Path, n: int, labels: Sequence[int] | None) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for index in range(n):
                # A fixed date, so that the same images make the same file.
                archive.writestr(zipfile.ZipInfo(file_name(index)), self._bytes(index))

    def _bytes(self, index: int) -> bytes:
        part = self._files.path(index)
        if part.is_file():
            return part.read_bytes()
        with reading(self.archive), zipfile.ZipFile(self.archive) as archive:
            return archive.read(file_name(index))
