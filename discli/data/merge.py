"""The parts of a sharded encode: what they are called, which images each holds, and one file made of them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py

from discli.data.grids import merge_grids
from discli.data.layout import describe_rows
from discli.data.shards import Shard, part_of
from discli.data.store import Store
from discli.data.writer import StoreWriter
from discli.recipe.data_files import joined
from discli.runtime.errors import DiscliError
from discli.runtime.files import write_beside

_COPIED_AT_ONCE = 1 << 26  # bytes


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


def lacks_features(out: Path, files: Sequence[Path] | None = None) -> bool:
    """Whether ``out`` is what a merge of its parts had made when it was killed, before their features."""
    held = Store(out).contract
    try:
        whole = Store(joined(find_parts(out) if files is None else files)).contract
    except DiscliError:
        return False
    return held.model_copy(update={"grids": whole.grids}) == whole and held.grids != whole.grids


def merge_parts(
    out: Path, files: Sequence[Path] | None = None, advance: Callable[[int], object] = lambda rows: None
) -> Store:
    """One finished file out of ``files``, by default ``find_parts(out)``, equal to what one run would have written.

    Can be killed and run again like an encode; the parts stay. ``advance`` hears of rows as they are copied.
    Raises DiscliError when the parts do not belong together or leave images out.
    """
    whole = _together(find_parts(out) if files is None else files)
    if out.exists():  # `lacks_features`
        return merge_grids(whole.shards, out)
    bare = whole.contract.model_copy(update={"grids": ()})
    settings = {"merged": [shard.path.name for shard in whole.shards], "source_sha256": bare.source_sha256}
    with StoreWriter(out, bare, range(len(whole)), settings) as writer:
        advance(writer.state.rows)
        _copy(whole.shards, writer, advance)
        writer.settle()
        writer.finish(bare, whole.names, whole.labels, whole.skipped, whole.positions)
    return merge_grids(whole.shards, out)


def merge_virtually(out: Path, files: Sequence[Path] | None = None) -> Store:
    """``out`` as an HDF5 virtual dataset of ``files``, by default ``find_parts(out)``: no row is copied.

    It names the files relative to its own folder where they lie in it or below, else by their absolute paths. Raises
    DiscliError as `merge_parts`, and where ``out`` is there already or cannot be written.
    """
    whole = _together(find_parts(out) if files is None else files)
    if out.exists():
        raise DiscliError(f"{out} is there already.", "Delete it to merge again.")
    folder = out.parent.resolve()

    def name(file: Path) -> str:
        file = file.resolve()
        return str(file.relative_to(folder) if file.is_relative_to(folder) else file)

    def fill(temporary: Path) -> None:
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
            datasets = {"samples": whole.rows, **{f"features.{name}": rows for name, rows in whole.grids.items()}}
            for dataset, rows in datasets.items():
                layout = h5py.VirtualLayout(rows.shape, rows.dtype)
                for shard in whole.shards:
                    if len(shard):
                        part = h5py.VirtualSource(name(shard.path), dataset, (len(shard), *rows.shape[1:]))
                        layout[shard.start : shard.start + len(shard)] = part
                file.create_virtual_dataset(dataset, layout)
            about = whole.names, whole.labels, whole.skipped, whole.positions, whole.shapes
            describe_rows(file, whole.contract, *about)
            file.attrs["finished"] = True

    try:
        write_beside(out, fill)
    except OSError as error:
        raise DiscliError(f"Cannot write {out}: {error.strerror or error}.", "Choose another place.") from None
    return Store(out)


def _together(files: Sequence[Path]) -> Store:
    """``files`` as one. Refuses those with different features."""
    whole = Store(joined(files))
    for shard in whole.shards:
        if shard.contract.grids != whole.contract.grids:
            less = shard if len(shard.contract.grids) == len(whole.contract.grids) else whole.shards[0]
            raise DiscliError(
                f"{whole.shards[0].path.name} and {shard.path.name} hold different features.",
                f"Add the same to both: discli encode {less.path.name} --features NAME",
            )
    return whole


def _copy(parts: Sequence[Shard], writer: StoreWriter, advance: Callable[[int], object]) -> None:
    already = writer.state.rows
    for part in parts:
        step = max(1, _COPIED_AT_ONCE * len(part) // max(1, part.rows.nbytes))
        for first in range(max(0, already - part.start), len(part), step):
            rows = part.rows[first : first + step]
            shapes = None if part.shapes is None else part.shapes[first : first + step]
            writer.append(rows, part.start + first + len(rows), shapes=shapes)
            advance(len(rows))
