"""Several data files read as one: their order, whether they belong together, and what they hold together.

The parts of a sharded encode are in the order of their numbers, and are all there or refused. Files that are whole
are in the order of their names, numbers in them by value, whatever folders they lie in. So a data set is the same
however its files are listed and wherever they are, and parts are to the bit what they would be merged.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from discli.data.channel_moments import ChannelMoments, pooled
from discli.recipe.contract import DataContract
from discli.recipe.differences import first_difference
from discli.runtime.errors import DiscliError

_NAMED = 4  # files in a message
_PART = re.compile(r"\.shard-(\d+)-of-(\d+)(?=\.h5$)")


@dataclass
class Shard:
    """One file of a data set. ``rows`` and ``grids`` are mapped; ``labels`` (n,) int64."""

    path: Path
    contract: DataContract
    positions: tuple[int, int, int]
    labels: npt.NDArray[np.int64] | None
    rows: npt.NDArray[Any]
    grids: dict[str, npt.NDArray[np.float16]]
    shapes: npt.NDArray[np.uint8] | None = None  # of each sample, the number in contract.sizes; None: all alike
    moments: ChannelMoments | None = None  # exact sums, which parts hold
    start: int = 0  # the place of its first sample in the data set

    def __len__(self) -> int:
        return self.contract.num_samples


class JoinedRows:
    """Arrays of different files as one, as far as reading goes: by place, slice, or arrays of indices."""

    def __init__(self, pieces: Sequence[npt.NDArray[Any]]) -> None:
        self._pieces = pieces
        self._starts = np.cumsum([0, *(len(piece) for piece in pieces)])
        self.dtype = pieces[0].dtype
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *pieces[0].shape[1:])
        self.nbytes = sum(piece.nbytes for piece in pieces)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        """A slice has step 1; a tuple is an array of indices, and one of the same length into the next axis."""
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            return self._between(start, stop)
        if isinstance(key, int | np.integer):
            piece = int(np.searchsorted(self._starts, key, "right")) - 1
            return np.asarray(self._pieces[piece][key - self._starts[piece]])
        indices, *more = key if isinstance(key, tuple) else (key,)
        which = np.asarray(np.searchsorted(self._starts, indices, "right")) - 1
        order = np.argsort(which, kind="stable")
        pieces, firsts = np.unique(which[order], return_index=True)
        found = np.empty((len(indices), *self.shape[1 + len(more) :]), self.dtype)
        for piece, places in zip(pieces.tolist(), np.split(order, firsts[1:]), strict=False):
            within = indices[places] - self._starts[piece]
            found[places] = self._pieces[piece][(within, *(axis[places] for axis in more))]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self._between(0, len(self)).astype(dtype or self.dtype, copy=False)

    def _between(self, start: int, stop: int) -> npt.NDArray[Any]:
        found = [
            piece[max(0, start - first) : max(0, stop - first)]
            for piece, first in zip(self._pieces, self._starts.tolist(), strict=False)
            if first < stop and first + len(piece) > start
        ]
        return found[0] if len(found) == 1 else np.concatenate([self._pieces[0][:0], *found])


def in_order(shards: Sequence[Shard]) -> list[Shard]:
    """As the file's docstring says. Raises DiscliError for what is doubled, missing, or of another kind."""
    if all(shard.contract.shard is None for shard in shards):
        ordered = sorted(shards, key=lambda shard: (_by_value(shard.path.name), _content(shard)))
        held: dict[str, Shard] = {}
        for shard in ordered:
            other = held.setdefault(_content(shard), shard)
            if other is not shard and len(shard):
                raise DiscliError(f"{shard.path} holds the same images as {other.path}.", "Name each file once.")
    else:
        ordered = _in_order_of_numbers(shards)
    for before, shard in pairwise(ordered):
        shard.start = before.start + len(before)
    return ordered


def check_together(shards: Sequence[Shard]) -> None:
    """Refuse, in two lines, files ``in_order`` that were not encoded alike, or parts that leave images out."""
    first, parts = shards[0], shards[0].contract.shard is not None
    held, expected = _settings(first.contract, parts), 0
    for shard in shards:
        asked = _settings(shard.contract, parts)
        if held != asked:
            name, one, other = first_difference(held, asked) or ("", "", "")
            raise DiscliError(
                f"{first.path.name} has {name} {_said(one, other)}, {shard.path.name} has {_said(other, one)}.",
                f"Encode {'the parts from one source' if parts else 'all'} with the same flags.",
            )
        start, stop, _ = shard.positions
        if parts and start != expected:
            raise DiscliError(
                f"{shard.path.name} begins at image {start}, the part before it ends at {expected}.",
                "Encode the parts with the same --batch-size on the same kind of device.",
            )
        expected = stop
    if parts and expected != first.positions[2]:
        raise DiscliError(f"The parts end at image {expected} of {first.positions[2]}.", "Encode the last again.")


