"""``samples.npz``: what ADM's evaluator reads, ``arr_0`` (N, H, W, 3) uint8 and the classes as ``arr_1`` (N,) int64."""

import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discli.runtime.files import write_beside
from discli.sampling.output.damage import reading
from discli.sampling.output.packed import Packed

_Rows = np.ndarray[Any, np.dtype[np.uint8]]
_NAME_LENGTH_AT = 26  # bytes into an entry's header (APPNOTE.TXT of PKWARE, 4.3.7)


class NpzFile(Packed[_Rows]):
    """Parts are .npz files of one write each; packing streams them, so that memory holds one part.

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
                with reading(part), np.load(part) as arrays:
                    content, place_of = arrays["rows"], {int(i): k for k, i in enumerate(arrays["indices"])}
                open_part = part
            yield content[place_of[index]]

    def _places(self) -> dict[int, Path]:
        """Which part holds an image."""
        found: dict[int, Path] = {}
        for part in sorted(self.parts.glob("*.npz")) if self.parts.is_dir() else ():
            with reading(part), np.load(part) as arrays:
                found |= dict.fromkeys(arrays["indices"].tolist(), part)
        return found


def _read_header(file: Any) -> tuple[int, ...]:
    """Shape of the .npy that ``file`` opens; leaves it at the first row."""
    np.lib.format.read_magic(file)
    shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(file)[0]
    return shape
