"""What every kind of image source has, and what several of them use. Its neighbours are one kind each."""

import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from discli.data.images import ImageError
from discli.data.labels import UNLABELLED, Labels, from_folders, from_mapping, numbered, parse_json_labels
from discli.runtime.errors import DiscliError

Locator = tuple[Any, ...]

MAX_BYTES = 1 << 30  # of one encoded image; a longer file is not an image
DATASET_JSON = "dataset.json"  # EDM's and StyleGAN's labels, beside the images
IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm", "jp2", "avif", "tga"}
    | {"heic", "heif", "jxl"}  # which Pillow does not read: they are to be missed aloud, not passed over
)

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
_HIDDEN = re.compile(r"(^|/)(\.[^./]|__MACOSX/)")
_OPEN_FILES = 16
_SHARD_NUMBER = re.compile(r"[-_.]?\d+(-of-\d+)?$")


class Reader(Protocol):
    """Gets one image's bytes from where it lies. Pickled into worker processes, so hold paths, not open files.

    Nothing is ever unpacked to disk: paths inside an archive are names and never places.
    """

    def read(self, locator: Locator) -> bytes:
        """The undecoded image file; called in any process, in any order.

        Raises ImageError for an image that cannot be had, which is skipped, and DiscliError where the
        source itself is gone, which stops the run.
        """
        ...


@dataclass(slots=True)
class Entry:
    """One image as it was listed."""

    name: str  # folders separated by /; `printable`
    size: int  # bytes, of the image or of the file it lies in: a change of it is noticed
    locator: Locator  # whatever the reader needs to find it
    label: Any = None  # int or text, where the source itself says what the image is of


class ImageSource(ABC):
    """One kind of source. To add one, put a file with a subclass and its `Reader` into this folder."""

    kind: str  # shown to users
    asked: ClassVar[int] = 0  # kinds with a lower number are asked first whether they know a path
    in_order: bool = False  # whether images keep the order they are listed in; else they are sorted by name

    def __init__(self, paths: Sequence[Path], where: Path) -> None:
        """``paths``: all that `matches`; ``where``: what the user named, for messages."""
        self.paths, self.where = paths, where
        self.entries: list[Entry] = []
        self.left_out: list[tuple[str, str]] = []  # (name, why) of what cannot even be listed
        self.class_names: Sequence[str] = ()  # where the source lists them
        self.dataset_json: bytes | None = None  # undecoded: with --labels nobody reads it

    @classmethod
    @abstractmethod
    def matches(cls, path: Path) -> bool:
        """Whether ``path``, which exists, is of this kind. By its name: a folder may hold a million files."""

    @abstractmethod
    def list_images(self) -> Reader:
        """Adds to ``entries``, decoding nothing, and returns their reader. Raises DiscliError for a corrupt source."""

    def labels(self) -> Labels:
        """(n,) int64 and class names, or none, of ``entries``; unless the user gives labels.

        From dataset.json, else from the entries' own labels, else from the sub-folders in their names.
        """
        if self.dataset_json is not None:
            where = f"{self.where}/{DATASET_JSON}"
            mapping, class_names = parse_json_labels(self.dataset_json, where)
            names = [entry.name for entry in self.entries]
            return from_mapping(names, mapping, where, class_names) if mapping else UNLABELLED
        if any(entry.label is not None for entry in self.entries):
            missing = [entry.name for entry in self.entries if entry.label is None]
            if missing:
                raise DiscliError(
                    f"{self.where}: {len(missing):,} images have no label: {missing[0]}, ...", "Give --labels FILE."
                )
            return numbered([entry.label for entry in self.entries], str(self.where), self.class_names)
        return self.labels_of_folders()

    def labels_of_folders(self) -> Labels:
        """A class per sub-folder; see `from_folders`."""
        return from_folders([entry.name for entry in self.entries], str(self.where))


class OpenFiles:
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
                "Bring it back and run the same command again: it resumes.",
            ) from None


def checked(data: bytes, size: int) -> bytes:
    """``data`` if it has ``size`` bytes and is not absurdly long. Raises ImageError."""
    if size > MAX_BYTES or len(data) > MAX_BYTES:
        raise ImageError(f"more than {MAX_BYTES >> 30} GiB in one file: not an image")
    if len(data) != size:
        raise ImageError(f"the archive is cut short: {len(data):,} of {size:,} bytes")
    return data


def is_image(name: str) -> bool:
    """By suffix; what Finder and its like leave behind (``._x.jpg``, ``__MACOSX``, hidden files) is not."""
    _, dot, suffix = name.rpartition(".")
    return bool(dot) and suffix.lower() in IMAGE_SUFFIXES and not _HIDDEN.search(name)


def printable(name: str) -> str:
    """File names need be neither UTF-8 nor a single line; names in the data file are."""
    if name.isprintable():
        return name
    return name.encode("utf-8", "backslashreplace").decode("utf-8").translate(_CONTROL)


def one_split(paths: Sequence[Path], where: Path) -> None:
    """Raises DiscliError where shards of train and test share a folder: a run over both leaks one into the other."""
    splits = sorted({_SHARD_NUMBER.sub("", path.stem) for path in paths if _SHARD_NUMBER.search(path.stem)})
    if len(splits) > 1 and "train" in splits:
        first = next(path for path in paths if path.stem.startswith("train"))
        raise DiscliError(
            f"{where} holds the splits {', '.join(splits)}.",
            f"Name one of them: '{first.parent}/train*{first.suffix}' (quoted).",
        )
