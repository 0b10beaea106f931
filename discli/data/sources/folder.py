"""A folder of images: a class per sub-folder, or flat."""

import errno
import os
from pathlib import Path

from discli.data.images import ImageError
from discli.data.sources import (
    DATASET_JSON,
    MAX_BYTES,
    Entry,
    ImageSource,
    Locator,
    Reader,
    checked,
    is_image,
    printable,
)
from discli.runtime.errors import DiscliError

_OF_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)


class FolderReader:
    """Locator: (path relative to the folder,)."""

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, locator: Locator) -> bytes:
        path = Path(self.root, locator[0])
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            if error.errno not in _OF_ONE_FILE or not path.parent.is_dir():  # a disk that fails, or is gone
                raise DiscliError(
                    f"Cannot read {path}: {error.strerror}.",
                    "Bring its disk back and run the same command again: it resumes. Without the file it starts over.",
                ) from None
            raise ImageError(error.strerror or str(error)) from None
        return checked(data, len(data))


class Folder(ImageSource):
    """Every image below the folder; links are followed, each folder once."""

    kind = "folder"
    asked = 1  # after kinds that are a folder with something special in it

    @classmethod
    def matches(cls, path: Path) -> bool:
        return path.is_dir()

    def list_images(self) -> Reader:
        root = self.paths[0]
        seen: set[tuple[int, int]] = set()

        def walk(folder: str, prefix: str) -> None:
            try:
                status = os.stat(folder)  # noqa: PTH116 - a Path for each of a million files costs more than listing
                if (status.st_dev, status.st_ino) in seen:
                    return
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as children:
                    for child in children:
                        name = prefix + child.name
                        if child.is_dir():
                            walk(child.path, name + "/")
                        elif is_image(name) and child.is_file():
                            self.entries.append(Entry(printable(name), child.stat().st_size, (name,)))
            except OSError as error:
                raise DiscliError(
                    f"Cannot read {error.filename}: {error.strerror}.", "Check the path and its permissions."
                ) from None

        walk(str(root), "")
        if (root / DATASET_JSON).is_file():
            self.dataset_json = (root / DATASET_JSON).read_bytes()
        return FolderReader(str(root))
