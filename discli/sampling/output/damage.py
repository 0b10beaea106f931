"""What is said of an image file or an archive that an interrupted run left behind and something else damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discli.runtime.errors import DiscliError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong within, while ``path`` is read, becomes a DiscliError."""
    try:
        yield
    except DiscliError:
        raise
    except Exception as error:  # Pillow, zipfile and NumPy raise whatever their parsers stumble over
        raise DiscliError(
            f"{path} is damaged ({error or type(error).__name__}).",
            "Remove it and run the same command again: what is missing is made again.",
        ) from None
