"""Where images are written: a folder of PNG files, one file, or nowhere.

To add a format: a class with the functions of `ImageWriter`, its name in ``_WRITERS`` and in `discli.runs.manifest`.
"""

import io
import math
import os
import shutil
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from discli.runs.manifest import Format
from discli.runtime.errors import DiscliError
from discli.runtime.files import write_beside

_Rows = np.ndarray[Any, np.dtype[np.uint8]]
_NAME_LENGTH_AT = 26  # bytes into an entry's header (APPNOTE.TXT of PKWARE, 4.3.7)
Opened = TypeVar("Opened")


class ImageWriter(Protocol):
    """Images are (B, 3, H, W) uint8 on the CPU, ``indices`` their numbers. What was written stays after a kill."""

    def done(self) -> set[int]:
        """Which images are there already, whole."""
        ...

    def write(self, indices: Sequence[int], images: Tensor) -> None: ...

    def finish(self, n: int, labels: Sequence[int] | None) -> None:
        """All n are there, and no more: bring them into their final form."""
        ...

    def read(self, indices: Sequence[int]) -> Tensor:
        """Images that are there, before or after `finish`."""
        ...

    def clear(self) -> None:
        """Delete every image, and nothing else."""
        ...


def open_writer(format: Format, folder: Path, keep: Collection[int] = ()) -> ImageWriter:
    """The writer of a format. ``keep``: numbers of images that stay readable where none are stored."""
    return Memory(keep) if format == "none" else _WRITERS[format](folder)


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
        """Each file is in its final form once it is written."""

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
        with _reading(path):
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


class _Packed(ABC, Generic[Opened]):
    """One file: images gather in ``parts/`` and are packed when all are there.

    The archive appears whole; before that, the parts are what an interrupted run resumes from."""

    def __init__(self, folder: Path, name: str) -> None:
        self.archive = folder / name
        self.parts = folder / "parts"
        self._opened: tuple[tuple[int, int, int], Opened] | None = None

    def open_archive(self) -> Opened:
        """The archive, opened once for as long as it is the same file: another process may replace it by a larger.

        Raises DiscliError where it is corrupt.
        """
        with _reading(self.archive):
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
        """Whatever the archive is read through. Raises anything where it is corrupt."""

    @abstractmethod
    def _in_parts(self) -> set[int]: ...

    @abstractmethod
    def _in_archive(self) -> set[int]: ...

    @abstractmethod
    def _pack(self, temporary: Path, n: int, labels: Sequence[int] | None) -> None: ...


