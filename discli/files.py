"""Writing files so that a name always stands for something whole: the old content or the new."""

import os
from collections.abc import Callable
from pathlib import Path


def write_beside(path: Path, fill: Callable[[Path], object]) -> None:
    """``fill`` a temporary file in the same folder, make sure that it is on disk, then give it its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        fill(temporary)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_beside(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's renames, outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
