"""A zip of images, read where it lies."""

import zipfile
import zlib
from pathlib import Path

from discli.data.images import ImageError
from discli.data.sources import (
    DATASET_JSON,
    MAX_BYTES,
    Entry,
    ImageSource,
    Locator,
    OpenFiles,
    Reader,
    checked,
    is_image,
    printable,
)
from discli.runtime.errors import DiscliError

_LOCAL_HEADER = 30  # bytes before a zip member's name (APPNOTE.TXT 4.3.7)
_STORED, _DEFLATED = 0, 8


class ZipReader:
    """Locator: (header offset, compressed size, size, method, crc, length of the name).

    A tenth of the time zipfile takes for each small member, by reading header and data at once.
    """

    def __init__(self, path: str) -> None:
        self._files = OpenFiles([path])

    def read(self, locator: Locator) -> bytes:
        offset, compressed, size, method, crc, name_length = locator
        if size > MAX_BYTES or compressed > MAX_BYTES:
            return checked(b"", size)
        guess = _LOCAL_HEADER + name_length + 64
        head = self._files.read_at(0, guess + compressed, offset)
        if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04":
            raise ImageError("no zip member where the directory says: the archive is corrupt")
        start = _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        data = head[start : start + compressed]
        if len(data) < compressed:
            data = self._files.read_at(0, compressed, offset + start)
        data = checked(_inflated(data, size, method), size)
        if zlib.crc32(data) != crc:
            raise ImageError("checksum differs: the archive is corrupt")
        return data


class Zip(ImageSource):
    """Every image in a zip, by its central directory."""

    kind = "zip"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return path.suffix.lower() == ".zip"

    def list_images(self) -> Reader:
        path, *others = self.paths
        if others:
            raise DiscliError(
                f"{self.where} holds {len(self.paths)} zips.", f"Encode one of them, say {path}, or unpack them."
            )
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.is_dir() or not is_image(info.filename):
                        continue
                    # An encrypted member has no method that any reader here knows.
                    method = info.compress_type if not info.flag_bits & 1 else -1
                    stored_name = len(info.orig_filename.encode("utf-8"))
                    locator = (info.header_offset, info.compress_size, info.file_size, method, info.CRC, stored_name)
                    self.entries.append(Entry(printable(info.filename), info.file_size, locator))
                if DATASET_JSON in archive.namelist():
                    self.dataset_json = archive.read(DATASET_JSON)
        except zipfile.BadZipFile:
            raise DiscliError(
                f"{path} is no zip file, or only part of one.",
                "Fetch it again and compare its size with the original's.",
            ) from None
        except (RuntimeError, zlib.error, EOFError) as error:  # encrypted, an unknown compression, corrupt
            raise DiscliError(
                f"{path}: cannot read {DATASET_JSON}: {error}.", "Repair it, or give --labels FILE."
            ) from None
        return ZipReader(str(path))


def _inflated(data: bytes, size: int, method: int) -> bytes:
    if method == _STORED:
        return data
    if method != _DEFLATED:
        raise ImageError(f"zip compression method {method} is not supported (deflate and stored are)")
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error:
        raise ImageError("the zip member does not decompress: the archive is corrupt") from None
