"""Where images come from. ``open_source`` lists them; nothing is decoded and nothing unpacked.

Each kind of source is a file in this folder, found by being there: see `ImageSource`.
"""

from discli.data.images import ImageError
from discli.data.sources._common import (
    DATASET_JSON,
    MAX_BYTES,
    Entry,
    ImageSource,
    Locator,
    OpenFiles,
    Reader,
    checked,
    is_image,
    one_split,
    printable,
)
from discli.data.sources._open import Source, open_source

__all__ = [
    "DATASET_JSON",
    "MAX_BYTES",
    "Entry",
    "ImageError",
    "ImageSource",
    "Locator",
    "OpenFiles",
    "Reader",
    "Source",
    "checked",
    "is_image",
    "one_split",
    "open_source",
    "printable",
]