class NpzFile(_Packed[_Rows]):
    """``samples.npz``, as ADM's evaluator reads it: images ``arr_0`` (N, H, W, 3) uint8, classes ``arr_1`` (N,) int64.

    Parts are .npz files of one write each; packing streams them, so that memory holds one part.

    The archive's images are mapped, (N, H, W, 3): whoever wants a few reads those alone.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "samples.npz")

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        self.parts.mkdir(exist_ok=True)
        rows = images.permute(0, 2, 3, 1).contiguous().numpy()

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, indices=np.array(indices), rows=rows)

        write_beside(self.parts / f"{indices[0]:06d}.npz", save)

    def read(self, indices: Sequence[int]) -> Tensor:
        rows = [torch.from_numpy(row.copy()) for row in self._rows(indices)]
        return torch.stack(rows).permute(0, 3, 1, 2)

    def _in_parts(self) -> set[int]:
        return set(self._places())

    def _in_archive(self) -> set[int]:
        return set(range(len(self.open_archive()))) if self.archive.is_file() else set()

    def _open(self) -> _Rows:
        with zipfile.ZipFile(self.archive) as archive:
            entry = archive.getinfo("arr_0.npy")
            with archive.open(entry) as file:
                shape = _read_header(file)
                header = file.tell()
        if entry.compress_type != zipfile.ZIP_STORED or header + math.prod(shape) != entry.file_size:
            raise ValueError(f"compressed, or cut short: less than {shape[0]:,} images")
        with self.archive.open("rb") as raw:
            raw.seek(entry.header_offset + _NAME_LENGTH_AT)
            lengths = struct.unpack("<HH", raw.read(4))  # of the name and of what is extra, which follow
        first = entry.header_offset + _NAME_LENGTH_AT + 4 + sum(lengths) + header
        return np.memmap(self.archive, np.uint8, "r", first, shape).view(np.ndarray)

    def _pack(self, temporary: Path, n: int, labels: Sequence[int] | None) -> None:
        packed = self.open_archive()[:n] if self.archive.is_file() else np.empty(0, np.uint8)
        new = self._rows(range(len(packed), n))
        first = packed[0] if len(packed) else next(new)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            # A fixed date, so that the same images make the same file.
            with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (n, *first.shape)}
                np.lib.format.write_array_header_1_0(file, header)
                # Mapped images go in one piece, through no memory of ours.
                file.write(packed.data if len(packed) else first.tobytes())
                for row in new:
                    file.write(row.tobytes())
            if labels is not None:
                with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                    np.lib.format.write_array(file, np.array(labels, dtype=np.int64))

    def _rows(self, indices: Sequence[int]) -> Iterator[_Rows]:
        """(H, W, 3) of each, from its part or else from the archive."""
        places = self._places()
        open_part, content, place_of = None, np.empty(0, np.uint8), {}
        for index in indices:
            part = places.get(index)
            if part is None:
                yield self.open_archive()[index]
                continue
            if part != open_part:
                with _reading(part), np.load(part) as arrays:
                    content, place_of = arrays["rows"], {int(i): k for k, i in enumerate(arrays["indices"])}
                open_part = part
            yield content[place_of[index]]

    def _places(self) -> dict[int, Path]:
        """Which part holds an image."""
        found: dict[int, Path] = {}
        for part in sorted(self.parts.glob("*.npz")) if self.parts.is_dir() else ():
            with _reading(part), np.load(part) as arrays:
                found |= dict.fromkeys(arrays["indices"].tolist(), part)
        return found


def _read_header(file: Any) -> tuple[int, ...]:
    """Shape of the .npy that ``file`` opens; leaves it at the first row."""
    np.lib.format.read_magic(file)
    shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(file)[0]
    return shape


class ZipFile(_Packed[zipfile.ZipFile]):
    """``samples.zip``: numbered PNG files in one, stored without compressing them again.

    The parts are the PNG files themselves."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "samples.zip")
        self._files = PngFolder(self.parts)

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        self._files.write(indices, images)

    def read(self, indices: Sequence[int]) -> Tensor:
        with _reading(self.parts if self.parts.is_dir() else self.archive):
            return torch.stack([read_png(io.BytesIO(self._bytes(index))) for index in indices])

    def _open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.archive)

    def _in_parts(self) -> set[int]:
        return self._files.done()

    def _in_archive(self) -> set[int]:
        if not self.archive.is_file():
            return set()
        names = self.open_archive().namelist()
        with _reading(self.archive):
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
        with _reading(self.archive):
            return archive.read(file_name(index))


class Memory:
    """Keeps the images of ``wanted`` numbers alone, and stores none; None: all."""

    def __init__(self, wanted: Collection[int] | None = None) -> None:
        self.wanted = wanted
        self._kept: dict[int, Tensor] = {}

    def done(self) -> set[int]:
        return set()

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        for index, image in zip(indices, images, strict=True):
            if self.wanted is None or index in self.wanted:
                self._kept[index] = image

    def finish(self, n: int, labels: Sequence[int] | None) -> None:
        pass

    def read(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._kept[index] for index in indices])

    def clear(self) -> None:
        self._kept.clear()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong within, while ``path`` is read, becomes a DiscliError."""
    try:
        yield
    except DiscliError:
        raise
    except Exception as error:  # Pillow, zipfile and NumPy raise whatever their parsers stumble over
        raise DiscliError(
            f"{path} is corrupt ({error or type(error).__name__}).",
            "Remove it and run the same command again: what is missing is made again.",
        ) from None


_WRITERS: dict[str, Callable[[Path], ImageWriter]] = {"png": PngFolder, "npz": NpzFile, "zip": ZipFile}
