"""``samples.zip``: numbered PNG files in one, stored without compressing them again."""

import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from discli.sampling.output.damage import reading
from discli.sampling.output.packed import Packed
from discli.sampling.output.png import PngFolder, file_name, read_png


class ZipFile(Packed[zipfile.ZipFile]):
    """The parts are the PNG files themselves."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "samples.zip")
        self._files = PngFolder(self.parts)

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        self._files.write(indices, images)

    def read(self, indices: Sequence[int]) -> Tensor:
        with reading(self.parts if self.parts.is_dir() else self.archive):
            return torch.stack([read_png(io.BytesIO(self._bytes(index))) for index in indices])

    def _open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.archive)

    def _in_parts(self) -> set[int]:
        return self._files.done()

    def _in_archive(self) -> set[int]:
        if not self.archive.is_file():
            return set()
        names = self.open_archive().namelist()
        with reading(self.archive):
            return {int(Path(name).stem) for name in names}

    def _pack(self, temporary: Path, n: int, labels: Sequence[int] | None) -> None:
        packed = self._in_archive()
        kept = len(packed) if packed == set(range(len(packed))) and len(packed) <= n else 0
        if kept:  # as it is, without a look at each of its files
            shutil.copyfile(self.archive, temporary)
        with zipfile.ZipFile(temporary, "a" if kept else "w", zipfile.ZIP_STORED) as archive:
            for index in range(kept, n):
                # A fixed date, so that the same images make the same file.
                archive.writestr(zipfile.ZipInfo(file_name(index)), self._bytes(index))

    def _bytes(self, index: int) -> bytes:
        part = self._files.path(index)
        if part.is_file():
            return part.read_bytes()
        archive = self.open_archive()
        with reading(self.archive):
            return archive.read(file_name(index))