def joined_contract(shards: Sequence[Shard]) -> DataContract:
    """What ``shards``, in order and together, promise as one file; of parts, the merged file's contract."""
    contracts = [shard.contract for shard in shards]
    first = contracts[0]
    if len(shards) == 1 and first.shard is None:
        return first
    moments = [shard.moments for shard in shards if shard.moments is not None]
    if len(moments) == len(shards):
        measured = sum(moments[1:], moments[0]).of_contract(first.codec)
    else:
        measured = pooled(contracts)
    whole = first.model_copy(
        update={
            "shard": None,
            "num_samples": sum(each.num_samples for each in contracts),
            "num_skipped": sum(each.num_skipped for each in contracts),
            "num_upscaled": sum(each.num_upscaled for each in contracts),
            "grids": tuple(grid for grid in first.grids if all(grid in each.grids for each in contracts[1:])),
            **measured._asdict(),
        }
    )
    if first.shard is not None:
        return whole
    sources = list(dict.fromkeys(each.source for each in contracts))
    return whole.model_copy(
        update={
            "source": sources[0] + (f" and {len(sources) - 1:,} more" if len(sources) > 1 else ""),
            "source_sha256": hashlib.sha256("\n".join(map(_content, shards)).encode()).hexdigest(),
        }
    )


def part_of(out: Path, shard: tuple[int, int]) -> Path:
    """in256.h5 -> in256.shard-0-of-4.h5"""
    return out.with_name(f"{out.name.removesuffix('.h5')}.shard-{shard[0]}-of-{shard[1]}.h5")


def whole_name(name: str) -> str:
    """in256.shard-0-of-4.h5 -> in256.h5"""
    return _PART.sub("", name)


def _in_order_of_numbers(shards: Sequence[Shard]) -> list[Shard]:
    found: dict[int, Shard] = {}
    known = next(shard for shard in shards if shard.contract.shard is not None)
    assert known.contract.shard is not None
    total = known.contract.shard[1]
    for shard in shards:
        if shard.contract.shard is None:
            raise DiscliError(
                f"{shard.path} is a whole file, {known.path} is part {known.contract.shard[0]} of {total}.",
                "Name the parts alone, or the file that they were merged into.",
            )
        number, count = shard.contract.shard
        if count != total:
            raise DiscliError(
                f"{shard.path} is part {number} of {count}, {known.path} is one of {total}.",
                "Name the parts of one encode.",
            )
        if number in found:
            raise DiscliError(f"{shard.path} and {found[number].path} are both part {number} of {total}.", "Name one.")
        found[number] = shard
    if len(shards) == 1 and total > 1:
        path = known.path
        every, merged = path.with_name(_PART.sub(r".shard-*-of-\2", path.name)), path.with_name(whole_name(path.name))
        raise DiscliError(
            f"{path} is part {known.contract.shard[0]} of {total} of a data file.",
            f"Name all of them: '{every}'. Or merge them: discli encode --merge {merged}",
        )
    missing = [str(number) for number in range(total) if number not in found]
    if missing:
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise DiscliError(
            f"{len(missing)} of {total} parts are missing beside {known.path}: {named}.",
            "Name all parts of the encode, or run its commands (again) for those.",
        )
    return [found[number] for number in range(total)]


def _settings(contract: DataContract, parts: bool) -> Mapping[str, object]:
    settings = contract.settings() | {"shard": None}
    return settings if parts else settings | {"source_sha256": None}


def _content(shard: Shard) -> str:
    """What images a whole file was made of, and what came of them, in a line."""
    contract = shard.contract
    seen = contract.codec.statistics or (contract.channel_mean, contract.channel_std)
    return repr((contract.source_sha256, len(shard), contract.num_skipped, *seen))


def _said(value: Any, other: Any) -> Any:
    """Of a list, how many it has and the first that the other has not."""
    if not isinstance(value, list):
        return value
    place = next((k for k, (one, two) in enumerate(zip(value, other, strict=False)) if one != two), len(other))
    return f"{len(value):,}" + (f" ({place} {value[place]})" if place < len(value) else "")


def _by_value(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
