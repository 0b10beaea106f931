"""The parts of a sharded encode: what they are called, which images each holds, and one file made of them."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from discli.data.grids import merge_grids
from discli.data.store import Store
from discli.data.writer import StoreWriter
from discli.recipe.differences import first_difference
from discli.runtime.errors import DiscliError

_COPIED_AT_ONCE = 1 << 26  # bytes


def part_of(out: Path, shard: tuple[int, int]) -> Path:
    """in256.h5 -> in256.shard-0-of-4.h5"""
    return out.with_name(f"{out.name.removesuffix('.h5')}.shard-{shard[0]}-of-{shard[1]}.h5")


def share(total: int, shard: tuple[int, int], align: int = 1) -> range:
    """The positions of part i of n, cut between whole slices so that sharding changes no slice."""
    i, n = shard
    slices = -(-total // align)
    return range(min(total, i * slices // n * align), min(total, (i + 1) * slices // n * align))


def find_parts(out: Path) -> list[Path]:
    """All finished parts of ``out``, in order. Raises DiscliError when one is missing, or there are none."""
    pattern = re.compile(re.escape(out.name.removesuffix(".h5")) + r"\.shard-(\d+)-of-(\d+)\.h5")
    matches = [match for path in out.parent.glob("*.h5") if (match := pattern.fullmatch(path.name))]
    counts = sorted({int(match[2]) for match in matches})
    if len(counts) != 1:
        found = "no finished parts" if not counts else f"parts of {' and of '.join(map(str, counts))}"
        raise DiscliError(
            f"There are {found} of {out}.", f"Parts are called {part_of(out, (0, 4)).name} and lie beside it."
        )
    wanted = [part_of(out, (i, counts[0])) for i in range(counts[0])]
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        raise DiscliError(
            f"{len(missing)} of {counts[0]} parts of {out} are missing or unfinished: {', '.join(missing[:4])}.",
            "Run their encode commands (again), then merge.",
        )
    return wanted


def lacks_features(out: Path) -> bool:
    """Whether ``out`` is what a merge of the parts beside it had made when it was killed, before their features."""
    held = Store(out).contract
    try:
        parts = [Store(path, parts=True).contract for path in find_parts(out)]
    except DiscliError:
        return False
    same = held.settings() == parts[0].settings() | {"shard": None}
    return same and held.num_samples == sum(part.num_samples for part in parts) and held.grids != parts[0].grids


def merge_parts(out: Path, advance: Callable[[int], object] = lambda rows: None) -> Store:
    """One finished file out of ``find_parts(out)``, equal to what one run would have written.

    Can be killed and run again like an encode; the parts stay. ``advance`` hears of rows as they are copied.
    Raises DiscliError when the parts do not belong together or leave images out.
    """
    parts = [Store(path, parts=True) for path in find_parts(out)]
    _check_together(parts)
    if out.exists():  # `lacks_features`
        return merge_grids(parts, out)
    contracts = [part.contract for part in parts]
    contract = contracts[0].model_copy(
        update={"shard": None, "grids": (), "num_samples": sum(each.num_samples for each in contracts)}
    )
    if not contract.num_samples:
        raise DiscliError(f"No part of {out} holds an image.", "See their .skipped.txt lists.")
    settings = {"merged": [part.path.name for part in parts], "source_sha256": contract.source_sha256}
    with StoreWriter(out, contract, range(contract.num_samples), settings) as writer:
        advance(writer.state.rows)
        _copy(parts, writer, advance)
        moments = writer.settle().moments
        mean, std = moments.as_model_sees(contract.codec)
        labels = [part.labels for part in parts if part.labels is not None]
        writer.finish(
            contract.model_copy(
                update={
                    "num_skipped": sum(each.num_skipped for each in contracts),
                    "num_upscaled": sum(each.num_upscaled for each in contracts),
                    "channel_mean": mean,
                    "channel_std": std,
                }
            ),
            [name for part in parts for name in part.names],
            np.concatenate(labels) if labels else None,
            [line for part in parts for line in part.skipped],
            (0, parts[0].positions[2], parts[0].positions[2]),
        )
    return merge_grids(parts, out)


def _copy(parts: list[Store], writer: StoreWriter, advance: Callable[[int], object]) -> None:
    start, already = 0, writer.state.rows
    for part in parts:
        step = max(1, _COPIED_AT_ONCE * len(part) // max(1, part.rows.nbytes))
        for first in range(max(0, already - start), len(part), step):
            rows = part.rows[first : first + step]
            writer.append(rows, start + first + len(rows))
            advance(len(rows))
        start += len(part)


def _check_together(parts: list[Store]) -> None:
    expected = 0
    for part in parts:
        held, asked = parts[0].contract.settings(), part.contract.settings()
        held["shard"] = asked["shard"] = None
        different = first_difference(held, asked)
        if different is not None:
            name, one, other = different
            raise DiscliError(
                f"{parts[0].path.name} has {name} {one}, {part.path.name} has {other}.",
                "Encode the parts from one source with the same flags.",
            )
        if part.contract.grids != parts[0].contract.grids:
            raise DiscliError(
                f"{parts[0].path.name} and {part.path.name} hold different features.",
                f"Add the same to both: discli encode {part.path.name} --features NAME",
            )
        start, stop, _ = part.positions
        if start != expected:
            raise DiscliError(
                f"{part.path.name} begins at image {start}, the part before it ends at {expected}.",
                "Encode the parts with the same --batch-size on the same kind of device.",
            )
        expected = stop
    if expected != parts[0].positions[2]:
        raise DiscliError(f"The parts end at image {expected} of {parts[0].positions[2]}.", "Encode the last again.")
