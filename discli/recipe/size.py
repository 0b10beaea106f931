"""Height and width: of images in pixels, of what the model sees in latent cells, of its grid in patches.

A square is one number to whoever writes or reads it: ``resolution = 64``, against ``resolution = [192, 256]``.
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from discli.runtime.errors import DiscliError

_TEXT = re.compile(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?")
LARGEST = 2**14  # pixels: a slip of the finger is refused, instead of filling the memory


class Size(NamedTuple):
    """Rows and columns of pixels, cells or patches; a shape's last two numbers."""

    height: int
    width: int

    @classmethod
    def square(cls, side: int) -> "Size":
        return cls(side, side)

    @property
    def is_square(self) -> bool:
        return self.height == self.width

    @property
    def area(self) -> int:
        return self.height * self.width

    def cut_into(self, side: int) -> "Size":
        """How many squares of ``side`` lie in it, down and across."""
        return Size(self.height // side, self.width // side)

    def divides_by(self, side: int) -> bool:
        return self.height % side == 0 and self.width % side == 0

    def nearest_multiple(self, side: int) -> "Size":
        """The nearest that `divides_by`, at least one square."""
        return Size(*(max(1, round(length / side)) * side for length in self))

    def __str__(self) -> str:
        return str(self.height) if self.is_square else f"{self.height}x{self.width}"

    def plain(self) -> int | list[int]:
        """As TOML and JSON have it."""
        return self.height if self.is_square else list(self)


def parse_size(text: str, flag: str) -> Size:
    """``64`` or ``192x256``, height first. Raises DiscliError."""
    found = _TEXT.fullmatch(text.strip().lower())
    size = found and Size(int(found[1]), int(found[2] or found[1]))
    if not size or max(size) > LARGEST:
        raise DiscliError(
            f"{flag} {text}: not a size.", f"Give pixels, {flag} 256, or height and width, {flag} 192x256."
        )
    return size


def parse_sizes(text: str, flag: str) -> tuple[Size, ...]:
    """One or more of `parse_size`, with commas between."""
    sizes = tuple(parse_size(part, flag) for part in text.split(","))
    if len(set(sizes)) < len(sizes):
        raise DiscliError(f"{flag} {text} names a size twice.", "Name each once.")
    return sizes


def nearest_shape(sizes: Sequence[Size], width: int, height: int) -> int:
    """The number of the one of nearest aspect ratio, by its logarithm; of equals the first."""
    if len(sizes) == 1:
        return 0
    wanted = math.log(width / height)
    return min(range(len(sizes)), key=lambda k: abs(math.log(sizes[k].width / sizes[k].height) - wanted))


def as_size(value: Any) -> Size:
    """A side, [height, width], or a `Size`. Raises ValueError for anything else."""
    lengths = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value, value]
    if len(lengths) != 2 or any(type(length) is not int or not 0 < length <= LARGEST for length in lengths):
        raise ValueError(f"give pixels from 1 to {LARGEST:,}: one number, or [height, width]")
    return Size(*lengths)


def given_size(value: Any, flag: str) -> Size:
    """`as_size` of what a caller in Python gave. Raises DiscliError."""
    try:
        return as_size(value)
    except ValueError as error:
        raise DiscliError(f"{flag} {value} is not a size: {error}.", f"Example: {flag} 192x256") from None


if TYPE_CHECKING:
    SizeField = Size
else:
    from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

    _LENGTH = {"type": "integer", "minimum": 1, "maximum": LARGEST}
    SizeField = Annotated[
        Size,
        PlainValidator(as_size),
        PlainSerializer(Size.plain, when_used="json"),
        WithJsonSchema({"anyOf": [_LENGTH, {"type": "array", "items": _LENGTH, "minItems": 2, "maxItems": 2}]}),
    ]
