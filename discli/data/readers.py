"""Reading one image's bytes from where it lies: small objects that travel to worker processes.

A listing (folder, zip, tar, parquet) gives every image a *locator*, a short tuple; the reader of the
same kind turns it into bytes. Nothing is ever unpacked to disk, so paths inside an archive are
names and never places.
"""

import importlib
import os
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

from discli.data.images import ImageError
from discli.runtime.errors import DiscliError

Locator = tuple[Any, ...]

MAX_BYTES = 1 << 30  # of one encoded image; more is no image
_OPEN_FILES = 16

_LOCAL_HEADER = 30  # bytes before a zip member's name (APPNOTE.TXT 4.3.7)
_STORED, _DEFLATED = 0, 8


class Reader(Protocol):
    """``read`` may be called in any process, in any order. Raises ImageError."""

    def read(self, locator: Locator) -> bytes: ...


class FolderReader:
    """Locator: (path relative to the folder,)."""

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, locator: Locator) -> bytes:
        try:
            with Path(self.root, locator[0]).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from None
        return _checked(data, len(data))


class _Files:
    """Open files by path, the least recently used closed first; pickles as the paths alone."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read_at(self, which: int, size: int, offset: int) -> bytes:
        """Raises DiscliError where the archive is gone or its disk fails: no reason to skip what it holds."""
        try:
            if which not in self._open:
                if len(self._open) >= _OPEN_FILES:
                    os.close(self._open.popitem(last=False)[1])
                self._open[which] = os.open(self.paths[which], os.O_RDONLY)
            self._open.move_to_end(which)
            return os.pread(self._open[which], size, offset)
        except OSError as error:
            raise DiscliError(
                f"Cannot read {self.paths[which]}: {error.strerror}.",
                "Bring it back and run the same command again: it goes on from there.",
            ) from None


class TarReader:
    """Locator: (which tar, offset, size) of a member stored uncompressed."""

    def __init__(self, paths: list[str]) -> None:
        self._files = _Files(paths)

    def read(self, locator: Locator) -> bytes:
        which, offset, size = locator
        if size > MAX_BYTES:
            return _checked(b"", size)
        return _checked(self._files.read_at(which, size, offset), size)


class ZipReader:
    """Locator: (header offset, compressed size, size, method, crc, length of the name).

    A tenth of the time zipfile takes for each small member, by reading header and data at once.
    """

    def __init__(self, path: str) -> None:
        self._files = _Files([path])

    def read(self, locator: Locator) -> bytes:
        offset, compressed, size, method, crc, name_length = locator
        if size > MAX_BYTES or compressed > MAX_BYTES:
            return _checked(b"", size)
        guess = _LOCAL_HEADER + name_length + 64
        head = self._files.read_at(0, guess + compressed, offset)
        if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04":
            raise ImageError("no zip member where the directory says: the archive is damaged")
        start = _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        data = head[start : start + compressed]
        if len(data) < compressed:
            data = self._files.read_at(0, compressed, offset + start)
        data = _checked(_inflated(data, size, method), size)
        if zlib.crc32(data) != crc:
            raise ImageError("checksum differs: the archive is damaged")
        return data


class ParquetReader:
    """Locator: (which file, row group, row in the group) of an image column {bytes, path}."""

    def __init__(self, paths: list[str], column: str) -> None:
        self.paths, self.column = paths, column
        self._group: tuple[int, int] | None = None
        self._rows: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "column": self.column, "_group": None, "_rows": None}

    def read(self, locator: Locator) -> bytes:
        which, group, row = locator
        if self._group != (which, group):
            with pyarrow_parquet().ParquetFile(self.paths[which]) as file:
                self._rows = file.read_row_group(group, columns=[self.column]).column(self.column)
            self._group = (which, group)
        value = self._rows[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise ImageError("the row holds no bytes, only a path")
        return _checked(data, len(data))


def pyarrow_parquet() -> Any:
    """The optional pyarrow.parquet module. Raises DiscliError where it is not installed."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DiscliError("Parquet files need pyarrow.", "Install it: pip install 'discli[parquet]'") from None


def _inflated(data: bytes, size: int, method: int) -> bytes:
    if method == _STORED:
        return data
    if method != _DEFLATED:
        raise ImageError(f"zip compression method {method} is not supported (deflate and stored are)")
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error:
        raise ImageError("the zip member does not decompress: the archive is damaged") from None


def _checked(data: bytes, size: int) -> bytes:
    if size > MAX_BYTES or len(data) > MAX_BYTES:
        raise ImageError(f"more than {MAX_BYTES >> 30} GiB in one file: no image")
    if len(data) != size:
        raise ImageError(f"the archive is cut short: {len(data):,} of {size:,} bytes")
    return data
